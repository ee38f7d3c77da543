"""Layouts, nothing at all, and the cutting of work into calls: none of them changes a bit."""

from __future__ import annotations

import pytest
import torch
from contract_backends import agree, needs_native
from contract_bits import assert_same_bits
from contract_data import DTYPES, channels_last, shaped, tensor

import fastgrad
from fastgrad.ops import sweeps

LAYOUTS = {
    "contiguous": lambda: torch.randn(12, 20),
    "transposed": lambda: torch.randn(20, 12).t(),
    "channels_last": lambda: channels_last(6, 5, 3, 7),
    "channels_last_3d": lambda: torch.randn(2, 3, 4, 5, 6).to(memory_format=torch.channels_last_3d),
    "permuted": lambda: torch.randn(3, 4, 5).permute(2, 0, 1),
    "sliced": lambda: torch.randn(64, 40)[:, ::2],
    "rows skipped": lambda: torch.randn(64, 40)[::3],
    "narrowed": lambda: torch.randn(64, 40)[5:40, 3:9],
    "offset by one": lambda: torch.randn(1025)[1:],
    "scalar": lambda: torch.randn(()),
    "ones": lambda: torch.randn(1, 7, 1).transpose(0, 2),
    "empty": lambda: torch.randn(0, 4),
}
DENSE = (
    "contiguous",
    "transposed",
    "channels_last",
    "channels_last_3d",
    "permuted",
    "offset by one",
    "scalar",
    "ones",
)


def made(layout: str) -> torch.Tensor:
    torch.manual_seed(5)
    return LAYOUTS[layout]()


def in_storage_order(t: torch.Tensor) -> torch.Tensor:
    """The elements of a dense tensor as they lie in memory; of any other, in the order of its indices."""
    order = sorted(range(t.dim()), key=lambda d: (-t.stride(d), t.shape[d] != 1)) if t.dim() else []
    return t.permute(order).reshape(-1).clone()


@needs_native
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("format", ("fp32", "bf16", "fp8_e4m3", "int4"))
def test_quantize(layout, format):
    def run():
        quantized, table = fastgrad.quantize(made(layout), format)
        values = fastgrad.dequantize(quantized)
        assert values.shape == made(layout).shape
        return [quantized.codes, quantized.scale, table, values]

    agree(run, layout)


@pytest.mark.parametrize("layout", DENSE)
@pytest.mark.parametrize("format", ("fp32", "fp8_e4m3", "int4"))
def test_dense_layouts_are_their_storage(layout, format, backend):
    """A dense tensor of any strides is the flat vector of its memory; its codes have its strides."""
    x = made(layout)
    quantized, table = fastgrad.quantize(x, format)
    flat, flat_table = fastgrad.quantize(in_storage_order(x), format)
    assert_same_bits([table], [flat_table], layout)
    if format == "int4":
        assert_same_bits([quantized.codes], [flat.codes], layout)
    else:
        assert quantized.codes.stride() == torch.empty_like(x).stride()
        assert_same_bits([in_storage_order(quantized.codes)], [flat.codes], layout)
    values = fastgrad.dequantize(quantized)
    assert values.stride() == torch.empty_like(x).stride()
    assert_same_bits([in_storage_order(values)], [fastgrad.dequantize(flat)], layout)


@pytest.mark.parametrize("layout", ("sliced", "rows skipped", "narrowed"))
def test_strided_layouts_are_their_contiguous_copy(layout, backend):
    x, copy = made(layout), made(layout).contiguous()
    around = x.untyped_storage().size() // 4
    untouched = torch.as_strided(x, (around,), (1,), 0).clone()
    assert_same_bits([fastgrad.gradient_moments([x])], [fastgrad.gradient_moments([copy])], layout)
    table, copy_table = (fastgrad.normalize_quantize_([t], "centralize", "int8") for t in (x, copy))
    assert_same_bits([table, x], [copy_table, copy], layout)
    # and what lies between the elements is still there
    x.copy_(made(layout))
    assert_same_bits([torch.as_strided(x, (around,), (1,), 0)], [untouched], layout)


@needs_native
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("method", ("centre", "centralize"))
def test_in_place(layout, method):
    def run():
        x = made(layout)
        strides = x.stride()
        table = fastgrad.normalize_quantize_([x], method, "fp8_e5m2", scale="block", block=16)
        assert x.stride() == strides
        return [x, table]

    agree(run, layout)


GRADIENTS = [(layout, kind) for layout in LAYOUTS for kind in ("same", "contiguous")]
GRADIENTS += [
    (layout, "expanded") for layout in LAYOUTS if layout not in ("scalar", "empty")
]


@needs_native
@pytest.mark.parametrize("layout, gradient", GRADIENTS)
@pytest.mark.parametrize("method", ("znorm", "centralize"))
def test_sgd_step(layout, gradient, method):
    """Parameters of any layout with gradients and momenta of others."""

    def run():
        p = made(layout)
        g = {
            "same": p * 0.5,
            "contiguous": (p * 0.5).contiguous(),
            "expanded": torch.tensor(0.25).expand(p.shape),
        }
        m = torch.zeros(p.shape)
        hyper = torch.tensor([[0.1, 0.9, 0, 0.01, 1, 0, 0, 0]], dtype=torch.float64)
        tables = [
            fastgrad.sgd_step_([p], [g[gradient]], [m], hyper, method=method, format="bf16", step=step)
            for step in range(2)
        ]
        return [p, m, *tables]

    agree(run, layout)


@pytest.mark.parametrize("outermost", ("first", "last"))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_elements_meet_their_own(layout, outermost, backend):
    """Strides that differ from the parameter's: element by element what contiguous tensors give."""
    p = made(layout)
    dims = list(range(p.dim()))
    order = dims if outermost == "first" else dims[::-1]
    g, m = (torch.randn([p.shape[d] for d in order]).permute([order.index(d) for d in dims]) for _ in range(2))
    hyper = torch.tensor([[0.1, 0.9, 0.2, 0.01, 1, 0, 0, 0]], dtype=torch.float64)
    expected = [t.clone(memory_format=torch.contiguous_format) for t in (p, m)]
    fastgrad.sgd_step_([expected[0]], [g.contiguous()], [expected[1]], hyper)
    fastgrad.sgd_step_([p], [g], [m], hyper)
    assert_same_bits([p, m], expected, layout)




@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_of_any_layout(layout, backend):
    """centralize takes dim 0, wherever it lies in memory."""
    x = made(layout)
    truth = x.double()
    if x.dim() > 1 and x.numel():
        truth = truth - truth.flatten(1).mean(dim=1).view(-1, *[1] * (x.dim() - 1))
    fastgrad.normalize_([x], "centralize")
    torch.testing.assert_close(x.double(), truth, rtol=0, atol=2e-6)


@needs_native
def test_expanded_input_is_read():
    def run():
        quantized, table = fastgrad.quantize(torch.linspace(0, 1, 9)[:, None].expand(9, 50), "int8")
        return [quantized.codes, table, fastgrad.gradient_moments([torch.ones(1).expand(3000)])]

    agree(run, "expanded")


@pytest.mark.parametrize("format", sweeps.FORMATS)
def test_nothing(format, backend):
    """Empty lists, empty tensors, and empty tensors among others (whose results they do not touch)."""
    assert fastgrad.quantize([], format)[0] == [] and fastgrad.quantize([], format)[1].shape == (1, 16)
    assert fastgrad.gradient_moments([]).tolist() == [[0, 0, 0, torch.inf, -torch.inf, 0]]
    assert fastgrad.normalize_quantize_([], "clip", format).shape == (1, 16)
    assert fastgrad.dequantize([]) == []
    empty, x = torch.zeros(0, 3), tensor("normal", 1500)
    both, table = fastgrad.quantize([empty, x, empty], format, moments=True)
    alone, alone_table = fastgrad.quantize([x], format, ids=[1], moments=True)
    assert_same_bits([both[1].codes, both[1].scale, table[1]], [alone[0].codes, alone[0].scale, alone_table[0]], format)
    assert_same_bits([table[3, :5], table[3, 6:]], [alone_table[1, :5], alone_table[1, 6:]], format)
    moments = [0, 0, 0, torch.inf, -torch.inf, 0]
    assert table[0].tolist() == [*moments, 1, 0, 0, 0, 0, 0, 0, 1, 0, 1]
    assert fastgrad.dequantize(both[0]).shape == (0, 3)


LIST_SIZES = (1000, 1, 40_000, 70_000, 3, 1024, 0, 5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", ("reversed", "each alone"))
def test_batching(order, dtype, backend):
    """Tensors of a list do not know of each other where their statistics are their own."""
    inputs = [shaped(tensor("normal", n, dtype, seed=i)) for i, n in enumerate(LIST_SIZES)]
    count = len(inputs)
    hyper = torch.tensor([[0.1, 0.9, 0, 0.01, 1, 0, 0, 0]], dtype=torch.float64)

    def run(ids: list[int]) -> dict[int, list[torch.Tensor]]:
        p = [inputs[i].flip(0).clone() for i in ids]
        m = [torch.ones_like(t, dtype=torch.float32) for t in p]
        g = [inputs[i].clone() for i in ids]
        codes, table = fastgrad.quantize(g, "fp8_e4m3", ids=ids, scale="block")
        stepped = fastgrad.sgd_step_(
            p,
            g,
            m,
            hyper,
            method="znorm",
            format="int8",
            scale="tensor",
            ids=ids,
            weight_rounding="stochastic",
        )
        normalized = fastgrad.normalize_quantize_(g, "centralize", "int4", ids=ids)
        return {
            i: [codes[k].codes, codes[k].scale, table[k], p[k], m[k], stepped[k], g[k], normalized[k]]
            for k, i in enumerate(ids)
        }

    together = run(list(range(count)))
    other = run(list(reversed(range(count)))) if order == "reversed" else {}
    for i in range(count):
        assert_same_bits(other[i] if other else run([i])[i], together[i], f"tensor {i}")


@pytest.mark.parametrize("format", ("int4", "int8", "bf16"))
def test_results_too_large_for_the_cache(format, backend):
    """Above 16 Mi elements codes are written past the cache: the same codes."""
    x = tensor("normal", 1 << 20)
    tensors = [x] * 16 + [x[1:1000]]
    large, table = fastgrad.quantize(tensors, format, ids=[3] * 17)
    small, small_table = fastgrad.quantize([x, x[1:1000]], format, ids=[3, 3])
    for k, q in enumerate(large):
        i = 0 if k < 16 else 1
        assert_same_bits([q.codes, q.scale, table[k]], [small[i].codes, small[i].scale, small_table[i]], f"tensor {k}")
