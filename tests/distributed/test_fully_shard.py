"""fully_shard: one process and several gloo ranks end with the same bits."""

from __future__ import annotations

import pytest
import ranks
import sharded_training
import torch
from contract_bits import assert_same_bits

WORKER = "sharded_training:train"


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The results of one process (on as many threads as a rank has), by case."""
    results: dict = {}

    def get(*arguments: str):
        if arguments not in results:
            results[arguments] = ranks.run(WORKER, 1, tmp_path_factory.mktemp("alone"), *arguments)[0]
        return results[arguments]

    return get


@pytest.mark.parametrize("count", (2, 3))
@pytest.mark.parametrize("case", sharded_training.CASES)
def test_ranks_have_the_bits_of_one_process(case, count, alone, tmp_path):
    """Weights, states and statistics; sums over shards are those of one process up to their order."""
    expected, sums = alone(case)
    for rank, (got, got_sums) in enumerate(ranks.run(WORKER, count, tmp_path, case)):
        assert_same_bits(got, expected, f"{case}, rank {rank} of {count}")
        for a, b in zip(got_sums, sums, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=0.0, equal_nan=True)


def test_attach_treats_shards_as_the_whole(tmp_path):
    expected = ranks.run("sharded_training:treat", 1, tmp_path / "one")[0]
    for rank, got in enumerate(ranks.run("sharded_training:treat", 3, tmp_path / "three")):
        assert_same_bits(got, expected, f"rank {rank}")
