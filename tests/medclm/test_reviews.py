"""Verdicts: appended whole, the last one counts, and a line that a kill cut off costs nothing but itself."""

from __future__ import annotations

import json
import multiprocessing

import pytest
from small_files import files_of_at_most

from medclm import reviews, sets
from medclm.problems import DataError


def append_many(folder, name: str) -> None:
    for number in range(200):
        reviews.append(folder, f"{name}{number}", "accept", "hash")


def test_last_verdict_counts_and_the_first_is_kept_on_file(tmp_path):
    reviews.append(tmp_path, "a", "accept", "hash")
    reviews.append(tmp_path, "a", "reject", "hash")
    assert sets.verdicts(tmp_path) == {"a": "reject"}
    entries = [json.loads(line) for line in (tmp_path / "review.jsonl").read_text().splitlines()]
    assert [entry["verdict"] for entry in entries] == ["accept", "reject"]
    assert all(entry["time"].endswith("+00:00") for entry in entries)


def test_unknown_verdict_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected one of accept, reject, got 'maybe'"):
        reviews.append(tmp_path, "a", "maybe", "hash")
    assert not (tmp_path / "review.jsonl").exists()


def test_a_torn_line_does_not_swallow_the_next(tmp_path):
    reviews.append(tmp_path, "a", "accept", "hash")
    with open(tmp_path / "review.jsonl", "a") as file:
        file.write('{"id": "b", "verd')
    reviews.append(tmp_path, "c", "reject", "hash")
    assert sets.verdicts(tmp_path) == {"a": "accept", "c": "reject"}


@pytest.mark.parametrize("size", [40, 110])  # within the first line, within the second
def test_full_disk_is_said_and_costs_one_verdict(tmp_path, size):
    with files_of_at_most(size), pytest.raises(DataError, match=r"cannot write .*review.jsonl: "):
        reviews.append(tmp_path, "a", "accept", "hash")
        reviews.append(tmp_path, "b", "accept", "hash")
    reviews.append(tmp_path, "c", "reject", "hash")
    assert sets.verdicts(tmp_path) == ({"a": "accept"} if size == 110 else {}) | {"c": "reject"}


def test_two_reviewers_do_not_mix_their_lines(tmp_path):
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=append_many, args=(tmp_path, name)) for name in "ab"]
    for process in both:
        process.start()
    for process in both:
        process.join()
        assert process.exitcode == 0
    lines = (tmp_path / "review.jsonl").read_text().splitlines()
    assert len(lines) == 400
    assert {json.loads(line)["id"] for line in lines} == {f"{name}{number}" for name in "ab" for number in range(200)}
