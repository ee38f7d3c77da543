"""fully_shard: one process and several gloo ranks end with the same bits.

All cases on three ranks, two of them on two and on two times two (replicated and sharded); checkpoints of three ranks
are resumed on two and on one. A group of processes runs all of its cases: starting one takes longer than they do.
"""

from __future__ import annotations

import pytest
import ranks
import torch
from contract_bits import assert_same_bits
from sharded_training import CASES, RELEASED, SAVED, STEPS

TWO_RANKS = ("factored", "znorm fp8")
KINDS = {
    1: [*(f"train:{case}" for case in CASES), *(f"release:{case}" for case in RELEASED)],
    3: [f"save:{case}" for case in CASES],
    2: [
        *(f"resume:{case}" for case in CASES),
        *(f"release:{case}" for case in RELEASED),
        *(f"{kind}:{case}" for kind in ("train", "checkpointed") for case in TWO_RANKS),
    ],
    4: [f"replicated:{case}" for case in TWO_RANKS],
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def results(tmp_path_factory, checkpoints):
    """What every rank of a group of so many processes got in each of its jobs; one process has as many threads."""
    known: dict = {}

    def get(count: int, names: list[str] | None = None) -> list[dict]:
        key = count, tuple(names or ())
        if key not in known:
            folder = tmp_path_factory.mktemp(f"ranks{count}")
            known[key] = ranks.run("sharded_training:jobs", count, folder, str(checkpoints), *(names or KINDS[count]))
        return known[key]

    return get


def assert_equal(got: tuple, expected: tuple, what: str, first: int = 0) -> None:
    """Weights, states and moments have the bits; sums over shards are those of one process up to their order."""
    for tensors, wanted in zip(got[:2], (expected[0], expected[1][first:]), strict=True):
        assert_same_bits(tensors, wanted, what)
    for a, b in zip(got[2], expected[2][first:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=0.0, equal_nan=True)
    assert all(bool(torch.isfinite(t.float()).all()) for t in got[0]), f"{what}: diverged, which hides differences"


@pytest.mark.parametrize("case", CASES)
def test_three_ranks_have_the_bits_of_one_process(case, results):
    expected = results(1)[0][f"train:{case}"]
    assert len(expected[1]) == STEPS
    for rank, got in enumerate(results(3)):
        assert_equal(got[f"save:{case}"], expected, f"{case}, rank {rank} of 3")


@pytest.mark.parametrize("case", TWO_RANKS)
@pytest.mark.parametrize("kind", ("train", "checkpointed"))
def test_two_ranks_have_the_bits_of_one_process(kind, case, results):
    """Also where activations are computed again in backward."""
    results(3)
    for rank, got in enumerate(results(2)):
        assert_equal(got[f"{kind}:{case}"], results(1)[0][f"train:{case}"], f"{kind} {case}, rank {rank} of 2")


@pytest.mark.parametrize("case", RELEASED)
def test_released_gradients_on_two_ranks_have_the_bits_of_one_process(case, results):
    results(3)
    for rank, got in enumerate(results(2)):
        assert_equal(got[f"release:{case}"], results(1)[0][f"release:{case}"], f"{case}, rank {rank} of 2")


@pytest.mark.parametrize("case", TWO_RANKS)
def test_replicated_shards_have_the_bits_of_one_process(case, results):
    """Four processes, a mesh of two times two (HSDP)."""
    for rank, got in enumerate(results(4)):
        assert_equal(got[f"replicated:{case}"], results(1)[0][f"train:{case}"], f"{case}, rank {rank} of 4")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("count", (2, 1))
def test_a_checkpoint_of_three_ranks_resumes_on_fewer(count, case, results):
    """torch.distributed.checkpoint. The noise goes on, too."""
    results(3)
    resumed = results(count, [f"resume:{c}" for c in CASES] if count == 1 else None)
    for rank, got in enumerate(resumed):
        expected = results(1)[0][f"train:{case}"]
        assert_equal(got[f"resume:{case}"], expected, f"{case}, rank {rank} of {count}", first=SAVED)


def test_what_cannot_be_sharded_says_why(tmp_path):
    for messages in ranks.run("sharded_training:refusals", 2, tmp_path):
        for name in ("int8 first", "int8 after", "int8 distributed"):
            assert "int8 weights cannot be sharded over ranks: their codes and scales" in messages[name]
        assert messages["int8 after"].startswith("NotImplementedError: 0.weight:")
        for name in ("columns", "columns, int8 states"):
            assert messages[name].startswith("ValueError: params[0]: expected to be sharded along dim 0")
            assert "Shard(dim=1)" in messages[name]
        # What the messages name instead.
        assert messages["replicated"] == messages["int8 data parallel"] == ""


def test_a_killed_rank_ends_the_others_with_an_error(tmp_path):
    ranks.assert_others_end_with_an_error("sharded_training:train_on", 3, tmp_path)


def test_attach_treats_shards_as_the_whole(tmp_path):
    expected = ranks.run("sharded_training:treat", 1, tmp_path / "one")[0]
    for rank, got in enumerate(ranks.run("sharded_training:treat", 3, tmp_path / "three")):
        assert_same_bits(got, expected, f"rank {rank}")
