"""The predictions file: the same bytes after any interruption, and never another model's replies."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import benchmark_files as made
import pytest
from small_files import files_of_at_most

from medclm.codecs import CODECS
from medclm.evaluation import benchmarks, predicting
from medclm.evaluation.answering import Reply
from medclm.evaluation.predicting import Asking, given, predict
from medclm.problems import DataError, Problems

SCRIPT = Path(__file__).parents[1] / "support" / "answer_slowly.py"


class Echo:
    """Replies that say what was asked; interrupts itself after some batches."""

    name = "echo"

    def __init__(self, fingerprint="f" * 32, batches=99):
        self.fingerprint, self.batches, self.asked = fingerprint, batches, []

    def __call__(self, rows, asked):
        if not self.batches:
            raise KeyboardInterrupt
        self.batches -= 1
        self.asked += [row["id"] for row in rows]
        return [
            Reply(f"{each.text} {row['image'].size} ☃", ((0.123456, 1.0, 2.0, 3.0),), 3)
            for row, each in zip(rows, asked, strict=True)
        ]


@pytest.fixture
def slake(tmp_path):
    return benchmarks.read(f"slake:{made.slake(tmp_path / 'slake')}", Problems())


def test_interrupted_run_goes_on_and_ends_in_the_same_bytes(slake, tmp_path):
    asking = Asking(batch_size=1)
    whole = predict(slake, Echo(), tmp_path / "whole", asking)
    with pytest.raises(KeyboardInterrupt):
        predict(slake, Echo(batches=1), tmp_path / "cut", asking)
    rest = Echo()
    assert (
        predict(slake, rest, tmp_path / "cut", asking) == [replace(reply, tokens=0) for reply in whole[:1]] + whole[1:]
    )
    assert rest.asked == ["13", "14"]
    file = "predictions.jsonl"
    assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert predict(slake, Echo(batches=0), tmp_path / "cut", asking)  # nothing left to ask


@pytest.mark.parametrize("left", [0, 5, 300, -1, -40])
def test_any_torn_file_ends_in_the_same_bytes(slake, tmp_path, left):
    asking = Asking(batch_size=2)
    predict(slake, Echo(), tmp_path, asking)
    file = tmp_path / "predictions.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:left])
    again = Echo()
    predict(slake, again, tmp_path, asking)
    assert file.read_bytes() == whole
    assert again.asked in (["11", "13", "14"], ["14"])  # whole batches: what was beside a lost reply is asked again


def test_killed_process_goes_on_and_ends_in_the_same_bytes(tmp_path):
    """kill -9 in the middle of a run, twice."""
    folder = made.slake(tmp_path / "slake")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(SCRIPT.parents[2]), str(SCRIPT.parent)])}

    def start(out, seconds):
        return subprocess.Popen([sys.executable, SCRIPT, folder, out, str(seconds)], env=environment)

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert start(whole, 0).wait() == 0
    file = cut / "predictions.jsonl"
    for lines in (2, 3):
        process = start(cut, 30)
        until = time.monotonic() + 50
        while (file.read_bytes().count(b"\n") if file.exists() else 0) < lines and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert file.read_bytes().count(b"\n") < 4
    assert start(cut, 0).wait() == 0
    assert file.read_bytes() == (whole / "predictions.jsonl").read_bytes()


def test_files_of_other_models_questions_and_settings_are_refused(slake, tmp_path):
    predict(slake, Echo(), tmp_path, Asking(batch_size=2))

    def refused(words, answers=None, asking=None, other=None):
        with pytest.raises(DataError, match=words):
            predict(other or slake, answers or Echo(), tmp_path, asking or Asking(batch_size=2))

    refused(r"expected predictions of the same model.*weights 'f+', now 'e+'", answers=Echo("e" * 32))
    refused("batch size 2, now 3", asking=Asking(batch_size=3))
    refused("prompt 'own', now 'plain'", asking=Asking("plain", 2))
    changed = replace(slake, questions=[replace(slake.questions[0], answer="Yes"), *slake.questions[1:]])
    refused("questions, answers and images '.*', now", other=changed)
    predict(slake, Echo("e" * 32), tmp_path, Asking(batch_size=2), restart=True)
    assert json.loads((tmp_path / "predictions.jsonl").read_text().splitlines()[0])["model"] == "e" * 32


def test_damaged_lines_are_named(slake, tmp_path):
    predict(slake, Echo(), tmp_path, Asking(batch_size=2))
    file = tmp_path / "predictions.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    for wrong, words in (
        ("not json\n", "line 3: expected a JSON object"),
        ('{"id": "99", "reply": "x"}\n', "line 3: expected the reply to question '13', got '99'"),
        ('{"id": "13"}\n', "line 3: expected id and reply, got id"),
        ('{"id": "13", "reply": "x", "boxes": [[1, 2]]}\n', "line 3: expected boxes of four numbers"),
    ):
        file.write_text("".join([*lines[:2], wrong, *lines[3:]]))
        with pytest.raises(DataError, match=words):
            predict(slake, Echo(), tmp_path, Asking(batch_size=2))
    file.write_text('{"a": 1}\n')
    with pytest.raises(DataError, match="expected a predictions file of version 1, got None"):
        predict(slake, Echo(), tmp_path, Asking())


def test_two_processes_do_not_write_one_file(slake, tmp_path):
    class Nested(Echo):
        def __call__(self, rows, asked):
            with pytest.raises(DataError, match="another process is writing it"):
                predict(slake, Echo(), tmp_path, Asking())
            return super().__call__(rows, asked)

    assert len(predict(slake, Nested(), tmp_path, Asking())) == 3


def test_replies_of_something_else(slake, tmp_path):
    file = tmp_path / "answers.jsonl"
    file.write_text('{"question_id": 14, "text": "X-ray"}\n{"id": "11", "reply": "No"}\n{"id": "13", "reply": "left"}')
    assert [reply.text for reply in given(file, slake, CODECS["plain"])] == ["No", "left", "X-ray"]
    file.write_text('{"id": "11", "reply": "No"}\n')
    with pytest.raises(DataError, match=r"expected a reply to each of the 3 questions.*got none to 2 of them \(13, 14"):
        given(file, slake, CODECS["plain"])


def test_predictions_of_another_benchmark_are_refused_as_replies(slake, tmp_path):
    predict(slake, Echo(), tmp_path, Asking())
    other = benchmarks.read(f"omnimedvqa:{made.omnimedvqa(tmp_path / 'omni')}", Problems())
    with pytest.raises(DataError, match=r"expected replies to OmniMedVQA.*got replies to slake"):
        given(tmp_path / predicting.FILE, other, CODECS["plain"])


def test_full_disk_is_said_in_words(slake, tmp_path):
    with files_of_at_most(100), pytest.raises(DataError, match=r"cannot write .*predictions.jsonl: file too large"):
        predict(slake, Echo(), tmp_path / "out", Asking())
    assert len(predict(slake, Echo(), tmp_path / "out", Asking())) == 3
