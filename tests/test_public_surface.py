"""The public names as a stranger meets them: help(), signatures, reprs, and what is said about mistakes."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys

import pytest
import torch
from torch import nn

import fastgrad
from fastgrad import shrinkage

MODULES = (
    fastgrad, fastgrad.optim, fastgrad.nn, fastgrad.shrinkage, fastgrad.distributed, fastgrad.theory, fastgrad.weights,
)  # fmt: skip


def public() -> dict[str, object]:
    found = {}
    for module in MODULES:
        for name in module.__all__:
            value = getattr(module, name)
            if callable(value) and value.__module__.startswith("fastgrad"):
                found[f"{module.__name__}.{name}"] = value
    return found


PUBLIC = public()


def test_there_is_something_to_look_at():
    assert len(PUBLIC) > 25 and "fastgrad.Monitor" in PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_help_says_what_it_is(name):
    """A docstring with more than a name, and an annotation for every argument and result."""
    thing = PUBLIC[name]
    assert thing.__doc__ and len(thing.__doc__.split()) >= 6, name
    function = thing.__init__ if inspect.isclass(thing) else thing
    signature = inspect.signature(function)
    for parameter in signature.parameters.values():
        if parameter.name != "self":
            assert parameter.annotation is not inspect.Parameter.empty, f"{name}({parameter.name})"
            assert parameter.kind is not inspect.Parameter.VAR_KEYWORD, f"{name}: help() does not show its options"
    assert signature.return_annotation is not inspect.Signature.empty, name


def test_dir_lists_the_public_names():
    shown = {name for name in dir(fastgrad) if not name.startswith("__")}
    assert shown == {*fastgrad.__all__, "distributed", "integrations", "theory", "weights"}
    assert all(hasattr(fastgrad, name) for name in dir(fastgrad))
    assert not hasattr(fastgrad, "nothing") and not hasattr(fastgrad.integrations, "nothing")


def test_help_of_the_package_lists_the_public_names():
    said = set(re.findall(r"\w+", fastgrad.__doc__))
    assert {name for name in dir(fastgrad) if not name.startswith("__")} <= said


def test_parts_are_loaded_when_they_are_asked_for():
    """In a process of its own: the tests import everything."""
    code = """
import sys, fastgrad
later = {"fastgrad.distributed", "fastgrad.theory", "fastgrad.integrations", "fastgrad.monitor"}
assert not later & sys.modules.keys() - before, later & sys.modules.keys() - before
assert fastgrad.theory.Constants and fastgrad.distributed.compress_gradients
assert fastgrad.integrations.causal_lm.causal_lm_loss
assert not {"transformers", "lightning", "accelerate"} & sys.modules.keys() - before
"""
    code = "import sys, torch; before = set(sys.modules)" + code
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(8, 16))]


def test_an_optimizer_prints_what_it_does_to_gradients():
    text = repr(
        fastgrad.optim.SGD(
            parameters(), normalize="clip", max_norm=2.0, grad_format="int8", scale="block", stats="lagged",
            nonfinite="skip", compensate="q",
        )
    )  # fmt: skip
    assert (
        "gradients: clip (max_norm=2) -> stochastic rounding to int8, scale per 128, statistics of the last step, "
        "step divided by its shrinkage; NaN skips the step\n" in text
    )
    assert "normalize: True" not in text and "quantize: True" not in text, "that would contradict `gradients`"
    assert "gradients: as it is\n" in repr(fastgrad.optim.SGD(parameters()))


def test_a_group_that_opts_out_says_so():
    text = repr(fastgrad.optim.SGD([{"params": parameters(), "normalize": False}], normalize="znorm"))
    assert "normalize: False" in text and "quantize: True" not in text


def test_narrow_weights_are_said_to_be_rounded():
    half = [nn.Parameter(torch.ones(8, 16, dtype=torch.bfloat16))]
    assert "weights: stochastic rounding to torch.bfloat16" in repr(fastgrad.optim.AdamW(half))
    assert "weights: nearest rounding to torch.bfloat16" in repr(fastgrad.optim.SGD(half))
    assert "weights:" not in repr(fastgrad.optim.AdamW(parameters()))


def test_reprs_are_short_and_say_what_matters():
    x = torch.ones(1000)
    assert repr(fastgrad.quantize(x, "int4", scale="block")[0]) == (
        "Quantized([1000] in int4, 8 scales, each of 128 elements, 532 bytes, from torch.float32)"
    )
    assert repr(fastgrad.quantize(x, "fp8_e4m3")[0]).startswith("Quantized([1000] in fp8_e4m3, one scale, 1,004 bytes")
    model = nn.Linear(4, 4)
    released = fastgrad.release_gradients(model, fastgrad.optim.AdamW(model.parameters()), accumulate=3)
    assert repr(released) == "Released(2 parameters of AdamW, 3 micro-batches to an update, summed in bf16)"
    released.remove()
    assert repr(released).endswith("removed)")
    assert repr(fastgrad.compress_saved_tensors("int4")).startswith("compress_saved_tensors('int4', block=128")


def test_a_quantized_is_equal_to_itself_only():
    """Comparing field by field would ask a tensor for its truth."""
    a, b = (fastgrad.quantize(torch.ones(8), "int8")[0] for _ in range(2))
    assert a == a and a != b and len({a, b}) == 2


@pytest.mark.parametrize(
    ("mistake", "error", "says"),
    [
        (lambda: fastgrad.attach(torch.optim.SGD(parameters()), normalise="znorm"), TypeError, "attach.*normalise"),
        (lambda: fastgrad.attach(parameters(), normalize="znorm"), TypeError, "a torch.optim.Optimizer, got list"),
        (lambda: fastgrad.nn.TreatGradient("zn"), ValueError, "normalize: expected one of none, centre, .*; got 'zn'"),
        (lambda: fastgrad.quantize_grad(torch.ones(3), "int8", step=0, normalize="zn"), ValueError, "^normalize: "),
        (lambda: fastgrad.quantize(torch.ones(3), "int9"), ValueError, "format: expected one of fp32, bf16"),
        (lambda: fastgrad.normalize_(torch.ones(3), "znorm"), TypeError, "expected a list of tensors, got one tensor"),
        (
            lambda: fastgrad.release_gradients(nn.Linear(4, 4), torch.optim.AdamW(parameters())),
            TypeError, r"expected one of fastgrad\.optim, got torch\.optim\.adamw\.AdamW",
        ),
        (lambda: fastgrad.Monitor(torch.optim.AdamW(parameters())), TypeError, r"got torch\.optim\.adamw\.AdamW"),
        (lambda: fastgrad.attach(nn.Linear(4, 4)), TypeError, r"got torch\.nn\.modules\.linear\.Linear"),
        (lambda: fastgrad.optim.SGD(parameters(), fused=True), TypeError, "^fused: the step is always one fused call"),
        (lambda: fastgrad.optim.AdamW(parameters(), foreach=True), TypeError, "^foreach: .*; expected it to be left"),
        (lambda: fastgrad.optim.AdamW(parameters(), amsgrad=True), TypeError, "^amsgrad: no largest second moment"),
        (lambda: fastgrad.optim.SGD(parameters(), differentiable=True), TypeError, "^differentiable: the step is not"),
        (lambda: fastgrad.optim.SGD(parameters(), momentun=0.9), TypeError, "unexpected keyword argument 'momentun'"),
        (lambda: shrinkage.column(torch.zeros(1, 16), "q"), ValueError, "sum_yy, sum_yq"),
    ],
)  # fmt: skip
def test_mistakes_are_named(mistake, error, says):
    with pytest.raises(error, match=says):
        mistake()


def test_no_normalization_is_none_everywhere():
    x = torch.randn(64, requires_grad=True)
    fastgrad.quantize_grad(x, "int8", step=0, normalize=None).sum().backward()
    assert x.grad is not None
    assert fastgrad.nn.TreatGradient(normalize=None).normalize == "none"


def test_q_of_a_table_is_the_projection_of_its_rows():
    tensors = [torch.randn(500), torch.randn(40, 3)]
    table = fastgrad.quantize(tensors, "int4", rounding="truncate")[1]
    q = shrinkage.q(table)
    assert q.shape == (3,) and bool((q < 0.95).all())
    stored = fastgrad.dequantize(fastgrad.quantize(tensors, "int4", rounding="truncate")[0])
    for i, (x, y) in enumerate(zip(tensors, stored, strict=True)):
        expected = float((x.double() * y.double()).sum() / x.double().square().sum())
        assert float(q[i]) == pytest.approx(expected, rel=1e-6)
