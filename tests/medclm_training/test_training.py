"""A training: what it writes, that nothing stops it from going on bit for bit, and what it refuses."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from small_cases import files_of, small_cases, small_settings
from train_small import PATIENCE, Training
from transformers import AutoModelForImageTextToText, AutoProcessor, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from medclm import cli
from medclm.models.loading import load
from medclm.models.tiny import tiny_model
from medclm.pipeline import convert_cases
from medclm.problems import DataError, Problems
from medclm.training import loop
from medclm.training.loop import train
from medclm.training.prompting import for_model, generation_inputs
from medclm.training.ranks import Ranks
from medclm.training.records import Rows
from medclm.training.run_folder import RunFolder
from medclm.training.settings import Settings

SCRIPT = Path(__file__).parents[1] / "support" / "train_small.py"
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join([str(SCRIPT.parents[2]), str(SCRIPT.parent)]), "OMP_NUM_THREADS": "1",
}  # fmt: skip
SHORT = dict(model="tiny", max_steps=8, batch=2, lr=1e-3, evaluate_every=4, evaluate_rows=2, checkpoint_every=2)
NOT_REPEATED = ("seconds", "memory")  # of a line


def short(**more: object) -> Settings:
    return Settings(**(SHORT | more))


def log(out: Path) -> list[dict]:
    lines = RunFolder(out).lines()
    return [{name: value for name, value in line.items() if name not in NOT_REPEATED} for line in lines]


def state(out: Path) -> dict:
    return torch.load(out / "checkpoint" / "training.pt", weights_only=False)


def assert_equal(a: object, b: object, where: str = "") -> None:
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a.view(torch.uint8), b.view(torch.uint8)) if a.dim() else bool(a == b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}[{i}]")
    elif hasattr(a, "__dict__"):
        assert_equal(vars(a), vars(b), where)
    else:
        assert a == b, where


def assert_same_run(one: Path, other: Path) -> None:
    assert log(one) == log(other)
    weights = [(out / "checkpoint" / "model.safetensors").read_bytes() for out in (one, other)]
    assert weights[0] == weights[1]
    assert_equal(state(one), state(other))


@pytest.fixture(scope="module")
def whole(small_set, tmp_path_factory) -> Path:
    """A run that nothing interrupted, in a process like those that are killed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    process = Training(small_set, out, short())
    assert process.end() == 0, process.error()
    return out


def test_what_a_run_leaves(whole, small_set):
    assert sorted(path.name for path in whole.iterdir()) == ["checkpoint", "log.jsonl", "train.json"]
    stored = json.loads((whole / "train.json").read_text())
    assert stored["settings"]["backward_format"] == "fp8_e4m3" and stored["result"]["step"] == 8
    lines = RunFolder(whole).lines()
    steps = [line for line in lines if "validation" not in line]
    assert [line["step"] for line in steps] == list(range(1, 9))
    assert [line["step"] for line in lines if "validation" in line] == [4, 8]
    for line in steps:
        assert sum(line["stages"].values()) == 2 and line["stages"].keys() == line["loss_by_stage"].keys()
        assert abs(line["q_k"]["backward"] - 1) < 0.05 and line["memory"]["peak_mib"] > 100
        assert sum(line["mix"].values()) == pytest.approx(1) and line["tokens"] > 0
    before, kept = steps[0]["memory"]["saved"]
    assert kept < 0.75 * before  # int8 instead of bf16, where it is not a parameter or small
    assert sum(steps[-1]["shown"].values()) == 16
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert steps[-1]["lr"] < max(line["lr"] for line in steps) <= 1e-3


def test_the_checkpoint_is_a_plain_one_that_generates(whole, small_set):
    model = AutoModelForImageTextToText.from_pretrained(whole / "checkpoint", dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(whole / "checkpoint")
    assert model.generation_config.eos_token_id == processor.tokenizer.convert_tokens_to_ids("<end_of_utterance>")
    row = Rows(small_set, "test")[0]
    inputs = generation_inputs(processor, row, "hard")
    out = model.generate(**for_model(inputs, model), max_new_tokens=4, do_sample=False)
    assert out.shape[1] > inputs["input_ids"].shape[1]


def test_a_finished_run_is_only_read(whole, small_set):
    before = files_of(whole)
    result = train(small_set, whole, short(), show=False)
    assert result["step"] == 8 and files_of(whole) == before


def test_killed_and_then_out_of_disk_it_ends_with_the_same_bits(whole, small_set, tmp_path):
    """kill -9 between two checkpoints; then the disk is full: one line, and the last checkpoint stays; then all is
    well again. Every time the same command."""
    out = tmp_path / "run"
    Training(small_set, out, short()).kill_after(3)
    before = files_of(out / "checkpoint")
    process = Training(small_set, out, short(), largest_file=400_000)  # the weights have more bytes
    assert process.end() == 1
    assert process.error().startswith(f"cannot write {out / 'checkpoint'}")
    assert files_of(out / "checkpoint") == before
    assert not list(out.glob(".*"))  # nothing half written
    process = Training(small_set, out, short())
    assert process.end() == 0, process.error()
    assert_same_run(out, whole)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [(1, 5), (2,), (7,)])
def test_killed_anywhere_it_ends_with_the_same_bits(whole, small_set, tmp_path, steps):
    """Before the first checkpoint, right behind one, before the last step; a resumed process, too."""
    out = tmp_path / "run"
    for step in steps:
        Training(small_set, out, short()).kill_after(step)
    process = Training(small_set, out, short())
    assert process.end() == 0, process.error()
    assert_same_run(out, whole)


@pytest.mark.parametrize(
    "more",
    [
        {
            "release": False,
            "accumulate": 2,
            "state_format": "fp32",
            "dtype": "fp32",
            "activations": "none",
            "clip": 1.0,
        },
        {"lora": 2, "grad_format": "fp8_e4m3", "checkpointing": True, "backward_format": "none"},
        {"scheduler": "paper", "factored": True, "state_format": "fp4_e2m1", "accumulate": 2, "clip": 1.0},
    ],
    ids=["plain", "lora", "lean"],
)
def test_stopped_and_resumed_in_every_tier_it_ends_with_the_same_bits(small_set, tmp_path, monkeypatch, more):
    settings = short(**more, max_steps=4, evaluate_every=2)
    train(small_set, tmp_path / "whole", settings, show=False)
    stop_at(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        train(small_set, tmp_path / "run", settings, show=False)
    monkeypatch.undo()
    train(small_set, tmp_path / "run", settings, show=False)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def stop_at(monkeypatch, step: int) -> None:
    made = loop.Training._step

    def stopping(self):
        if self.progress.step == step:
            raise KeyboardInterrupt
        return made(self)

    monkeypatch.setattr(loop.Training, "_step", stopping)


def test_learns(small_set, tmp_path):
    settings = short(max_steps=20, lr=5e-3, scheduler="mix:1,0,0", evaluate_every=20, checkpoint_every=20)
    result = train(small_set, tmp_path / "run", settings, show=False)
    losses = [line["loss"] for line in log(tmp_path / "run") if "loss" in line]
    assert losses[0] > 5 and result["validation"]["easy"] < 3.5
    assert result["validation"].keys() == {"easy", "mean"} and result["shown"]["medium"] == 0


def poisoned(monkeypatch, *steps: int) -> None:
    """The loss of some forwards is NaN."""
    made, calls = loop.span_loss, []

    def nan_loss(losses, *arguments):
        calls.append(1)
        return made(losses * torch.nan if len(calls) in steps else losses, *arguments)

    monkeypatch.setattr(loop, "span_loss", nan_loss)


def test_a_loss_that_is_no_number_stops_or_is_skipped(small_set, tmp_path, monkeypatch):
    poisoned(monkeypatch, 4)
    with pytest.raises(DataError, match=r"step 4: the loss is nan \(rows .*checkpoint before it stays"):
        train(small_set, tmp_path / "stop", short(evaluate_every=0), show=False)
    assert state(tmp_path / "stop")["progress"]["step"] == 2
    monkeypatch.undo()
    poisoned(monkeypatch, 4, 5)
    result = train(small_set, tmp_path / "skip", short(evaluate_every=0, nan="skip", release=False), show=False)
    assert result["skipped"] == 2 and result["step"] == 8 and sum(result["shown"].values()) == 12
    assert [line["loss"] is None for line in log(tmp_path / "skip")] == [i in (4, 5) for i in range(1, 9)]
    monkeypatch.undo()
    poisoned(monkeypatch, *range(3, 99))
    with pytest.raises(DataError, match="as in the 9 steps before"):
        train(small_set, tmp_path / "all", short(max_steps=40, evaluate_every=0, nan="skip"), show=False)


def test_early_stop_ends_with_the_best_weights(small_set, tmp_path, monkeypatch):
    values = iter([3.0, 2.0, 2.5, 2.2, 1.0])
    monkeypatch.setattr(loop.Training, "_evaluate", lambda self, rows: {"mean": next(values)})
    result = train(
        small_set, tmp_path / "run", short(max_steps=40, evaluate_every=1, checkpoint_every=1, patience=2), show=False
    )
    assert result["stopped_early"] == "no better loss in 2 evaluations" and result["step"] == 4
    assert not (tmp_path / "run" / "best").exists()
    monkeypatch.undo()
    stop_at(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        train(small_set, tmp_path / "two", short(max_steps=40, evaluate_every=0, checkpoint_every=1), show=False)
    weights = [(tmp_path / run / "checkpoint" / "model.safetensors").read_bytes() for run in ("run", "two")]
    assert weights[0] == weights[1]  # those of step 2, the better of the four


def test_lora_leaves_a_plain_checkpoint_that_says_the_same(small_set, tmp_path):
    made = loop.Training(small_set, RunFolder(tmp_path / "run"), short(lora=2, dtype="fp32"), Ranks())
    made.run(show=False)
    trained = [name for name, p in made.trained.named_parameters() if p.requires_grad]
    assert trained and all(".lora_" in name or ".connector." in name for name in trained)
    row = Rows(small_set, "test")[0]
    plain = load(tmp_path / "run" / "checkpoint")
    inputs = for_model(generation_inputs(plain.processor, row, "easy"), plain.model)
    made.trained.eval()
    made.rounded.remove()
    with torch.no_grad():
        expected = made.trained(**inputs).logits
        start_ = tiny_model(0)[0](**inputs).logits
        torch.testing.assert_close(plain.model(**inputs).logits, expected, rtol=1e-4, atol=1e-4)
    assert (expected - start_).abs().max() > 1e-2


@pytest.mark.slow
def test_two_processes_do_what_one_does_with_twice_the_batches(small_set, tmp_path):
    exact = dict(
        release=False, dtype="fp32", state_format="fp32", activations="none", backward_format="none", clip=0.0,
        max_steps=3,
    )  # fmt: skip
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(SCRIPT),
        str(small_set), str(tmp_path / "two"), json.dumps(asdict(short(**exact))),
    ]  # fmt: skip
    done = subprocess.run(
        command, env=ENVIRONMENT | {"GLOO_SOCKET_IFNAME": "lo"}, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    train(small_set, tmp_path / "one", short(**exact, accumulate=2), show=False)
    one, two = log(tmp_path / "one"), log(tmp_path / "two")
    assert len(one) == len(two) == 4
    for a, b in zip(one, two, strict=True):
        if "validation" in a:
            assert a["validation"] == pytest.approx(b["validation"], rel=1e-4)
        else:
            assert a["stages"] == b["stages"] and a["loss"] == pytest.approx(b["loss"], rel=1e-4)


def test_release_is_refused_on_several_processes(small_set, tmp_path):
    with pytest.raises(DataError, match=r"release: gradients of 2 processes .* expected --no-release"):
        loop.Training(small_set, RunFolder(tmp_path / "run"), short(), Ranks(0, 2))


# Bad input ------------------------------------------------------------------------------------------------------------


def refused(folder: Path, out: Path, settings: Settings, says: str) -> None:
    with pytest.raises(DataError, match=says):
        train(folder, out, settings, show=False)


def test_a_set_of_another_schema_version(small_set, tmp_path):
    other = shutil.copytree(small_set, tmp_path / "set")
    facts = json.loads((other / "set.json").read_text())
    (other / "set.json").write_text(json.dumps(facts | {"schema_version": 99}))
    refused(other, tmp_path / "run", short(), "a set of schema version 99, this is version 1; convert it again")
    refused(tmp_path, tmp_path / "run", short(), r"expected a converted set \(set.json is missing\)")
    assert not (tmp_path / "run").exists()


def test_an_empty_stage(tmp_path):
    settings = small_settings(stages=("easy", "medium"))
    convert_cases(iter(small_cases(tmp_path / "images")), tmp_path / "set", settings, Problems(), workers=1)
    says = r"expected rows of the hard stage in its train split, which --scheduler adaptive asks for; it holds easy \d+"
    refused(tmp_path / "set", tmp_path / "run", short(), says)
    train(tmp_path / "set", tmp_path / "run", short(scheduler="mix:1,1,0", max_steps=1), show=False)


def test_image_tokens_that_would_be_cut_are_found_before_training(small_set, tmp_path):
    says = r"row \w+-\w+-\w+ has \d+ tokens, 16 of them of the image \(image tokens would be cut off\), more than 12"
    refused(small_set, tmp_path / "run", short(max_length=12), says)
    refused(small_set, tmp_path / "run", short(max_length=9999), "max_length: expected at most the model's 2048 tokens")
    refused(small_set, tmp_path / "run", short(max_length=50, too_long="skip"), "all rows are longer than 50 tokens")
    assert not (tmp_path / "run").exists()


def test_rows_that_do_not_fit_may_be_left_out(small_set, tmp_path):
    """None that is shown is longer than the limit, none that fits is missing: against making them all."""
    out = tmp_path / "run"
    made = loop.Training(small_set, RunFolder(out), short(max_length=300, too_long="skip"), Ranks())
    kept = {index for record in made.records for index in record.rows.values()}
    for index in range(len(made.rows)):
        length = made.maker.example(made.rows[index], made.rows.texts[index]["stage"]).length
        assert (length <= 300) == (index in kept), (length, index)
    assert 0 < made.left_out == len(made.rows) - len(kept)


def test_a_run_with_other_settings_another_set_or_something_else_in_its_folder(small_set, whole, tmp_path):
    out = shutil.copytree(whole, tmp_path / "run")
    refused(small_set, out, short(lr=2e-3), r"holds a run with other settings: lr \(was 0.001, is 0.002\)")
    other = shutil.copytree(small_set, tmp_path / "set")
    row = Rows(small_set, "train").texts[0]
    (other / "review.jsonl").write_text(json.dumps({"id": row["id"], "verdict": "reject"}) + "\n")
    refused(other, out, short(), "was begun on another set than .* is now")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    refused(small_set, tmp_path / "full", short(), "expected a new folder or that of a run")


def test_a_checkpoint_of_another_model(small_set, tmp_path, monkeypatch):
    out = tmp_path / "run"
    stop_at(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        train(small_set, out, short(), show=False)
    monkeypatch.undo()
    model, _ = tiny_model()
    model.model.text_model.layers = model.model.text_model.layers[:1]
    model.config.text_config.num_hidden_layers = 1
    model.save_pretrained(out / "checkpoint")
    refused(small_set, out, short(), "expected the weights of Idefics3.* with 445,760 parameters, got .*another model")
    (out / "checkpoint" / "training.pt").write_bytes(b"cut off")
    refused(small_set, out, short(), "training.pt: damaged or not a training state")


def test_what_is_no_image_text_model(small_set, tmp_path):
    refused(small_set, tmp_path / "run", short(model=str(tmp_path / "nowhere")), "expected a checkpoint")
    _, processor = tiny_model()
    text = LlamaForCausalLM(LlamaConfig(vocab_size=300, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
                                        num_attention_heads=2))  # fmt: skip
    text.save_pretrained(tmp_path / "text")
    processor.tokenizer.save_pretrained(tmp_path / "text")
    refused(small_set, tmp_path / "run", short(model=str(tmp_path / "text")), "expected the processor of an image-text")
    processor.save_pretrained(tmp_path / "text")
    refused(
        small_set, tmp_path / "run", short(model=str(tmp_path / "text")), "expected a checkpoint of an image-text model"
    )


def test_a_tokenizer_of_another_model(tmp_path):
    model, processor = tiny_model()
    processor.tokenizer.add_tokens([f"word{i}" for i in range(9)])
    model.save_pretrained(tmp_path / "pair")
    processor.save_pretrained(tmp_path / "pair")
    with pytest.raises(DataError, match="its tokenizer has 274 tokens, its embedding 265: not of one another"):
        load(tmp_path / "pair")


def test_a_broken_torchvision_is_named(tmp_path, monkeypatch):
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    with pytest.raises(
        DataError, match=r"torchvision is installed but broken \(operator torchvision::nms.*uninstall it"
    ):
        load("tiny")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"scheduler": "linear"}, "scheduler: expected adaptive, paper"),
        ({"backward_format": "fp9"}, "backward_format: expected one of none, bf16"),
        ({"batch": 0}, "batch: expected at least 1, got 0"),
        ({"lr": 0.0}, "lr: expected 0 <= final_lr <= lr, lr > 0"),
        ({"patience": 2, "evaluate_every": 0}, "patience: early stopping needs"),
        ({"attention_weight": 1.0, "checkpointing": True}, "attention_weight: a checkpointed forward"),
    ],
)
def test_settings_that_make_no_sense(more, says):
    with pytest.raises(ValueError, match=says):
        short(**more)


# End to end -----------------------------------------------------------------------------------------------------------


def test_from_phantoms_to_a_trained_model_by_commands(tmp_path, monkeypatch):
    """``medclm phantom-data``, ``convert``, ``train``, and an ablation of two arms."""
    monkeypatch.setenv("MEDCLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    run = CliRunner()

    def called(*arguments: str) -> str:
        done = run.invoke(cli.app, [str(word) for word in arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    called("phantom-data", tmp_path / "phantoms", "--count", "30", "--size", "96", "--seed", "3")
    (tmp_path / "salt").write_text("a salt of tests, long enough")  # a user's is random: a split could be empty
    called("convert", "phantom", "--annotations", tmp_path / "phantoms", "--out", tmp_path / "set", "--workers", "1",
           "--salt-file", tmp_path / "salt")  # fmt: skip
    said = called(
        "train", tmp_path / "set", "--model", "tiny", "--out", tmp_path / "run", "--max-steps", "3", "--batch", "2"
    )
    assert "3 steps" in said and (tmp_path / "run" / "checkpoint" / "model.safetensors").exists()
    table = called(
        "ablation", tmp_path / "set", "--model", "tiny", "--out", tmp_path / "arms", "--arms",
        "adaptive,no-reasoning", "--seeds", "0,1", "--max-steps", "2", "--batch", "2", "--evaluate-rows", "1",
    )  # fmt: skip
    assert "| adaptive |" in table and "| no-reasoning |" in table and "2 seeds" in table
    assert "questions of the test split" in table and "Difference from `adaptive`" in table
    assert {path.name for path in (tmp_path / "arms").iterdir()} == {
        "adaptive-0", "adaptive-1", "no-reasoning-0", "no-reasoning-1", "ablation.md",
    }  # fmt: skip
