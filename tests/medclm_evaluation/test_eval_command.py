"""``medclm eval`` and ``medclm report`` from the command line's side."""

import json
import re

import benchmark_files as made
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from medclm import cli, sets
from medclm.codecs import CODECS, render
from medclm.evaluation import report
from medclm.evaluation.running import example_numbers
from medclm.problems import DataError


def run(*words):
    """Output of a command that must succeed; raises what it raises."""
    found = CliRunner().invoke(cli.app, [str(word) for word in words], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.output


def replies(converted, file, right=lambda number: True):
    """What a perfect model writes to the test split; to the others a wrong answer and a box beside the lesion."""
    lines = []
    for number, row in enumerate(sets.rows(converted, split="test")):
        size, boxes, answer = (row["width"], row["height"]), row["boxes"], row["answer"]
        if not right(number):
            boxes = [[0.0, 0.0, 2.0, 2.0] for _ in boxes]
            answer = {"Yes": "No", "No": "Yes"}.get(answer, "the spleen")
        cot = render(row["cot"], boxes, [""] * len(boxes), size, CODECS["plain"])
        lines.append({"id": row["id"], "reply": (f"Reasoning: {cot}\n\n" if cot else "") + f"Answer: {answer}"})
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def scores(folder):
    return json.loads((folder / "scores.json").read_text())


@pytest.fixture(scope="module")
def perfect(converted, tmp_path_factory):
    place = tmp_path_factory.mktemp("perfect")
    profiles = ("--profile", "llava_med", "--profile", "lmms_eval", "--profile", "medevalkit")
    file = replies(converted, place / "all.jsonl")
    run("eval", file, "--on", converted, "--out", place / "out", "--train", converted, *profiles)
    return place / "out"


def test_perfect_replies_have_perfect_scores_in_every_profile(perfect, converted):
    found = scores(perfect / "set")["profiles"]
    patients = [row["patient"] for row in sets.rows(converted, split="test", columns=["patient"])]
    accuracy = {"mean": 1.0, "low": 1.0, "high": 1.0, "n": len(patients), "clusters": len(set(patients))}
    assert found["strict"]["all"]["accuracy"] == accuracy and len(set(patients)) > 1
    for name in ("llava_med", "lmms_eval", "medevalkit"):
        closed = found[name]["all"]["closed_accuracy"]
        assert closed["mean"] == 1.0 and closed["n"] > 0
    boxes = found["boxes"]["all"]
    assert boxes["box_iou"]["mean"] > 0.9  # three decimals are what is written
    assert boxes["box_acc@0.5"]["mean"] == 1.0 and boxes["box_false"]["mean"] == 0.0
    assert set(found["strict"]["groups"]) >= {"stage", "kind", "lesion", "modality"}
    assert set(found["boxes"]["groups"]["stage"]) == {"easy", "medium"}  # hard replies have no reasoning


def test_half_right_is_half_the_score_and_the_report_has_the_difference(perfect, converted, tmp_path):
    half = scores(perfect / "set")["questions"] // 2  # rows stand by patient: some answer all, some none
    file = replies(converted, tmp_path / "half.jsonl", lambda number: number < half)
    run("eval", file, "--on", converted, "--out", tmp_path / "half", "--examples", 4)
    found = scores(tmp_path / "half" / "set")["profiles"]["strict"]["all"]["accuracy"]
    assert found["mean"] == pytest.approx(half / found["n"]) and found["low"] < found["mean"] < found["high"]
    run("report", perfect, tmp_path / "half", "--out", tmp_path / "page", "--title", "Two arms")
    page = (tmp_path / "page" / "index.html").read_text()
    text = (tmp_path / "page" / "report.md").read_text()
    assert "<title>Two arms</title>" in page and "http" not in re.sub(r'src="data:[^"]*"', "", page).split("<main>")[1]
    difference = f"{100 * (found['mean'] - 1):+.1f}"
    assert re.search(rf"\| half \| accuracy \| 100.0 \| {100 * found['mean']:.1f} \| {re.escape(difference)} \|", text)
    for part in (
        "By stage",
        "By lesion",
        "By modality",
        "Boxes of the reasoning",
        "Differences",
        "Leakage",
        "Examples: half",
    ):
        assert part in text
    assert len(list((tmp_path / "page").glob("set-half-example*.png"))) == 4
    assert page.count('src="data:image/png') == text.count("](set-")
    run("report", perfect, "--out", tmp_path / "bare", "--no-images")
    assert "Examples" not in (tmp_path / "bare" / "report.md").read_text()


def test_model_is_asked_scored_and_timed(converted, tmp_path):
    slake = made.slake(tmp_path / "slake")
    words = ("eval", "tiny", "--on", converted, "--on", f"slake:{slake}", "--out", tmp_path / "out", "--batch", 16)
    words += ("--max-new-tokens", 4, "--train", converted, "--device", "cpu")
    run(*words)
    assert scores(tmp_path / "out" / "slake")["questions"] == 3
    assert scores(tmp_path / "out" / "slake")["leakage"]["checked"] == ["exact", "near", "own"]
    cost = json.loads((tmp_path / "out" / "set" / "cost.json").read_text())
    assert cost["sessions"][0]["questions"] == cost["questions"] and cost["sessions"][0]["peak_mib"] > 0
    before = {file: file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file()}
    run(*words)  # nothing is asked again, and nothing changes
    assert {file: file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file()} == before
    run("report", tmp_path / "out", "--out", tmp_path / "page")
    assert "Memory and speed" in (tmp_path / "page" / "report.md").read_text()
    with pytest.raises(DataError, match=r"expected a new folder or one of the same model .* got that of another"):
        run("eval", replies(converted, tmp_path / "x.jsonl"), "--on", converted, "--out", tmp_path / "out")


def test_empty_test_split_is_said_with_what_is_there(converted, tmp_path):
    with pytest.raises(DataError, match=r"expected rows in the dev split, got none \(test \d+, train \d+"):
        run("eval", "tiny", "--on", converted, "--out", tmp_path / "out", "--split", "dev")


def test_set_of_another_schema_version_is_refused(converted, tmp_path):
    facts = json.loads((converted / "set.json").read_text())
    (tmp_path / "set.json").write_text(json.dumps(facts | {"schema_version": 99}))
    with pytest.raises(DataError, match="a set of schema version 99, this is version 1; convert it again"):
        run("eval", "tiny", "--on", tmp_path, "--out", tmp_path / "out")


def test_run_that_was_trained_on_another_set_is_said(converted, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "train.json").write_text(json.dumps({"set": "0123456789abcdef", "settings": {}, "model": {}}))
    with pytest.raises(DataError, match=r"expected the set that .*run was trained on \(fingerprint 0123456789abcdef\)"):
        run("eval", tmp_path / "run", "--on", converted, "--out", tmp_path / "out", "--train", converted)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--profile", "vqa"), "profile: expected one of strict"),
        (("--prompt", "kind"), "prompt: expected one of own, brief, plain, lmms_eval, medevalkit, got 'kind'"),
        (("--codec", "dots"), "codec: expected one of qwen2_vl"),
        (("--missing", "maybe"), "missing: expected one of error, skip"),
    ],
)
def test_bad_options_are_named_before_anything_is_loaded(converted, tmp_path, words, said):
    with pytest.raises(DataError, match=said):
        run("eval", tmp_path / "no-model", "--on", converted, "--out", tmp_path / "out", *words)


def test_replies_are_for_one_benchmark(converted, tmp_path):
    file, slake = replies(converted, tmp_path / "x.jsonl"), made.slake(tmp_path / "slake")
    with pytest.raises(DataError, match="expected one benchmark for the replies"):
        run("eval", file, "--on", converted, "--on", f"slake:{slake}", "--out", tmp_path / "out")
    with pytest.raises(DataError, match="expected benchmarks with different names, got set twice"):
        run("eval", "tiny", "--on", converted, "--on", converted, "--out", tmp_path / "out")


def test_report_of_what_is_no_evaluation(perfect, tmp_path):
    with pytest.raises(DataError, match=r"expected a folder of `medclm eval` \(eval.json is missing\)"):
        run("report", tmp_path, "--out", tmp_path / "page")
    (tmp_path / "eval.json").write_text('{"format": 1}')
    with pytest.raises(DataError, match="was the evaluation finished"):
        run("report", tmp_path, "--out", tmp_path / "page")
    (tmp_path / "eval.json").write_text('{"format": 7}')
    with pytest.raises(DataError, match="an evaluation of format 7, this is 1"):
        run("report", tmp_path, "--out", tmp_path / "page")


def test_evaluations_of_other_questions_are_not_compared(perfect, converted, tmp_path):
    """A set of the same name whose questions are others."""
    other = tmp_path / "set"
    (other / "data").mkdir(parents=True)
    (other / "set.json").write_bytes((converted / "set.json").read_bytes())
    for file in (converted / "data").glob("test-*.parquet"):
        table = pq.read_table(file)
        column = table.schema.get_field_index("question")
        changed = table["question"].to_pylist()
        table = table.set_column(column, table.schema.field(column), [[f"Please: {text}" for text in changed]])
        pq.write_table(table, other / "data" / file.name)
    run("eval", replies(converted, tmp_path / "x.jsonl"), "--on", other, "--out", tmp_path / "changed")
    report.write([perfect, tmp_path / "changed"], tmp_path / "page")
    text = (tmp_path / "page" / "report.md").read_text()
    assert "changed answered other questions than out" in text and "Against" not in text


def test_examples_are_drawn_by_their_ids_half_right_half_wrong():
    rows = [{"id": str(n), "scores": {"strict": {"accuracy": float(n % 10 == 0)}}} for n in range(100)]
    chosen = example_numbers(rows, 12)
    assert len(set(chosen)) == 12 and sum(n % 10 == 0 for n in chosen) == 6
    assert example_numbers(rows[::-1], 12) != chosen and {
        rows[::-1][n]["id"] for n in example_numbers(rows[::-1], 12)
    } == {str(n) for n in chosen}
    assert len(example_numbers(rows[:5], 12)) == 5
