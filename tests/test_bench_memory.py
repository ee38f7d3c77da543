"""The benchmark of memory and the fine-tune: counted bytes are exact, a killed run ends in the same bits."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers", reason="transformers is not installed: bench.memory builds its models with it")

from bench import memory, sections
from bench.finetuning import report as finetune_report
from bench.finetuning import text
from bench.finetuning.tiers import TIERS
from bench.finetuning.train import Folder, Settings, run
from bench.memory_tiers import child, contestants, report, tensor_bytes, watch
from bench.memory_tiers.shapes import SHAPES, random_llama

ROOT = Path(__file__).resolve().parents[1]
TINY = SHAPES["llama-tiny"]


@pytest.fixture(scope="module")
def record(tmp_path_factory) -> dict:
    """Of ``bench.memory`` on the tiny shape: two contestants that run, one whose package does not exist."""
    path = tmp_path_factory.mktemp("memory") / "record.json"
    absent = dataclasses.replace(contestants.CONTESTANTS["optimi-release"], packages=("torch", "no-such-optimizer"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(contestants.CONTESTANTS, "optimi-release", absent)
        options = ["--shape", "llama-tiny", "--json", str(path), "--threads", "1", "--steps", "3", "--length", "32"]
        memory.main([*options, "--contestants", "adamw-bf16,optimi-release"])
        memory.main([*options, "--contestants", "adamw-fp32"])
    return json.loads(path.read_text())


def of(record: dict, name: str) -> dict:
    (found,) = (r for r in record["results"] if r["contestant"] == name)
    return found


def parameters() -> int:
    """By arithmetic, of a Llama: embedding and output, attention and MLP of each layer, norms."""
    s = TINY
    head = s.hidden // s.heads
    attention = 2 * s.hidden * s.heads * head + 2 * s.hidden * s.kv_heads * head
    layer = attention + 3 * s.hidden * s.intermediate + 2 * s.hidden
    return 2 * s.vocabulary * s.hidden + s.layers * layer + s.hidden


@pytest.mark.parametrize(("name", "width"), [("adamw-fp32", 4), ("adamw-bf16", 2)])
def test_persistent_bytes_are_exact(record, name, width):
    """Weights, gradients and two moments of one width, and a float32 step count for each tensor."""
    result, n = of(record, name), parameters()
    tensors = 2 + TINY.layers * 9 + 1
    assert result["failed"] is None and result["parameters"] == n
    counted = [result["counted"][part] for part in ("weights", "gradients", "state")]
    assert counted == [width * n, width * n, 2 * width * n + 4 * tensors]
    assert result["persistent"] == 4 * width * n + 4 * tensors


@pytest.mark.parametrize("name", ["adamw-fp32", "adamw-bf16"])
def test_peak_holds_what_is_counted(record, name):
    result = of(record, name)
    resident = result["resident"]
    assert result["all-in peak"] >= result["persistent"]
    assert resident["step peak"] - resident["imports"] == result["all-in peak"] <= result["overall peak"]
    assert resident["step peak"] >= resident["after steps"] >= resident["imports"] > 100 << 20
    assert len(result["seconds"]["steps"]) == 2


def test_absent_package_is_reported(record):
    assert of(record, "optimi-release")["failed"] == "not installed: no-such-optimizer"


def test_contestant_that_raises_is_reported(tmp_path, monkeypatch):
    """The child's exception is the row; nothing is guessed."""

    def broken(model, lr):
        raise RuntimeError("no kernel for this machine\nand more lines")

    absent = dataclasses.replace(contestants.CONTESTANTS["adamw-bf16"], update=broken)
    monkeypatch.setitem(contestants.CONTESTANTS, "adamw-bf16", absent)
    request = {"contestant": "adamw-bf16", "shape": "llama-tiny", "steps": 1, "length": 32, "threads": 1}
    monkeypatch.setattr(sys, "argv", ["child", json.dumps(request), str(tmp_path / "out.json")])
    child.main()
    assert json.loads((tmp_path / "out.json").read_text()) == {"failed": "RuntimeError: no kernel for this machine"}


def test_contestant_that_does_not_fit_is_stopped(monkeypatch):
    monkeypatch.setattr(watch, "RESERVE", 1 << 60)
    result = watch.run("adamw-fp32", "llama-1.1b", steps=1, length=32, threads=1, timeout=100)
    assert result["failed"].startswith("does not fit: stopped at ") and "persistent" not in result


def test_report_has_every_row(record, tmp_path):
    lines = report.markdown(record).splitlines()
    rows = {line.split("|")[1].strip(): line.split("|")[2:] for line in lines if line.startswith("| torch AdamW")}
    n, tensors = parameters(), 2 + TINY.layers * 9 + 1
    assert rows["torch AdamW, fp32"][3].strip() == f"**{16 + 4 * tensors / n:.3f}**"
    assert rows["torch AdamW, bf16"][3].strip() == f"**{8 + 4 * tensors / n:.3f}**"
    assert any("optimi" in line and "not installed: no-such-optimizer" in line for line in lines)
    assert all(command in lines for command in record["commands"])

    path, out = tmp_path / "record.json", tmp_path / "memory.md"
    path.write_text(json.dumps(record))
    section = "<!-- memory: begin -->\nan earlier table\n<!-- memory: end -->"
    out.write_text(f"# Memory\n\nWords of its own.\n\n{section}\n\nThe end.\n")
    memory.main(["report", str(path), "--out", str(out)])
    written = out.read_text()
    assert written.startswith("# Memory\n\nWords of its own.\n") and written.endswith("\nThe end.\n")
    assert "an earlier table" not in written and report.markdown(record).strip() in written


def test_sections_keep_each_other(tmp_path):
    path = tmp_path / "x.md"
    for name, words in (("a", "one"), ("b", "two"), ("a", "three")):
        sections.replace(path, name, words, "Title")
    assert path.read_text() == (
        "# Title\n\n<!-- a: begin -->\nthree\n<!-- a: end -->\n\n<!-- b: begin -->\ntwo\n<!-- b: end -->\n"
    )
    path.write_text("<!-- a: begin -->\n")
    with pytest.raises(ValueError, match="expected '<!-- a: end -->'"):
        sections.replace(path, "a", "x", "Title")


@pytest.mark.parametrize("tied", [False, True])
def test_random_llama_is_a_llama(tied):
    """Made module by module, it computes what transformers' own model of the same weights computes."""
    from transformers import LlamaForCausalLM

    shape, seen = dataclasses.replace(TINY, tied=tied), []
    model = random_llama(shape, torch.bfloat16, convert=seen.append)
    usual = LlamaForCausalLM._from_config(shape.config(), dtype=torch.bfloat16)
    usual.load_state_dict(model.state_dict())
    tokens = torch.arange(48).view(2, 24) * 7 % shape.vocabulary
    with torch.no_grad():
        ours, theirs = model(input_ids=tokens).logits, usual(input_ids=tokens).logits
    assert torch.equal(ours.view(torch.int16), theirs.view(torch.int16))
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert len(seen) == len(set(map(id, seen))) == len([p for p in model.parameters()])


def test_bytes_of_storages():
    base = torch.zeros(100)
    assert tensor_bytes.size([base, base[:10], base.view(10, 10)]) == 400
    held = {"a": [base, {"b": (torch.zeros(3, dtype=torch.int8),)}], "c": 1}
    assert tensor_bytes.size(tensor_bytes.tensors_in(held)) == 403
    other = {"a": [base, {"b": (torch.ones(3, dtype=torch.int8),)}], "c": 1}
    assert tensor_bytes.digest(held) != tensor_bytes.digest(other)
    before = tensor_bytes.elsewhere([tensor_bytes.storages([base])])
    more = torch.zeros(1000, dtype=torch.uint8)
    assert tensor_bytes.elsewhere([tensor_bytes.storages([base])]) - before == 1000 == more.nbytes


REPORT = "<r><uId id='{}'/><AbstractText Label='FINDINGS'>{}</AbstractText><AbstractText Label='IMPRESSION'/></r>"


def test_reports_are_read_and_split_by_id(tmp_path):
    import io
    import tarfile

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, words in (("CXR10", "Clear."), ("CXR2", "Clear."), ("CXR3", ""), ("CXR1", "A nodule &amp; more.")):
            content = REPORT.format(name, words).encode()
            member = tarfile.TarInfo(f"x/{name}.xml")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    found = text.radiology_reports(buffer.getvalue())
    assert found == {"CXR1": "Findings: A nodule & more.", "CXR2": "Findings: Clear."}
    assert list(found) == ["CXR1", "CXR2"]
    parts = [text.part_of(f"CXR{i}") for i in range(4000)]
    assert parts == [text.part_of(f"CXR{i}") for i in range(4000)]
    assert [parts.count(p) for p in text.PARTS] == pytest.approx([3200, 400, 400], rel=0.1)


def test_windows_hold_every_token_once():
    made = text.windows(["ab", "cde", "f"], lambda t: [ord(c) for c in t], 0, 4)
    assert made.tolist() == [[97, 98, 0, 99], [100, 101, 0, 102]]
    data = torch.arange(10).view(10, 1)
    order = torch.cat([text.batch(data, seed=3, step=step, size=4) for step in range(5)]).flatten().tolist()
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert order[:10] != order[10:]
    assert text.batch(data, seed=4, step=0, size=4).tolist() != text.batch(data, seed=3, step=0, size=4).tolist()


@pytest.fixture(scope="module")
def story(tmp_path_factory) -> Path:
    """A text file of 60 paragraphs, none like another."""
    path = tmp_path_factory.mktemp("text") / "story.txt"
    words = "lung heart clear normal effusion no the of is are seen focal acute".split()
    path.write_text("\n\n".join(" ".join(words[(i * j + j) % 13] for j in range(1, 20)) + f" {i}" for i in range(60)))
    return path


def settings_of(story: Path, **changes) -> Settings:
    plain = Settings(
        tier="fp32", seed=0, lr=TIERS["fp32"].lr, steps=60, warmup=6, batch=2, length=32, evaluate_every=20,
        source="llama-tiny", text=str(story), threads=1,
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)


def silent(line: str) -> None:
    pass


def losses(folder: Path) -> list[dict]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in Folder(folder).lines()]


@pytest.fixture(scope="module")
def runs(story, tmp_path_factory) -> Path:
    """A folder of finished runs: the reference with two seeds, and another tier."""
    out = tmp_path_factory.mktemp("runs")
    for name, seed in (("fp32", 0), ("fp32", 1), ("bf16", 0)):
        run(settings_of(story, tier=name, seed=seed), out / f"{name}-seed{seed}", say=silent)
    return out


def test_killed_run_ends_in_the_same_bits(story, runs, tmp_path):
    command = [
        sys.executable, "-m", "bench.finetune", "run", "--tier", "fp32", "--seed", "0", "--source", "llama-tiny",
        "--text", str(story), "--steps", "60", "--batch", "2", "--length", "32", "--evaluate-every", "20",
        "--threads", "1", "--checkpoint-seconds", "0", "--out", str(tmp_path),
    ]  # fmt: skip
    at = Folder(tmp_path / "fp32-seed0")
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(at.lines()) < 10 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not at.result.exists() and at.checkpoint.exists()
    with at.log.open("a") as file:
        file.write('{"step": 59, "lo')  # a line the kill cut off

    said: list[str] = []
    result = run(settings_of(story), at.path, say=said.append)
    assert "resumed after step" in said[0]
    uninterrupted = json.loads(Folder(runs / "fp32-seed0").result.read_text())
    for name in ("weights", "state", "validation", "held_out"):
        assert result[name] == uninterrupted[name], name
    assert losses(at.path) == losses(runs / "fp32-seed0")
    assert not at.checkpoint.exists()


def test_finished_run_is_only_read(story, runs):
    folder = runs / "fp32-seed0"
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert run(settings_of(story), folder, say=silent) == json.loads(Folder(folder).result.read_text())
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    with pytest.raises(ValueError, match="expected a run of"):
        run(settings_of(story, lr=1.0), folder, say=silent)


def test_finetune_learns_and_counts(runs):
    for name, width in (("fp32", 4), ("bf16", 2)):
        folder = Folder(runs / f"{name}-seed0")
        result = json.loads(folder.result.read_text())
        curve = [line["validation"] for line in folder.lines() if "validation" in line]
        assert len(curve) == 4 and curve[-1] < curve[0] - 0.3
        assert result["bytes"]["weights"] == width * parameters() == width * result["bytes"]["parameters"]


def test_seeds_differ_in_their_order_alone(runs):
    first, second = (json.loads(Folder(runs / f"fp32-seed{i}").config.read_text()) for i in (0, 1))
    assert first["facts"]["data"] == second["facts"]["data"]
    assert losses(runs / "fp32-seed0") != losses(runs / "fp32-seed1")


def test_finetune_report(runs, story, tmp_path):
    out, plot = tmp_path / "memory.md", tmp_path / "loss.png"
    sections.replace(out, "memory", "the other section", "Memory")
    finetune_report.write(runs, out, plot)
    written = out.read_text()
    held_out = {n: json.loads(Folder(runs / n).result.read_text())["held_out"] for n in os.listdir(runs)}
    mean = (held_out["fp32-seed0"] + held_out["fp32-seed1"]) / 2
    assert "the other section" in written and "![validation loss over steps](loss.png)" in written
    assert f"| {mean:.4f} | 1.0000 |" in written
    assert f"| {held_out['bf16-seed0']:.4f} | {held_out['bf16-seed0'] / mean:.4f} |" in written
    assert plot.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="found none"):
        finetune_report.write(tmp_path / "nothing", out, None)


def test_report_refuses_other_data(runs, tmp_path, story):
    run(settings_of(story, steps=2, warmup=1), tmp_path / "a", say=silent)
    members = [*finetune_report.finished(runs), *finetune_report.finished(tmp_path)]
    with pytest.raises(ValueError, match="same data and settings"):
        finetune_report.check_comparable(members)
