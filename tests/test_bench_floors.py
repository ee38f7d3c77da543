"""The lists of the benchmark, and what its floors move."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from bench import floors, gate, shapes  # noqa: E402
from bench.floors import Floor  # noqa: E402
from bench.gate import Call  # noqa: E402
from fastgrad.cifar import models  # noqa: E402

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")


@pytest.fixture(scope="module")
def lists() -> dict[str, shapes.Workspace]:
    return {dtype: shapes.workspace("tiny", dtype=dtype) for dtype in shapes.DTYPES}


@pytest.fixture
def work(lists) -> shapes.Workspace:
    return lists["fp32"]


@pytest.fixture(autouse=True)
def restored_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    torch.set_num_threads(request.param)
    return request.param


def elements(name: str) -> int:
    return sum(torch.Size(shape).numel() for shape in shapes.LISTS[name]())


def test_the_lists_are_those_that_are_named():
    assert (len(shapes.resnet56()), elements("resnet56")) == (167, 853_018)
    assert (len(shapes.gpt()), elements("gpt")) == (147, 109_632_000)
    assert elements("one") == 1 << 26


def test_resnet56_is_the_model_of_the_experiments():
    parameters = models.build("resnet56", classes=10, channels=3).parameters()
    assert sorted(tuple(p.shape) for p in parameters) == sorted(shapes.resnet56())


def test_data_is_the_same_every_time_and_reset_restores_it(work):
    again = shapes.workspace("tiny")
    assert all(map(torch.equal, work.initial["grads"], again.grads))
    for t in (*again.grads, *again.params, *again.momenta):
        t.zero_()
    again.reset()
    for name in ("grads", "params", "momenta"):
        assert all(map(torch.equal, getattr(again, name), work.initial[name]))


@needs_compiler
@pytest.mark.parametrize("window", [0, 1 << 10, 25_000])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_floor_reads_everything(lists, dtype, threads, window):
    work = lists[dtype]
    work.reset()
    truth = sum(float(g.double().sum()) for g in work.grads)
    size = sum(float(g.abs().double().sum()) for g in work.grads)
    assert abs(floors.bind(Floor("nothing", True, window=window), work)() - truth) < 1e-5 * size


def upper_bits(t: torch.Tensor, kept: int) -> torch.Tensor:
    """The first bits of float32 or bfloat16 elements, as int32."""
    width = 8 * t.element_size()
    bits = t.view(torch.int32 if width == 32 else torch.int16).view(-1).to(torch.int32)
    return (bits >> (width - kept)) & (2**kept - 1)


@needs_compiler
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("body", "kept"), [("to_u16", 16), ("to_u8", 8)])
@pytest.mark.parametrize("read_first", [False, True])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_floor_writes_every_code(lists, dtype, threads, body, kept, streaming, read_first):
    if streaming and not floors.has_streaming():
        pytest.skip("no streaming stores")
    work = lists[dtype]
    work.reset()
    call = floors.bind(Floor(body, read_first, streaming, window=9_000), work)
    for out in call.addresses.outs:
        out.fill_(-1)
    call()
    for g, out in zip(work.grads, call.addresses.outs, strict=True):
        codes = out.view(torch.uint8).view(-1)[: g.numel()] if kept == 8 else out.view(-1)
        assert torch.equal(codes.to(torch.int32) & (2**kept - 1), upper_bits(g, kept))
        rest = out.view(torch.uint8).view(-1)[g.numel() :] if kept == 8 else out[:0]
        assert bool((rest == 255).all())


@needs_compiler
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_floor_widens_every_code(lists, dtype, threads):
    work = lists[dtype]
    call = floors.bind(Floor("from_u8"), work)
    for i, out in enumerate(call.addresses.outs):
        out.view(torch.uint8).view(-1).copy_(torch.arange(2 * out.numel()).add_(i) % 251)
    call()
    for i, (g, x) in enumerate(zip(work.grads, call.addresses.seconds, strict=True)):
        assert x.dtype == g.dtype
        assert torch.equal(upper_bits(x, 8), torch.arange(g.numel(), dtype=torch.int32).add(i) % 251)


@needs_compiler
@pytest.mark.parametrize("window", [0, 9_000])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_floor_changes_in_place_once(lists, dtype, threads, window):
    work = lists[dtype]
    work.reset()
    floors.bind(Floor("in_place", window > 0, window=window), work, a=2.0, c=0.5)()
    for g, before in zip(work.grads, work.initial["grads"], strict=True):
        expected = (before.float() - 0.5) * 2.0
        if dtype == "bf16":  # floors truncate
            expected = (expected.view(torch.int32) & -65536).view(torch.float32)
        assert torch.equal(g.float(), expected)


@needs_compiler
@pytest.mark.parametrize("window", [0, 9_000])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_floor_of_momentum_is_one_step(lists, dtype, threads, window):
    work = lists[dtype]
    work.reset()
    call = Call(floors.bind(Floor("momentum", window > 0, window=window), work, mu=0.9, lr=1e-3))
    call()
    gate.momentum(work, call, None, lr=1e-3, mu=0.9, decay=0.0)
    assert all(map(torch.equal, work.grads, work.initial["grads"]))


@needs_compiler
def test_floor_of_adamw_moves_its_bytes(work, threads):
    work.reset()
    call = floors.bind(Floor("adamw"), work, mu=0.5, lr=1.0)
    for second in call.addresses.seconds:
        second.fill_(2.0)
    call()
    for i, (g, m, p) in enumerate(zip(*(work.initial[k] for k in ("grads", "momenta", "params")), strict=True)):
        torch.testing.assert_close(work.momenta[i], 0.5 * m + g)
        torch.testing.assert_close(call.addresses.seconds[i], 1.0 + g)
        torch.testing.assert_close(work.params[i], p - (work.momenta[i] + call.addresses.seconds[i]))


def test_without_a_compiler_the_message_says_so(monkeypatch):
    monkeypatch.setattr(floors.shutil, "which", lambda name: None)
    with pytest.raises(floors.NoCompiler, match="no C\\+\\+ compiler found"):
        floors._compiler()
