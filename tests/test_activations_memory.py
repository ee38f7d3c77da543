"""compress_saved_tensors: layouts, what is stored once, how long it lives, and autograd's own rules."""

from __future__ import annotations

import gc
import math
import weakref

import pytest
import torch
from contract_bits import assert_same_bits
from saved_activations import Keep, gradients, relative, restored, transformer
from torch import Tensor, nn

from fastgrad.activations import compress_saved_tensors


def layouts() -> dict[str, Tensor]:
    base = torch.randn(8, 6, 10, 12)
    return {
        "contiguous": base,
        "channels last": base.to(memory_format=torch.channels_last),
        "permuted": base.permute(3, 0, 2, 1),
        "a slice": base[:, 1:5],
        "every second": base[..., ::2],
        "a narrow column": base.view(-1, 12)[:, 3:7],
        "transposed slice": base[:, 1:5].transpose(1, 3),
        "expanded": base[:, :, :1, :1].expand(8, 6, 10, 12),
        "expanded, not dense": base[:, 1:5, :1].expand(8, 4, 10, 12),
        "no elements": base[:0],
        "one element": base[:1, :1, :1, :1],
        "no dimension": base[0, 0, 0, 0],
    }


@pytest.mark.parametrize("name", layouts())
def test_layout_is_restored(name):
    x = layouts()[name]
    (got,), _ = restored(x)
    assert (got.shape, got.stride(), got.dtype) == (x.shape, x.stride(), x.dtype)
    assert (got - x).abs().max() <= x.abs().max() / 127 if x.numel() else True


def test_windows_that_overlap_are_left_alone():
    x = torch.randn(5000).unfold(0, 100, 10)
    (got,), report = restored(x)
    assert_same_bits([got], [x], "unfold")
    assert report.left == {"overlapping": 1}


def test_an_expanded_tensor_is_stored_once():
    (_,), report = restored(torch.randn(5000, 1).expand(5000, 64))
    assert report.tensors[0].kept_bytes == 5000 + 4 * 40
    assert report.bytes_before == 20_000


def test_a_tensor_saved_more_than_once_is_stored_once():
    """By several nodes, and in several shapes of the same memory."""
    x = torch.randn(4, 25, 64)
    got, report = restored(x, x, x.view(100, 64), x.transpose(1, 2), x[:2])
    assert report.saved == report.compressed == 5 and len(report.tensors) == 2
    assert_same_bits([got[0], got[0].view(100, 64), got[0].transpose(1, 2)], [got[1], got[2], got[3]], "shared")
    assert not torch.equal(got[0][:2], got[4])


def test_a_tensor_that_was_changed_is_another():
    x = torch.randn(5000)
    got: list[Tensor] = []
    source = torch.zeros((), requires_grad=True)
    with compress_saved_tensors("int8", step=0) as saved:
        before = Keep.apply(x, source, got)
        was = x.clone()
        x.mul_(-3)
        after = Keep.apply(x, before, got)
    after.backward()
    assert len(saved.measure().tensors) == 2
    assert (got[0] - x).abs().max() < 0.2 and (got[1] - was).abs().max() < 0.1


def test_memory_that_was_given_away_is_not_mistaken():
    """Thousands of tensors come to lie where others have lain; none may get another's codes."""
    weight = torch.randn(300, requires_grad=True)
    losses, expected = [], 0.0
    with compress_saved_tensors("int8", min_elements=0) as saved:
        for i in range(2000):
            x = torch.full((300,), float(i + 1))
            losses.append((weight * x).sum())
            expected += i + 1
            if i % 100 == 99:
                torch.stack(losses).sum().backward()
                losses.clear()
    torch.testing.assert_close(weight.grad, torch.full((300,), expected), rtol=1e-5, atol=0)
    assert len(saved.measure().tensors) == 2000
    assert not saved._known


def test_noise_is_new_once_the_codes_are_gone():
    """The same batch, saved again after its graph was freed, in one context."""
    x, weight = torch.randn(300, 20), torch.randn(20, requires_grad=True)
    direction, found = torch.randn(300), []
    with compress_saved_tensors("int4", min_elements=0, exact=[direction]):
        for _ in range(2):
            found.append(torch.autograd.grad((x @ weight * direction).sum(), weight)[0])
    assert not torch.equal(*found)


def test_bytes_are_counted_as_autograd_would_hold_them():
    net, x = transformer()
    blocks: dict[int, torch.UntypedStorage] = {}
    parameters = {p.untyped_storage().data_ptr() for p in net.parameters()}

    def keep(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in parameters:
            blocks[storage.data_ptr()] = storage
        return t.detach()

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        loss = net(x).square().mean()
    with compress_saved_tensors("int8") as saved:
        other = net(x).square().mean()
    report = saved.measure()
    assert report.bytes_before == sum(s.nbytes() for s in blocks.values())
    stored = sum(t.kept_bytes for t in report.tensors)
    sizes = [math.prod(t.shape) for t in report.tensors]
    assert stored == sum(n + 4 * -(-n // 128) for n in sizes)
    assert stored < report.bytes_kept < report.bytes_before / 3
    assert report.compressed + sum(report.left.values()) == report.saved
    assert f"{report.bytes_before:,} -> {report.bytes_kept:,} bytes" in str(report)
    del loss, other


def test_nothing_is_kept_alive():
    """Neither what is compressed nor what is left alone lives longer than its graph."""
    gc.collect()
    gc.disable()
    try:
        for least in (0, 1 << 40):
            x = torch.randn(100, 100, requires_grad=True)
            with compress_saved_tensors("int8", min_elements=least):
                h = x * 1
                y = h.exp().sigmoid()
                references = [weakref.ref(h), weakref.ref(y)]
                del h
            if least == 0:
                assert references[0]() is None  # exp keeps its result, and that in codes
            y.sum().backward()
            del y
            assert [r() for r in references] == [None, None]
    finally:
        gc.enable()


def test_unpacking_twice_gives_the_same_bits():
    net, x = transformer()
    with compress_saved_tensors("int4"):
        loss = net(x).square().mean()
    first = torch.autograd.grad(loss, list(net.parameters()), retain_graph=True)
    assert_same_bits(torch.autograd.grad(loss, list(net.parameters())), first, "twice")


def test_double_backward():
    """The derivative of a derivative flows through what is restored to where it came from."""
    x, a, b = torch.randn(3, 64, 64).unbind()
    a, b = a.requires_grad_(), b.requires_grad_()

    def second(context) -> tuple[Tensor, ...]:
        with context:
            loss = ((x @ a).tanh() @ b).square().sum()
        gradient = torch.autograd.grad(loss, (a, b), create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in gradient), (a, b))

    exact = second(torch.enable_grad())
    assert 0 < relative(second(compress_saved_tensors("int8", min_elements=0)), exact) < 0.03
    assert_same_bits(second(compress_saved_tensors("int8", min_elements=1 << 40)), exact, "left alone")


def test_in_place_change_after_saving():
    """Compressed: the gradient of the value that was saved. Left alone: torch's own error."""
    source = torch.randn(5000, requires_grad=True)

    def run(least):
        with compress_saved_tensors("int8", min_elements=least):
            h = source * 1
            y = (h * h).sum()
        h.add_(100)
        return torch.autograd.grad(y, source)[0]

    assert (run(0) - 2 * source).abs().max() < 0.1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        run(1 << 40)


def test_parameter_changed_before_the_backward():
    model, x = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)), torch.randn(100, 64)
    with compress_saved_tensors("int8"):
        loss = model(x).sum()
    with torch.no_grad():
        model[1].weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation: an output of TBackward0"):
        loss.backward()


def test_in_place_operations_of_a_network():
    """What torch allows works: in-place ReLU and residual additions."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
    model, x = nn.ModuleList([first, second, nn.BatchNorm2d(8)]), torch.randn(4, 3, 16, 16)

    def loss():
        h = model[2](first(x)).relu_()
        h = second(h).add_(h).relu_()
        return h.square().mean()

    exact = gradients(model, loss)
    assert 0 < relative(gradients(model, loss, compress_saved_tensors("int8")), exact) < 0.02


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_nothing_is_saved_without_gradients(mode):
    net, x = transformer()
    with mode(), compress_saved_tensors("int8") as saved:
        net(x)
    report = saved.measure()
    assert (report.saved, report.bytes_before, report.bytes_kept, report.tensors) == (0, 0, 0, [])
    assert str(report).startswith("0 -> 0 bytes;")


def test_contexts_nest_and_end():
    x = torch.randn(5000)
    got: list[Tensor] = []
    source = torch.zeros((), requires_grad=True)
    outer, inner = compress_saved_tensors("int4", step=0), compress_saved_tensors("int8", step=0)
    with outer:
        with pytest.raises(RuntimeError, match="active already"):
            outer.__enter__()
        with pytest.raises(ZeroDivisionError), inner:
            source = Keep.apply(x, source, got)
            raise ZeroDivisionError
        source = Keep.apply(x, source, got)
    Keep.apply(x, source, got).backward()
    assert (inner.measure().compressed, outer.measure().compressed) == (1, 1)
    assert_same_bits([got[0]], [x], "outside")
    assert (got[2] - x).abs().max() < (got[1] - x).abs().max() / 5
