"""A small run of the generated op calls (tests/fuzz_ops.py), and that the fuzzer sees what is wrong.

The whole: ``python -m tests.fuzz_ops --calls 20000 --seed 1``, or ``pytest -m slow tests/test_fuzz_ops.py``.
"""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path
from unittest import mock

import op_calls
import pytest
import torch
from contract_backends import BACKENDS, CPU_BACKENDS, TRITON_BACKENDS, agree, needs_native

import fastgrad
from fastgrad import library
from fastgrad.ops import sweeps

# By its path: the tests are no package.
_spec = importlib.util.spec_from_file_location("fuzz_ops", Path(__file__).with_name("fuzz_ops.py"))
fuzz_ops = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fuzz_ops)

pytestmark = needs_native


def run(seed: int, count: int) -> list[str]:
    found: list[str] = []
    counts = fuzz_ops.fuzz(fuzz_ops.numbers_of(seed, count), CPU_BACKENDS, found.append)
    assert counts.pop("wrong", 0) == len(found)
    assert counts.total() == count and set(counts) == set(op_calls.OPS)
    return found


def test_generated_calls():
    assert run(7, 900) == []


@pytest.mark.slow
def test_many_generated_calls():
    assert run(8, 20_000) == []


def test_a_call_is_a_function_of_its_number():
    for number in fuzz_ops.numbers_of(3, 40):
        first, second = op_calls.op_call(number), op_calls.op_call(number)
        assert first.what == second.what
        assert fuzz_ops.difference(first.run(), second.run(), first.refused) == ""


def test_kinds_are_what_they_are_called():
    for dtype in op_calls.contract_data.DTYPES:
        x = op_calls.data("subnormal", 1000, dtype, 1)
        assert bool((x.abs() < torch.finfo(dtype).smallest_normal).all()) and x.count_nonzero() > 700
        y = op_calls.data("nonfinite", 1000, dtype, 1)
        assert 150 < torch.isnan(y).sum() < 350 and 150 < torch.isinf(y).sum() < 350


def test_one_wrong_bit_is_seen():
    """A kernel that gets the last bit of one number of its table wrong, in one call of a hundred."""
    genuine, calls = library.native.sweep, 0

    def faulty(columns, options, table):
        nonlocal calls
        done, calls = genuine(columns, options, table), calls + 1
        if calls % 100 == 50:
            ctypes.c_int64.from_address(table).value ^= 1
        return done

    with mock.patch.object(library.native, "sweep", faulty):
        assert run(7, 300) != []


def test_an_alias_that_is_not_refused_is_seen():
    with mock.patch.object(op_calls.fastgrad.ops.checks, "no_overlap", lambda *lists: None):
        found = run(7, 300)
    assert found and all("should be refused: not refused" in text for text in found)


@pytest.mark.parametrize("shape", ((3, 0), (1, 16, 0), (0, 16)))
def test_adamw_factored_rows_without_elements(shape):
    """Found here: the reference stopped at rows that have no elements; what is kept of them stays as it is."""

    def step() -> list[torch.Tensor]:
        p, g = torch.zeros(shape), torch.zeros(shape)
        other = torch.ones(3, 16)
        rows, columns = torch.full((shape[0],), 0.5), torch.full((p.numel() // max(shape[0], 1),), 0.25)
        hyper = torch.tensor([[0.1, 0.0, 0.99, 1e-8, 0.0, 0, 0, 0]], dtype=torch.float64)
        none = [torch.empty(0)] * 2
        moments = [rows, torch.ones(3)], [columns, torch.ones(16)]
        table = fastgrad.adamw_step_([p, other], [g, other * 2], none, none, *moments, hyper, ages=[1, 1])
        assert bool((rows == 0.5).all()) and bool((columns == 0.25).all())
        return [table, other, *moments[0], *moments[1]]

    agree(step, f"rows of {shape}", BACKENDS)


@pytest.mark.parametrize("method", ("centre", "autoscale"))
@pytest.mark.parametrize("shape", ((28,), (1, 28), (5000,)))
def test_a_mean_that_rounds_to_minus_zero(method, shape):
    """Found here: x - (-0) makes +0 of -0. Where a is 1 and c is 0 all kernels leave x as it is, the reference too."""

    def step() -> list[torch.Tensor]:
        x = torch.zeros(shape).view(-1)
        x[1::2], x[3] = -0.0, -1e-45  # the mean is negative and far below the smallest float32
        x = x.view(shape)
        p, state = torch.full_like(x, -0.0), torch.zeros(2, dtype=torch.float64)
        table = fastgrad.normalize_quantize_([x], method, "fp32", state=state)
        assert table[0, 6] == 1.0 and table[0, 7] == 0.0 and torch.signbit(table[0, 7])
        hyper = torch.tensor([[1.0, 0, 0, 0, 0, 0, 0, 0]], dtype=torch.float64)
        return [table, x, fastgrad.sgd_step_([p], [x.clone()], [], hyper, method=method), p]

    with CPU_BACKENDS[0].running():
        values = step()[1].view(-1)
    assert bool(torch.signbit(values[5])) and not bool(torch.signbit(values[4]))
    triton = [type(backend)(every=1) for backend in TRITON_BACKENDS]
    agree(step, f"{method} of {shape}", (*BACKENDS, *triton))


def test_every_format_and_method_is_drawn():
    """The generator reaches what there is: else a list that grew would not be tested."""
    text = " ".join(op_calls.op_call(number).what for number in fuzz_ops.numbers_of(7, 900))
    for value in (*sweeps.FORMATS, *sweeps.METHODS, *sweeps.ROUNDINGS, *op_calls.KINDS, *op_calls.LAYOUTS):
        assert f"'{value}'" in text, value
