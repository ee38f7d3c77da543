"""compress_gradients: real gloo ranks exchange gradients in few bits."""

from __future__ import annotations

import pytest
import ranks
import torch
from compressed_training import OPTIONS, STEPS
from contract_bits import assert_same_bits

from fastgrad import dequantize, quantize, shrinkage
from fastgrad.reference.philox import DEFAULT_SEED

NAMES = [*OPTIONS, "int8@bfloat16", "bf16@bfloat16"]


EXCHANGE = "exchange:" + ",".join(NAMES)
STEPS_AVERAGED = {"int8": 200, "int4": 200, "int8 feedback": 64}
TRAINED = ("none", "int8", "fp8_e4m3", "bf16", "int8 feedback")
CALLS = {
    2: [
        EXCHANGE,
        *(f"average:{option},{steps}" for option, steps in STEPS_AVERAGED.items()),
        f"train:30,{','.join(TRAINED)}",
        "resume:FOLDER,int8",
        "resume:FOLDER,int8 feedback",
        "unused",
        "refusals",
    ],
    3: [EXCHANGE, "nonfinite"],
}


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """(ranks, beginning of a call) -> what each rank returned of it."""
    known = {}

    def get(count: int, begin: str) -> list:
        if count not in known:
            folder = tmp_path_factory.mktemp(f"ranks{count}")
            known[count] = ranks.run("compressed_training:jobs", count, folder, str(folder), *CALLS[count], timeout=300)
        [call] = [call for call in CALLS[count] if call == begin or call.startswith((f"{begin}:", f"{begin},"))]
        return [returned[call] for returned in known[count]]

    return get


def parts_of(flat: torch.Tensor, count: int) -> list[torch.Tensor]:
    """As the docstring's equation has it, without the layout of messages: whole tiles, alike for all ranks."""
    tiles = (flat.numel() + 1023) // 1024
    size = (tiles + count - 1) // count * 1024
    return [flat[r * size : (r + 1) * size] for r in range(count)]


def round_(x: torch.Tensor, name: str, rounding: str, step: int, slot: int, number: int):
    options = {"format": name.partition("@")[0]} | OPTIONS[name.partition("@")[0]]
    format = options["format"]
    scaled = format != "bf16"
    return quantize(
        [x], format, rounding=rounding, scale="block" if scaled else "none",
        block=options.get("block", 128), seed=DEFAULT_SEED, step=step, slot=slot, purpose="communication", ids=[number],
    )  # fmt: skip


@pytest.mark.parametrize("count", (2, 3))
@pytest.mark.parametrize("name", NAMES)
def test_ranks_have_the_bits_of_the_equation(count, name, result):
    """sent_r = Q(g_r), mean = Q(sum of sent_r / R), written out in one process."""
    every = [steps[name] for steps in result(count, "exchange")]
    rounding = OPTIONS[name.partition("@")[0]].get("rounding", "stochastic")
    feedback = OPTIONS[name.partition("@")[0]].get("error_feedback", False)
    for step in range(STEPS):
        buckets = [every[r][step]["buckets"] for r in range(count)]
        assert step == 0 or len(buckets[0]) > 1, "several buckets were expected once DDP has made them anew"
        sums = torch.zeros(3, dtype=torch.float64)
        for b, (index, names, _, got) in enumerate(buckets[0]):
            assert all(buckets[r][b][:2] == [index, names] for r in range(count))
            means = []
            given = [parts_of(buckets[r][b][2], count) for r in range(count)]
            for part in range(count):
                number = index * count + part
                total = torch.zeros(given[0][part].numel())
                for r in range(count):
                    [q], table = round_(given[r][part], name, rounding, step, 2 * r, number)
                    total += dequantize(q, dtype=torch.float32)
                    sums += table[-1, 8:11]
                [q], _ = round_(total / count, name, "stochastic", step, 2 * part + 1, number)
                means.append(dequantize(q, dtype=got.dtype))
            if not feedback:
                for r in range(count):
                    assert_same_bits([buckets[r][b][3]], [torch.cat(means)], f"{name}, rank {r}, step {step}")
            else:  # what goes in has the errors added by the hook itself, which the record does not see
                assert all(torch.equal(buckets[r][b][3], got) for r in range(count))
        if not feedback:
            latest = every[0][step]["latest"]
            assert latest["step"] == step
            assert latest["q"] == pytest.approx(float(shrinkage.projection(sums[0], sums[1])), rel=1e-9)
            assert latest["cosine"] == pytest.approx(float(shrinkage.cosine(*sums)), rel=1e-9)
            assert all(every[r][step]["latest"] == latest for r in range(count))


@pytest.mark.parametrize("count", (2, 3))
def test_fewer_bytes_are_sent(count, result):
    for name, steps in result(count, "exchange")[0].items():
        latest = steps[-1]["latest"]
        width = {"bf16": 4, "int4": 1.25, "fp4_e2m1": 1 + 8 / 128, "fp8_e4m3": 2.125}.get(
            name.partition("@")[0], 2 + 8 / 128
        )
        ideal = latest["bytes_float32"] * width / 8
        # Headers, and buckets that are shorter than a tile for each rank.
        assert ideal <= latest["bytes_sent"] <= 1.35 * ideal + 20_000, (count, name)


@pytest.mark.parametrize("option", ("int8", "int4"))
def test_the_mean_over_steps_is_the_exact_mean(option, result):
    """Unbiased: the error of the average over S steps falls like that of S independent noises."""
    steps = STEPS_AVERAGED[option]
    for got in result(2, f"average:{option}"):
        noise = got["latest"]["noise_variance"]
        error = (got["mean"] - got["exact"]).square().mean()
        # Two ranks' noises halved, and that of the mean, which is about as large.
        expected = 1.5 * noise / steps
        assert 0.3 * expected < error < 2.0 * expected, (float(error), expected)
        assert 0.9 < got["latest"]["q"] < 1.1


def test_error_feedback_catches_up_with_what_was_rounded_away(result):
    """Nearest rounding alone leaves the same error at each step; with feedback the average comes near."""
    steps = STEPS_AVERAGED["int8 feedback"]
    for got in result(2, "average:int8 feedback"):
        error = (got["mean"] - got["exact"]).square().mean()
        # One rounding of the ranks is still on its way, the rest is the means' stochastic noise.
        assert error < 3.0 * got["latest"]["noise_variance"] / steps


def test_a_nan_of_one_rank_reaches_all(result):
    results = result(3, "nonfinite")
    for case in results[0]:
        for got in results:
            assert got[case]["bad"]["4.bias"] > 0 and got[case]["kept"], case
            assert got[case] == results[0][case]


def test_training_comes_where_exact_gradients_come(result):
    results = result(2, "train")
    for option in TRAINED:
        assert_same_bits(results[1][option][1], results[0][option][1], option)
        first, last = results[0][option][0][0], results[0][option][0][-1]
        exact = results[0]["none"][0][-1]
        assert last < 0.5 * first and abs(last - exact) < 0.02 * first, (option, first, last, exact)


@pytest.mark.parametrize("option", ("int8", "int8 feedback"))
def test_a_resumed_run_has_the_bits_of_the_uninterrupted_one(option, result):
    for rank, (whole, resumed) in enumerate(result(2, f"resume:FOLDER,{option}")):
        assert_same_bits(resumed, whole, f"{option}, rank {rank}")


def test_parameters_that_some_ranks_do_not_use(result):
    assert result(2, "unused") == [True, True]


def test_what_is_refused_says_why(result):
    for messages in result(2, "refusals"):
        got = "got torch.nn.modules.container.Sequential"
        assert messages["model"].startswith(f"model: expected a DistributedDataParallel, {got}")
        assert messages["format"].startswith("format: expected one of bf16, fp16")
        assert messages["rounding"].startswith("rounding: expected one of stochastic, nearest, truncate")
        assert messages["block"].startswith("block: expected one of 16, 32")
        assert messages["state format"] == "state_dict: expected format int8, got int4"
        assert messages["state ranks"] == "state_dict: expected ranks 2, got 9"
        assert "errors of other.weight, which the model does not have" in messages["state errors"]


def test_a_killed_rank_ends_the_others_with_an_error(tmp_path):
    ranks.assert_others_end_with_an_error("compressed_training:train_until_killed", 3, tmp_path)
