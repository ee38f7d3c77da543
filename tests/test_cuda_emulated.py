"""What the contract tests do not ask of the CUDA part: launches, odd addresses, grids, devices that cannot serve."""

from __future__ import annotations

from functools import partial

import emulated_cuda
import pytest
import torch
from contract_bits import assert_same_bits
from contract_data import tensor

from fastgrad.ops import device_sweeps, sweeps

cuda, why = emulated_cuda.load()
pytestmark = pytest.mark.skipif(cuda is None, reason=f"the CUDA kernels are not emulated: {why}")
HYPER = torch.tensor([[0.1, 0.9, 0.0, 1e-3, 1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
SIZES = (3000, 1024, 17, 70_001, 2048)


@pytest.fixture(autouse=True)
def usual_device():
    cuda.set_schedule(0)
    cuda.set_resident_blocks(3)
    cuda.set_device()
    yield
    cuda.set_device()
    cuda.set_schedule(0)


def step(sweep, sizes=SIZES, offset: int = 0, **options) -> list[torch.Tensor]:
    """One whole step of SGD; every tensor begins `offset` elements into its memory."""

    def shifted(kind: str, n: int, seed: int) -> torch.Tensor:
        return tensor(kind, n + offset, seed=seed)[offset:]

    grads = [shifted("normal", n, i) for i, n in enumerate(sizes)]
    params = [shifted("offset", n, 10 + i) for i, n in enumerate(sizes)]
    momenta = [shifted("normal", n, 20 + i) for i, n in enumerate(sizes)]
    state = torch.zeros(2, dtype=torch.float64)
    settings = dict(method="autoscale", format="fp8_e4m3", scale="tensor", step=3) | options
    rows = [next((r for r in (4, 3, 7) if n % r == 0), 1) for n in sizes]
    table = sweep(
        grads, flags=[3] * len(sizes), rows=rows, params=params, momenta=momenta, hyper=HYPER, state=state, **settings
    )
    return [table, state, *params, *momenta]


emulated = partial(step, partial(device_sweeps.cuda_sweep, cuda))
reference = partial(step, sweeps.reference_sweep)


@pytest.mark.parametrize("count", (1, 7, 300))
def test_a_step_is_one_launch(count):
    """Whatever the number of tensors, and with statistics of all of them."""
    cuda.reset_statistics()
    emulated(sizes=(65,) * count)
    assert cuda.statistics()["launches"] == 1


@pytest.mark.parametrize("offset", (1, 2, 3, 4))
@pytest.mark.parametrize("method", ("autoscale", "centralize"))
def test_odd_addresses(offset, method):
    assert_same_bits(emulated(offset=offset, method=method), reference(offset=offset, method=method), f"{offset}")


@pytest.mark.parametrize("multiprocessors", (1, 2, 13))
@pytest.mark.parametrize("blocks", (1, 4, 26))
def test_any_grid_and_order(multiprocessors, blocks):
    """One block that does everything, up to more blocks than tasks; the order of blocks and lanes drawn anew."""
    expected = reference()
    cuda.set_device(multiprocessors=multiprocessors)
    cuda.set_resident_blocks(blocks)
    for seed in range(3):
        cuda.set_schedule(seed)
        assert_same_bits(emulated(), expected, f"schedule {seed}")


def test_grouped_by_what_fits_the_cache():
    """Statistics run ahead by a group; a cache of nothing makes a group of every tensor."""
    expected = reference(method="znorm")
    for two_reads in (False, True):
        assert_same_bits(emulated(method="znorm", two_reads=two_reads), expected, f"two_reads={two_reads}")


def test_step_and_factors_in_memory():
    """What the kernel reads from the device: the step that names the noise, a compensation factor of every tensor."""
    clock, factors = torch.tensor([3]), torch.linspace(0.5, 2.0, len(SIZES), dtype=torch.float64)
    there = {"step_address": clock.data_ptr(), "factors_address": factors.data_ptr()}
    assert_same_bits(emulated(step=0, **there), reference(step=3, factors=factors), "in memory")


@pytest.mark.parametrize(
    ("device", "message"),
    (
        ({"driver_version": 0}, "no CUDA driver"),
        ({"driver_version": 11080}, "driver supports CUDA 11.8, these kernels need 13.0"),
        ({"count": 0}, "CUDA device"),
        ({"major": 7, "minor": 0}, "compute capability 7.0 is below 7.5"),
    ),
)
def test_devices_that_cannot_serve(device, message):
    """Named before anything is launched."""
    cuda.set_device(**device)
    cuda.reset_statistics()
    assert message in cuda.cuda_unavailable(0)
    with pytest.raises(RuntimeError, match=message):
        emulated()
    assert cuda.statistics()["launches"] == 0


def test_a_device_that_is_not_there():
    assert cuda.cuda_unavailable(5) == "no CUDA device 5; there are 1"


def test_a_refused_launch_is_an_error():
    """And not remembered: the next one works."""
    cuda.fail_next_launch(701)
    with pytest.raises(RuntimeError, match="launch of the sweep"):
        emulated()
    assert_same_bits(emulated(), reference(), "after a refusal")
