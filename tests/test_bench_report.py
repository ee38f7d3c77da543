"""What the benchmark's report says of a stored run, and of two."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from bench import cached, report, results, summary  # noqa: E402
from bench.compare import compare  # noqa: E402
from bench.results import groups  # noqa: E402
from bench.rows import ROWS  # noqa: E402


@pytest.fixture
def record() -> dict:
    return json.loads((Path(__file__).parent / "bench_miniature.json").read_text())


def test_report_of_a_stored_run(record, tmp_path):
    pytest.importorskip("matplotlib")
    stored = tmp_path / "in.json"
    stored.write_text(json.dumps(record))
    out, plot = tmp_path / "docs" / "b.md", tmp_path / "docs" / "b.png"
    out.parent.mkdir()
    assert report.main([str(stored), "--out", str(out), "--plot", str(plot)]) == 0
    text = out.read_text()
    assert "| fastgrad.gradient_moments | **3.00** | 0.060 |" in text
    assert "| floor: momentum | 1.00 |" in text and "floor: momentum streaming" not in text
    assert "first call 21.5 s" in text and "2 of 3 disturbed" in text
    assert "| torch.optim.SGD(foreach=True) | **failed** | | | | | Wrong: momenta[3]" in text
    assert "![" in text and "(b.png)" in text and plot.stat().st_size > 10_000
    assert "Noise of the machine, GPT, fp32, avx512, 2 threads: 0.0%" in text and "probe" not in tables_of(text)
    assert "| torch.compile of AdamW | | | | | | not compiled for 147 tensors" in text
    assert "## ResNet-56: 167 tensors, 853,018 elements" in text and record["command"] in text
    tables = [line for line in text.splitlines() if line.startswith("| ") and "time / floor" not in line]
    assert all(line.count("|") in (3, 8) for line in tables)


def tables_of(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if line.startswith("|"))


def test_report_counts_bytes(record):
    row = next(r for r in record["results"] if r["contestant"] == "torch.optim.SGD(fused=True)")
    assert f"| {20 * 853018 / 3.8e-4 / 1e9:.1f} |" in report._row(row, 5e-5)


def test_the_time_in_the_cache_is_that_of_what_lies_between_two_sizes(record):
    """A call of 20 us and 1 ns for each element: 853,018 of them take two threads 0.427 ms."""
    found = groups(record["results"])["resnet56", "fp32", "avx512", 2, "moments"]
    (ours,) = [r for r in found if r["kind"] == "ours"]
    assert cached.instructions_alone(record, ours) is None
    for name, elements in ((cached.SMALL, 16128), (cached.LARGE, 64512)):
        alone = 2e-5 + 1e-9 * elements
        for threads in (1, 2):  # two are no measure of one
            result = {"list": name, "threads": threads, "elements": elements, "median": alone / threads**2}
            record["results"].append(ours | result)
    assert cached.instructions_alone(record, ours) == pytest.approx(853018 * 1e-9 / 2)
    text = report.markdown(record)
    assert "in the cache 0.427" in text and "in the cache 54.8" in text
    assert "cached" not in text.replace("in the cache", ""), "they are no lists of their own"
    assert "| 3.00 | 1.15 | 6.000 ms | 54.8 ms |" in "\n".join(summary.summary(record))


def changed(record: dict, factors: dict[str, float]) -> dict:
    """Contestants of the GPT list, slower or faster by a factor."""
    other = copy.deepcopy(record)
    for r in other["results"]:
        if r["list"] == "gpt" and "median" in r:
            for q in ("q1", "median", "q3"):
                r[q] *= factors.get(r["contestant"], 1.0)
    return other


def test_compare_flags_a_planted_slowdown(record):
    assert compare(record, record) == []
    slower = changed(record, {"fastgrad.gradient_moments": 1.3, "floor: read": 1.01, "floor: momentum": 0.5})
    assert compare(slower, record) == [
        "slower x1.30: gpt fp32 avx512 2 moments fastgrad.gradient_moments: 18.0 -> 23.4 ms",
        "faster x0.50: gpt fp32 avx512 2 momentum floor: momentum: 15.0 -> 7.500 ms",
    ]
    slower["machine"]["cpu"] = "another"
    assert compare(slower, record)[0].startswith("not the same cpu")


def test_compare_leaves_out_what_the_machine_does_by_itself(record):
    """The probe of one row is 40 % off: 30 % more of a contestant is no finding."""
    slower = changed(record, {"fastgrad.gradient_moments": 1.3})
    assert len(compare(slower, record)) == 1
    noisy = copy.deepcopy(slower)
    next(r for r in noisy["results"] if r["kind"] == "probe" and r["list"] == "gpt")["median"] *= 1.4
    assert results.noise(noisy)["gpt", "fp32", "avx512", 2] == pytest.approx(0.333, abs=0.01)
    assert compare(noisy, record) == [] and compare(record, noisy) == []
    assert compare(changed(noisy, {"fastgrad.gradient_moments": 2.0}), record) != []


@pytest.mark.parametrize("part", ["list", "dtype", "isa", "threads", "row", "contestant"])
def test_compare_takes_only_what_is_the_same(record, part):
    other = changed(record, {"fastgrad.gradient_moments": 3.0})
    for r in other["results"]:
        r[part] = f"other {r[part]}"
    assert compare(other, record) == []


def test_compare_reads_records_that_knew_float32_only(record):
    older = copy.deepcopy(record)
    older["format"] = 1
    older["machine"]["fastgrad kernels"] = "avx512, OpenMP, 12.2.0"
    older["results"] = [r for r in older["results"] if r["kind"] != "probe"]
    for r in older["results"]:
        del r["dtype"], r["isa"]
    assert compare(changed(record, {"fastgrad.gradient_moments": 1.3}), older)[0].startswith("slower x1.30: gpt fp32")


def test_compare_tells_a_script(record, tmp_path, capsys):
    new, old = tmp_path / "new.json", tmp_path / "old.json"
    old.write_text(json.dumps(record))
    new.write_text(json.dumps(changed(record, {"fastgrad.gradient_moments": 1.3})))
    assert report.main([str(new), "--compare", str(old)]) == 1
    assert report.main([str(old), "--compare", str(new)]) == 0, "faster is no failure"
    assert report.main([str(old), "--compare", str(old)]) == 0
    assert "no change beyond" in capsys.readouterr().out


def test_the_short_tables_replace_those_between_two_comments(record, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{summary.BEGIN}\n| old |\n{summary.END}\nafter\n")
    stored = tmp_path / "in.json"
    stored.write_text(json.dumps(record))
    assert report.main([str(stored), "--out", str(tmp_path / "b.md"), "--summary", str(readme)]) == 0
    text = readme.read_text()
    assert text.startswith(f"before\n{summary.BEGIN}\nMeasured ") and text.endswith(f"|\n{summary.END}\nafter\n")
    assert "| old |" not in text
    line = "| mean and std of every tensor | 18.0 ms | 3.00 | 1.15 | 6.000 ms | - | torch.compile of the list: 147.0 ms"
    assert f"{line} |" in text  # of the long list, with its floor
    assert "| mean and std of every tensor | 0.060 ms | torch.compile of the list: 0.490 ms |" in text
    again = text
    summary.write_summary(record, readme)
    assert readme.read_text() == again
    (tmp_path / "other.md").write_text("nothing")
    with pytest.raises(ValueError, match="expected one line '<!-- speed: made by"):
        summary.write_summary(record, tmp_path / "other.md")


def test_every_row_of_the_short_tables_is_one_of_the_benchmark():
    """A row or a call that was renamed would be missing without a word."""
    for row, (_, call, _) in summary.ROWS.items():
        assert call in [c.name for c in ROWS[row].contestants], row
