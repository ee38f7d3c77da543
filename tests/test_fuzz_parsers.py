"""The fuzzer of parsers, for seconds and by chance; and that it sees a reader that falls over."""

from __future__ import annotations

import random

import pytest

from tests import fuzz_parsers
from tests.fuzz_parsers import TARGETS, Target, by_chance, mutated


@pytest.mark.parametrize("name", TARGETS)
def test_readers_answer_or_refuse(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tried, error = by_chance(TARGETS[name], 60.0, random.Random(f"suite {name}"), calls=200)
    assert not error and tried == 200


def test_a_reader_that_falls_over_is_seen(tmp_path, monkeypatch):
    def read(data: bytes) -> None:
        if len(data) > 3 and data[1] > 200:
            raise KeyError("planted")

    monkeypatch.chdir(tmp_path)
    _, error = by_chance(Target(read, lambda: [b"abcdefgh"]), 60.0, random.Random(1), calls=2000)
    assert "planted" in error
    (crash,) = tmp_path.glob("crash-*")
    with pytest.raises(KeyError, match="planted"):
        read(crash.read_bytes())


def test_inputs_differ_from_their_seeds():
    rng = random.Random(2)
    made = {mutated(rng, [b"0123456789" * 10]) for _ in range(100)}
    assert len(made) > 90 and all(len(each) <= fuzz_parsers.LONGEST for each in made)
