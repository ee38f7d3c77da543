"""Sections 1, 6 and 8 of docs/numerics.md: tile sums, trees, moments and shrinkage sums."""

import math
import random

import pytest
import torch

from fastgrad.reference.moments import (
    add,
    empty_moments,
    merge,
    merge_all,
    moments,
    row_moments,
    shrinkage_sums,
    tile_sum,
    tree,
)

N, MEAN, M2, MIN, MAX, NONFINITE = range(6)
SIZES = [1, 2, 127, 1023, 1024, 1025, 65_536, 65_537, 200_001]


def randn(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


def truth(x: torch.Tensor) -> tuple[float, float]:
    """Mean and M2 of the finite elements, in float64 with an exactly rounded sum."""
    values = x[torch.isfinite(x)].double()
    mean = math.fsum(values.tolist()) / len(values)
    return mean, math.fsum(((values - mean) ** 2).tolist())


def check(x: torch.Tensor, tolerance: float = 1e-6) -> None:
    got, (mean, m2) = moments(x), truth(x)
    finite = x[torch.isfinite(x)].double()
    n = len(finite)
    assert got[N] == n and got[NONFINITE] == len(x) - n
    assert got[MIN] == finite.min() and got[MAX] == finite.max()
    # the error of a mean is measured in standard errors and units in the last place of the mean
    assert abs(got[MEAN].item() - mean) <= tolerance * (math.sqrt(m2 / n) + 1e-3 * abs(mean))
    assert abs(got[M2].item() - m2) <= tolerance * m2


def test_tile_sum_is_the_written_order():
    terms = randn(1024).view(8, 128)
    columns = []
    for c in range(128):
        total = torch.tensor(0.0)
        for r in range(8):
            total = total + terms[r, c]
        columns.append(total)
    for s in (64, 32, 16, 8, 4, 2, 1):
        columns = [columns[j] + columns[j + s] for j in range(s)]
    assert torch.equal(tile_sum(terms).view(torch.int32), columns[0].view(torch.int32))


@pytest.mark.parametrize("k", [1, 2, 3, 5, 8, 13, 64, 65])
def test_tree_is_the_written_order(k):
    values = randn(k).double().tolist()
    leaves = dict(enumerate(values))
    s = 1
    while s < k:
        s *= 2
    while s > 1:
        s //= 2
        for j in range(s):
            if j + s in leaves:
                leaves[j] = leaves[j] + leaves.pop(j + s)
    got = tree(torch.tensor(values, dtype=torch.float64)[:, None], add, torch.zeros(1, dtype=torch.float64))
    assert got.item() == leaves[0] and len(leaves) == 1


@pytest.mark.parametrize("n", SIZES)
def test_normal_values(n):
    check(randn(n))


@pytest.mark.parametrize("n", SIZES)
def test_large_mean(n):
    """mean/std = 1000, where sum(x^2) - n mean^2 has lost nearly every digit."""
    check(1000.0 + randn(n), tolerance=1e-5)


@pytest.mark.parametrize("scale", [1e-23, 1e-38, 1e-42, 1e18, 1e37, 2.0**-40, 2.0**50])
def test_extreme_magnitudes(scale):
    """Squares of these leave float32 on either side; 1e-42 is subnormal itself."""
    check(randn(70_000) * scale, tolerance=1e-5 if scale > 1e-40 else 1e-3)
    check((randn(70_000) + 30) * scale, tolerance=1e-4)


def test_magnitudes_mixed_within_a_tile():
    x = randn(4096) * 1e-23
    x[::100] *= 1e40
    check(x)


@pytest.mark.parametrize("scale", [1.0, 1e-23, 1e18])
def test_nonfinite_elements_are_left_out(scale):
    x = randn(150_000) * scale
    x[::7], x[3::11], x[5::1001] = math.inf, math.nan, -math.inf
    x[2048:3072] = math.nan  # a tile without a finite element
    x[65_536:131_072] = -math.inf  # and a chunk
    check(x)


def test_nothing_finite():
    for x in (torch.zeros(0), torch.full((3,), math.nan), torch.full((5000,), math.inf)):
        assert moments(x).tolist() == [0.0, 0.0, 0.0, math.inf, -math.inf, len(x)]


def test_constant_and_zero():
    """A float32 mean of these is off by units in the last place; the correction by S1 makes up for it."""
    for value in (0.0, -0.0, 3.3, 0.1, 1 / 3, 1e3 / 7, -1e-30, 1e30):
        for n in (3, 905, 5000):
            exact = torch.tensor(value).double().item()
            assert moments(torch.full((n,), value))[:5].tolist() == [n, exact, 0.0, exact, exact]
    signs = moments(torch.tensor([-0.0, -0.0])).view(torch.int64)
    assert signs.tolist() == torch.tensor([2.0, 0, 0, 0, 0, 0]).double().view(torch.int64).tolist()


def test_one_element():
    for value in (1.5, -3e38, 1e-45, 0.1):
        x = torch.tensor([value])
        assert moments(x)[:5].tolist() == [1.0, x.item(), 0.0, x.item(), x.item()]


def root_mean_square(errors: list[float]) -> float:
    return math.sqrt(math.fsum(e * e for e in errors) / len(errors))


@pytest.mark.parametrize("mean", [0.0, 1.0, 1000.0])
@pytest.mark.parametrize("n", [1000, 5000, 65_536])
def test_no_worse_than_two_passes_in_float32(n, mean):
    """Over many draws (a single one may have its errors cancel by luck); the sums of torch are pairwise."""
    ours, theirs = [], []
    for seed in range(20):
        x = mean + randn(n, seed)
        true_mean, true_m2 = truth(x)
        got = moments(x)
        mean32 = x.sum() / n
        m2 = ((x - mean32) * (x - mean32)).sum()
        ours.append((got[MEAN].item() - true_mean, got[M2].item() - true_m2))
        theirs.append((mean32.item() - true_mean, m2.item() - true_m2))
    our_mean, our_m2 = map(root_mean_square, zip(*ours, strict=True))
    their_mean, their_m2 = map(root_mean_square, zip(*theirs, strict=True))
    assert our_m2 <= their_m2
    # where the mean is far below the deviation either error is some 2^-23 of the mean's standard error
    assert our_mean <= max(their_mean, 2.0**-21 / math.sqrt(n))


def test_merge_of_random_splits():
    x = randn(50_000) * 3 + 10
    generator = random.Random(0)
    mean, m2 = truth(x)
    for _ in range(20):
        cuts = sorted(generator.sample(range(len(x)), generator.randint(1, 9)))
        parts = [moments(part) for part in x.tensor_split(cuts)]
        generator.shuffle(parts)
        whole = merge_all(torch.stack(parts))
        assert whole[N] == len(x)
        assert whole[MEAN].item() == pytest.approx(mean, rel=1e-8)
        assert whole[M2].item() == pytest.approx(m2, rel=1e-6)
        assert whole[MIN] == x.min() and whole[MAX] == x.max()


def test_merge_with_nothing_changes_nothing():
    empty, some = empty_moments(), moments(randn(1000))
    assert torch.equal(merge(empty, some), some)
    assert torch.equal(merge(some, empty), some)
    assert torch.equal(merge(empty, empty), empty)
    assert torch.equal(merge_all(torch.zeros(0, 6, dtype=torch.float64)), empty)


@pytest.mark.parametrize("rows, length", [(1, 5000), (3, 1), (7, 1024), (5, 1500), (40, 70_000), (4, 0)])
def test_rows_are_tensors_of_their_own(rows, length):
    x = randn(rows * length)
    expected = torch.stack([moments(row) for row in x.view(rows, length)])
    assert torch.equal(row_moments(x, rows), expected)


@pytest.mark.parametrize(
    "y_scale, q_scale", [(1.0, 1.0), (1e-23, 1e-23), (1e18, 1e18), (1e-30, 1.0), (1e37, 1e-37)]
)
def test_shrinkage_sums(y_scale, q_scale):
    y, q = randn(100_000) * y_scale, (randn(100_000, 1) + randn(100_000)) * q_scale
    y[17], y[70_000] = math.nan, math.inf
    got = shrinkage_sums(y, q)
    keep = torch.isfinite(y)
    y, q = y[keep].double(), q[keep].double()
    for value, terms in zip(got.tolist(), (y * y, y * q, q * q), strict=True):
        assert value == pytest.approx(math.fsum(terms.tolist()), rel=1e-5)


def test_shrinkage_sums_of_nothing():
    for y in (torch.zeros(0), torch.zeros(2000), torch.full((10,), math.nan)):
        assert shrinkage_sums(y, y).tolist() == [0.0, 0.0, 0.0]


def test_shrinkage_sums_of_equal_tensors_agree():
    for scale in (1.0, 1e-25, 1e25):
        y = randn(3000) * scale
        yy, yq, qq = shrinkage_sums(y, y).tolist()
        assert yy == yq == qq
