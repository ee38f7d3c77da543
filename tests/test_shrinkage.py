"""The quotients of docs/numerics.md section 8 against their definitions on vectors."""

import math

import pytest
import torch

import fastgrad
from fastgrad import shrinkage
from fastgrad.shrinkage import COLUMNS


def float64(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.fixture
def vectors():
    generator = torch.Generator().manual_seed(3)
    y = torch.randn(5, 1000, generator=generator, dtype=torch.float64) * float64(1e-20, 1e-3, 1.0, 7.0, 1e18)[:, None]
    noise = 0.3 * torch.randn(5, 1000, generator=generator, dtype=torch.float64) * y.abs().mean(1, keepdim=True)
    return y, 0.9 * y + noise


@pytest.fixture
def sums(vectors):
    y, q = vectors
    return (y * y).sum(1), (y * q).sum(1), (q * q).sum(1)


def test_columns_are_those_of_section_10():
    assert len(COLUMNS) == 16
    assert COLUMNS[:3] == ("n", "mean", "m2")
    assert COLUMNS.index("sum_yy") == 8
    assert COLUMNS[-1] == "k"


def test_column_is_a_view_and_an_unknown_one_lists_the_columns():
    table = torch.arange(32.0, dtype=torch.float64).reshape(2, 16)
    assert torch.equal(shrinkage.column(table, "sum_yq"), float64(9, 25))
    shrinkage.column(table, "n").zero_()
    assert table[:, 0].eq(0).all()
    with pytest.raises(ValueError, match=r"must be one of n, mean, m2.*got 'q'"):
        shrinkage.column(table, "q")


@pytest.mark.parametrize("read", (shrinkage.q, lambda table: shrinkage.column(table, "n")), ids=("q", "column"))
def test_the_table_of_another_op_is_refused(read):
    expected = r"table: expected float64 \[T\+1, 16\], as of quantize, .*, got "
    moments = fastgrad.gradient_moments([torch.ones(8), torch.ones(3)])
    with pytest.raises(ValueError, match=expected + r"torch\.float64 \[3, 6\]"):
        read(moments)
    with pytest.raises(ValueError, match=expected + "tuple"):
        read(fastgrad.quantize([torch.ones(8)], "int8"))
    with pytest.raises(ValueError, match=expected + r"torch\.float64 \[\]"):
        read(moments[0, 0])


def test_projection_minimizes_the_distance_to_q(vectors, sums):
    y, q = vectors
    q_k = shrinkage.projection(sums[0], sums[1])
    assert torch.allclose(q_k, torch.linalg.lstsq(y[:, :, None], q[:, :, None]).solution[:, 0, 0], rtol=1e-12)


def test_norm_ratio_is_the_quotient_of_the_norms(vectors, sums):
    y, q = vectors
    torch.testing.assert_close(shrinkage.norm_ratio(sums[0], sums[2]), q.norm(dim=1) / y.norm(dim=1))


def test_cosine_is_that_of_the_angle(vectors, sums):
    y, q = vectors
    truth = (y / y.norm(dim=1, keepdim=True) * q / q.norm(dim=1, keepdim=True)).sum(1)
    torch.testing.assert_close(shrinkage.cosine(*sums), truth)


def test_noise_variance_is_the_mean_square_of_the_residue(vectors, sums):
    y, q = vectors
    q_k = shrinkage.projection(sums[0], sums[1])
    truth = (q - q_k[:, None] * y).square().mean(1)
    value = shrinkage.noise_variance(torch.full((5,), 1000.0), *sums)
    assert torch.allclose(value, truth, rtol=1e-9, atol=0)


def test_zero_over_zero_is_a_perfect_copy():
    zero = float64(0)
    assert shrinkage.projection(zero, zero).tolist() == [1.0]
    assert shrinkage.norm_ratio(zero, zero).tolist() == [1.0]
    assert shrinkage.cosine(zero, zero, zero).tolist() == [1.0]
    assert shrinkage.noise_variance(zero, zero, zero, zero).tolist() == [0.0]


def test_everything_rounded_to_zero_has_no_direction():
    yy, zero = float64(4.0), float64(0.0)
    assert shrinkage.projection(yy, zero).tolist() == [0.0]
    assert shrinkage.norm_ratio(yy, zero).tolist() == [0.0]
    assert shrinkage.cosine(yy, zero, zero).tolist() == [0.0]
    assert shrinkage.noise_variance(float64(2), yy, zero, zero).tolist() == [0.0]


def test_sums_of_the_smallest_and_largest_floats_do_not_vanish_or_overflow():
    tiny, huge = 2.0**-298, 1e12 * 3.4e38**2  # the square of a float32 subnormal; 1e12 squares of FLT_MAX
    for sum_ in (tiny, huge):
        assert shrinkage.cosine(*float64(sum_, sum_, sum_).unsqueeze(1)).item() == pytest.approx(1, rel=1e-15)


def test_negative_rest_of_the_float32_sums_is_no_variance():
    value = shrinkage.noise_variance(float64(10), float64(1.0), float64(1.0), float64(1.0 - 1e-7))
    assert value.tolist() == [0.0]


def test_std_and_norm_are_those_of_the_elements():
    x = torch.randn(777, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 3
    n, mean, m2 = float64(777), x.mean()[None], (x - x.mean()).square().sum()[None]
    torch.testing.assert_close(shrinkage.std(n, m2), x.std(correction=0)[None])
    torch.testing.assert_close(shrinkage.norm(n, mean, m2), x.norm()[None])


def test_std_of_nothing_is_unknown():
    assert math.isnan(shrinkage.std(float64(0), float64(0)).item())
    assert shrinkage.norm(float64(0), float64(0), float64(0)).item() == 0.0


def test_a_missing_row_stays_missing():
    nan = float64(math.nan)
    for value in (
        shrinkage.projection(nan, nan),
        shrinkage.norm_ratio(nan, nan),
        shrinkage.cosine(nan, nan, nan),
        shrinkage.noise_variance(nan, nan, nan, nan),
    ):
        assert value.isnan().all()


def test_arguments_of_other_types_become_float64():
    assert shrinkage.projection(torch.tensor([2.0]), torch.tensor([1])).dtype == torch.float64
    assert shrinkage.projection(4, 2).item() == 0.5
