"""Bad input is refused by a message that names the argument and what would do, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from contract_bits import assert_same_bits

import fastgrad
from fastgrad.ops import checks, sweeps

F64 = torch.float64
LISTS = ("gradient_moments", "quantize", "normalize_", "normalize_quantize_", "sgd_step_")


def x() -> torch.Tensor:
    return torch.arange(1.0, 9.0)


def hyper(momentum: float = 0.9) -> torch.Tensor:
    return torch.tensor([[0.1, momentum, 0, 0, 0, 0, 0, 0]], dtype=F64)


def call(op: str, tensors, **options):
    """An op on a list of tensors, with what else it needs."""
    if op == "gradient_moments":
        return fastgrad.gradient_moments(tensors)
    if op == "quantize":
        return fastgrad.quantize(tensors, options.pop("format", "int8"), **options)
    if op == "normalize_":
        return fastgrad.normalize_(tensors, options.pop("method", "centre"), **options)
    if op == "normalize_quantize_":
        method, format = options.pop("method", "centre"), options.pop("format", "int8")
        return fastgrad.normalize_quantize_(tensors, method, format, **options)
    grads = options.pop("grads", None) or [torch.ones(getattr(t, "shape", ())) for t in tensors]
    momenta = options.pop("momenta", [torch.ones(getattr(t, "shape", ())) for t in tensors])
    return fastgrad.sgd_step_(tensors, grads, momenta, options.pop("hyper", hyper()), **options)


def refused(run: Callable[[], object], *named: str, writes: list[torch.Tensor] = ()) -> None:
    """TypeError or ValueError, naming all of `named`; the tensors `writes` keep their bits."""
    before = [t.clone() for t in writes]
    with pytest.raises((TypeError, ValueError)) as caught:
        run()
    for text in named:
        assert text in str(caught.value), f"{text!r} is not in: {caught.value}"
    assert_same_bits(list(writes), before, "written before it was refused")


NOT_FLOAT = (torch.int32, torch.int64, torch.bool, torch.float64, torch.complex64, torch.float8_e4m3fn)


@pytest.mark.parametrize("dtype", NOT_FLOAT, ids=str)
@pytest.mark.parametrize("op", LISTS)
def test_dtype(op, dtype):
    good, bad = x(), torch.zeros(8, dtype=dtype)
    refused(lambda: call(op, [good, bad]), "[1]", "float32, bfloat16 or float16", str(dtype), writes=[good])


@pytest.mark.parametrize("name", ("grads", "momenta"))
def test_dtype_beside_params(name):
    p = x()
    refused(
        lambda: call("sgd_step_", [p], **{name: [torch.ones(8, dtype=F64)]}),
        f"{name}[0]",
        "float64",
        writes=[p],
    )


@pytest.mark.parametrize("bad", (None, 3.0, "a", [1.0]), ids=str)
@pytest.mark.parametrize("op", LISTS)
def test_not_a_tensor(op, bad):
    good = x()
    refused(lambda: call(op, [good, bad]), "[1]", "expected a tensor", type(bad).__name__, writes=[good])


@pytest.mark.parametrize("op", LISTS)
def test_sparse(op):
    refused(lambda: call(op, [torch.eye(3).to_sparse()]), "[0]", "dense", "sparse_coo")


@pytest.mark.parametrize("op", LISTS)
def test_mixed_devices(op):
    good = x()
    refused(lambda: call(op, [good, x().to("meta")]), "[1]", "expected device cpu", "meta", writes=[good])


CHOICES = {
    "method": (("normalize_", "normalize_quantize_", "sgd_step_"), sweeps.METHODS),
    "alpha": (("normalize_", "normalize_quantize_", "sgd_step_"), checks.RULES),
    "format": (("quantize", "normalize_quantize_", "sgd_step_"), sweeps.FORMATS),
    "rounding": (("quantize", "normalize_quantize_", "sgd_step_"), sweeps.ROUNDINGS),
    "scale": (("quantize", "normalize_quantize_", "sgd_step_"), sweeps.SCALES),
    "stats": (("normalize_", "normalize_quantize_"), ("auto", "cached", "two_reads", "lagged")),
    "purpose": (("quantize",), sweeps.PURPOSES),
    "weight_rounding": (("sgd_step_",), ("nearest", "stochastic")),
}


@pytest.mark.parametrize("name, op", [(name, op) for name, (ops, _) in CHOICES.items() for op in ops])
def test_unknown_choice(name, op):
    t = x()
    refused(lambda: call(op, [t], **{name: "nonsense"}), name, "'nonsense'", *CHOICES[name][1], writes=[t])


GIVEN_FACTOR = {
    **{op: lambda op=op, **state: call(op, [torch.ones(8, 16)], method="autoscale", alpha="given", **state)
       for op in ("normalize_", "normalize_quantize_", "sgd_step_")},
    "adamw_step_": lambda **state: fastgrad.adamw_step_(
        *([torch.ones(8, 16)] for _ in range(3)), [torch.empty(0)], [torch.ones(8, 16)], [torch.empty(0)],
        torch.tensor([[0.1, 0.9, 0.99, 1e-8, 0, 0, 0, 0]], dtype=F64), ages=[1], method="autoscale", alpha="given",
        **state,
    ),
    "normalize_grad": lambda **state: fastgrad.normalize_grad(x(), "autoscale", alpha="given", **state),
    "quantize_grad": lambda **state: fastgrad.quantize_grad(
        x(), "int8", step=0, normalize="autoscale", alpha="given", **state
    ),
}  # fmt: skip


@pytest.mark.parametrize("op", GIVEN_FACTOR)
def test_a_given_factor_needs_a_state_that_holds_it(op):
    """The zeros of a state of our own would be the factor."""
    refused(GIVEN_FACTOR[op], "alpha: expected one of ratio_first, ", "one_plus, one; got 'given'")
    GIVEN_FACTOR[op](state=torch.tensor([0.5, 0.0], dtype=F64))


def test_a_given_factor_is_taken_from_the_state():
    t, state = torch.tensor([[1.0, 3.0]]), torch.tensor([0.5, 0.0], dtype=F64)
    fastgrad.normalize_([t], "autoscale", alpha="given", state=state)
    assert t.tolist() == [[-0.5, 0.5]] and state.tolist() == [0.5, 0.0]


def test_a_module_takes_no_given_factor():
    """Its state is its own."""
    refused(lambda: fastgrad.nn.TreatGradient("autoscale", alpha="given"), "alpha: expected one of", "one_plus, one;")


@pytest.mark.parametrize("stats", ("auto", "cached", "two_reads"))
@pytest.mark.parametrize("op", ("normalize_", "normalize_quantize_"))
def test_a_table_that_would_not_be_read(op, stats):
    t, table = x(), torch.zeros(2, 16, dtype=F64)
    refused(lambda: call(op, [t], stats=stats, previous=table), "previous: only read with stats='lagged'", writes=[t])


@pytest.mark.parametrize("block", (0, -16, 8, 48, 512, 1024))
@pytest.mark.parametrize("op", ("quantize", "normalize_quantize_", "sgd_step_"))
def test_block(op, block):
    t = x()
    named = ("block", "16, 32, 64, 128, 256", str(block))
    refused(lambda: call(op, [t], format="int8", scale="block", block=block), *named, writes=[t])


@pytest.mark.parametrize("scale", ("tensor", "block"))
@pytest.mark.parametrize("op", ("quantize", "normalize_quantize_", "sgd_step_"))
def test_fp32_takes_no_scale(op, scale):
    refused(lambda: call(op, [x()], format="fp32", scale=scale), "scale", "fp32", "'none'")


RANGES = [("step", -1), ("step", 2**31), ("slot", -1), ("slot", 4096)]


@pytest.mark.parametrize("name, value", RANGES)
@pytest.mark.parametrize("op", ("quantize", "normalize_quantize_"))
def test_noise_out_of_range(op, name, value):
    t = x()
    refused(lambda: call(op, [t], **{name: value}), name, "[0, ", str(value), writes=[t])


@pytest.mark.parametrize("op", ("quantize", "normalize_quantize_"))
def test_ids_length(op):
    refused(lambda: call(op, [x()], ids=[1, 2]), "ids", "expected 1", "got 2")


@pytest.mark.parametrize("shape", ((1, 16), (3, 16), (2, 15), (32,)), ids=str)
@pytest.mark.parametrize("op", ("normalize_", "normalize_quantize_", "sgd_step_"))
def test_lagged_table(op, shape):
    t, table = x(), torch.zeros(shape, dtype=F64)
    options = {"lagged": table} if op == "sgd_step_" else {"stats": "lagged", "previous": table}
    refused(lambda: call(op, [t], **options), "lagged", "[2, 16]", str(list(shape)), writes=[t])


@pytest.mark.parametrize("op", ("normalize_", "normalize_quantize_", "sgd_step_"))
def test_float32_table_and_state(op):
    t = x()
    table = torch.zeros(2, 16)
    options = {"lagged": table} if op == "sgd_step_" else {"stats": "lagged", "previous": table}
    refused(lambda: call(op, [t], method="znorm", **options), "lagged", "float64", writes=[t])
    refused(lambda: call(op, [t], method="autoscale", state=torch.zeros(2)), "state", "float64", writes=[t])


@pytest.mark.parametrize("name", ("grads", "momenta"))
@pytest.mark.parametrize("bad", ((7,), (2, 4), (8, 1)), ids=str)
def test_shapes(name, bad):
    p = x()
    refused(
        lambda: call("sgd_step_", [p], **{name: [torch.ones(bad)]}),
        f"{name}[0]",
        "[8]",
        str(list(bad)),
        writes=[p],
    )


@pytest.mark.parametrize("name", ("grads", "momenta"))
def test_number_of_tensors(name):
    p = x()
    refused(
        lambda: call("sgd_step_", [p, x()], **{name: [torch.ones(8)]}),
        name,
        "expected 2",
        "got 1",
        writes=[p],
    )


OVERLAPS = {
    "twice": lambda: (t := x(), [t, t])[1],
    "views": lambda: (t := x(), [t[:5], t[4:]])[1],
    "inside": lambda: (t := x(), [t, torch.ones(3), t[2:3]])[1],
    "expanded": lambda: [torch.ones(1).expand(8)],
    "expanded rows": lambda: [torch.ones(3, 1).expand(3, 4)],
    "by hand": lambda: [torch.ones(8).as_strided((3, 4), (2, 1))],
}


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("op", ("normalize_", "normalize_quantize_", "sgd_step_"))
def test_overlapping_outputs(op, overlap):
    tensors = OVERLAPS[overlap]()
    name = "params" if op == "sgd_step_" else "tensors"
    refused(lambda: call(op, tensors), name, "memory", writes=tensors)


def test_neighbours_do_not_overlap():
    """Views that touch are two tensors."""
    t = x()
    fastgrad.normalize_([t[4:], t[:4]], "centre")
    assert t.tolist() == [-1.5, -0.5, 0.5, 1.5] * 2


GIVEN = {
    "float64": torch.ones(1, dtype=F64),
    "two": torch.ones(2),
    "none": torch.ones(0),
}


@pytest.mark.parametrize("given", GIVEN)
def test_given_scales(given):
    refused(
        lambda: fastgrad.quantize([x()], "int8", scale=[GIVEN[given]]),
        "scale[0]",
        "float32 tensor of shape [1]",
    )


def test_number_of_given_scales():
    refused(lambda: fastgrad.quantize([x(), x()], "int8", scale=[torch.ones(1)]), "scale", "expected 2", "got 1")


def test_dequantize():
    stored, _ = fastgrad.quantize(x(), "int8")
    refused(lambda: fastgrad.dequantize([stored, x()]), "quantized[1]", "Quantized", "Tensor")
    for dtype in (F64, torch.int8):
        refused(
            lambda dtype=dtype: fastgrad.dequantize(stored, dtype),
            "dtype",
            "float32, bfloat16 or float16",
            str(dtype),
        )

    def altered(**fields) -> fastgrad.Quantized:
        return fastgrad.Quantized(**{**vars(stored), **fields})

    refused(lambda: fastgrad.dequantize(altered(shape=(9,))), "codes[0]", "expected 9", "got 8")
    refused(
        lambda: fastgrad.dequantize(altered(codes=stored.codes.int())),
        "codes[0]",
        "torch.int8",
        "torch.int32",
    )
    refused(lambda: fastgrad.dequantize(altered(scale=torch.ones(2))), "scales[0]", "expected 1", "got 2")
    refused(
        lambda: fastgrad.dequantize(altered(scale=torch.ones(1, dtype=F64))),
        "scales[0]",
        "float32",
        "float64",
    )
    refused(lambda: fastgrad.dequantize(altered(block=4)), "scales[0]", "expected 2", "got 1")


def test_dequantize_into_given_memory():
    stored, _ = fastgrad.quantize(x(), "fp32")

    def into(out, quantized=stored, **options):
        return lambda: fastgrad.dequantize(quantized, out=out, **options)

    refused(into(x(), dtype=torch.float32), "dtype", "expected None", "torch.float32")
    refused(into([x(), x()]), "out", "expected 1", "got 2")
    refused(into([None]), "out[0]", "expected a tensor", "NoneType")
    refused(into(torch.zeros(9)), "out[0]", "(8,)", "got ((9,)")
    refused(into(torch.zeros(16)[::2]), "out[0]", "(1,)", "(2,)")
    refused(into(x().to("meta")), "out[0]", "cpu", "meta")
    refused(into(torch.zeros(8, dtype=F64)), "out[0]", "float32, bfloat16 or float16", "float64")
    refused(into(stored.codes), "out[0]", "shares memory with codes[0]")
    one = x()
    refused(into([one, one], [stored, stored]), "out[", "shares memory")
