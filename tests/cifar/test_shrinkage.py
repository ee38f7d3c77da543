"""Real quantizers on real gradients: the numbers, that training does not notice, the slow-down, the report."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from fastgrad.cifar.checkpoint import RunFolder
from fastgrad.cifar.config import Config
from fastgrad.cifar.errors import UsageError
from fastgrad.cifar.runs import find, group
from fastgrad.cifar.train import train
from fastgrad.reference.formats import FORMATS as SPECS
from fastgrad.shrinkage_cli import app
from fastgrad.shrinkage_probe import report
from fastgrad.shrinkage_probe.probe import ALL, Probe, chosen_steps, present, quantizers, read, select
from fastgrad.shrinkage_probe.slowdown import compare, pace

CONFIG = Config(data="digits", model="small", epochs=2, limit_train=400, batch_size=50, lr=0.02, schedule="constant",
                warmup_epochs=0, threads=1, device="cpu")  # fmt: skip


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """(folder of ``quantizers.parquet`` and the run, the gradients of step 8)."""
    folder = tmp_path_factory.mktemp("probed")
    probe, kept = Probe([0, 8, 15], seed=CONFIG.seed), {}

    def hook(step, model):
        probe.measure(step, model)
        if step == 8:
            kept.update({name: p.grad.clone() for name, p in model.named_parameters()})

    train(CONFIG, folder / "run", on_gradients=hook)
    probe.write(folder / "quantizers.parquet")
    return folder, kept


def test_every_quantizer_is_measured_at_every_chosen_step(probed):
    columns = read(probed[0] / "quantizers.parquet")
    assert len(quantizers()) == 7 * 3 * 4 and list(present(columns)) == quantizers()
    assert len(columns["q"]) == 3 * 84 * (len(probed[1]) + 1) and set(columns["step"]) == {0, 8, 15}


@pytest.mark.parametrize("format", ["bf16", "fp8_e4m3", "fp8_e5m2"])
def test_numbers_are_those_of_torchs_own_rounding(probed, format):
    """Nearest without a scale is torch's cast; float64 arithmetic on what it gives."""
    columns = select(read(probed[0] / "quantizers.parquet"), format=format, rounding="nearest", scale="none")
    gradients = probed[1]
    everything = torch.cat([g.flatten() for g in gradients.values()])
    for name, y in {**gradients, ALL: everything}.items():
        q = y.to(SPECS[format].dtype).double().flatten()
        y = y.double().flatten()
        k = (y @ q / (y @ y)).item()
        noise = ((q - k * y) @ (q - k * y)).item()
        expected = {
            "q": k,
            "norm_ratio": (q.norm() / y.norm()).item(),
            "cosine": (y @ q / (y.norm() * q.norm())).item(),
            "noise_variance": noise / len(y),
            "relative_noise": noise / (y @ y).item(),
            "zeroed": ((q == 0) & (y != 0)).double().mean().item(),
            "n": len(y),
        }
        row = {key: value[(columns["step"] == 8) & (columns["layer"] == name)].item() for key, value in columns.items()}
        for key, value in expected.items():
            # Tile sums are float32: their error is relative to |y|^2, which the noise is a small part of.
            absolute = 1e-6 if key == "relative_noise" else 1e-9
            assert row[key] == pytest.approx(value, rel=2e-6, abs=absolute), (name, key)


def test_stochastic_rounding_keeps_the_gradient_in_expectation_and_truncation_shortens_it(probed):
    columns = select(read(probed[0] / "quantizers.parquet"), layer=ALL, scale="tensor")
    columns = {key: values[columns["step"] == 8] for key, values in columns.items()}
    y = torch.cat([g.flatten() for g in probed[1].values()]).double()
    largest = (y.square().max() / y.square().sum()).item()
    for name in ("fp8_e4m3", "fp4_e2m1", "int4"):
        rows = select(columns, format=name, rounding="stochastic")
        # q - 1 = sum(y noise) / |y|^2 has variance sum(y^2 var) / |y|^4 <= (max y^2 / |y|^2) (sum(var) / |y|^2).
        assert (np.abs(rows["q"] - 1) < 5 * np.sqrt(largest * rows["relative_noise"])).all()
        truncated = select(columns, format=name, rounding="truncate")
        assert (truncated["q"] < 1).all() and (truncated["norm_ratio"] < 1).all()
        assert (truncated["q"] < select(columns, format=name, rounding="nearest")["q"]).all()


def test_training_does_not_notice(probed, tmp_path):
    train(CONFIG, tmp_path / "run")
    a, b = (RunFolder(folder).load()["model"] for folder in (probed[0] / "run", tmp_path / "run"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_chosen_steps():
    assert chosen_steps(100, 3) == [0, 50, 99] and chosen_steps(2, 24) == [0, 1] and chosen_steps(5, 1) == [0]
    with pytest.raises(UsageError, match="at least 1"):
        chosen_steps(5, 0)


@pytest.mark.parametrize("q", [0.4, 0.75, 1.0, 1.3])
def test_pace_finds_the_factor_of_a_stretched_curve(q):
    epochs = np.arange(1, 41)
    loss = lambda t: 2.3 * np.exp(-0.06 * t) + 0.1  # noqa: E731
    assert pace(loss(q * epochs), loss(epochs)) == pytest.approx(q, abs=0.01)


def test_pace_of_a_run_that_never_learned_is_unknown():
    assert np.isnan(pace(np.full(5, 2.3), np.array([2.0, 1.8, 1.5, 1.2, 1.0])))
    assert np.isnan(pace(np.full(5, np.nan), np.array([2.0, 1.8, 1.5, 1.2, 1.0])))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Full precision, a truncated format, the same compensated, and a run that was stopped."""
    folder = tmp_path_factory.mktemp("runs")
    fp4 = dict(grad_format="fp4_e2m1", scale="tensor", rounding="truncate")
    for name, options in {"fp32": {}, "fp4": fp4, "fp4-compensated": dict(**fp4, compensate="q")}.items():
        train(replace(CONFIG, epochs=5, momentum=0.0, **options), folder / name)
    shutil.copytree(folder / "fp4", folder / "stopped")
    metrics = folder / "stopped" / "metrics.csv"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:-2]))
    return folder


def test_comparison_is_with_the_run_that_differs_in_quantization_only(runs):
    found = {one.group.label: one for one in compare(group(find([runs])))}
    assert set(found) == {"fp4", "fp4-compensated"} and all(one.baseline.label == "fp32" for one in found.values())
    assert 0.7 < found["fp4"].q < 0.9 and found["fp4"].predicted == found["fp4"].q
    assert found["fp4-compensated"].predicted == 1.0
    assert found["fp4"].pace < found["fp4-compensated"].pace


def test_report_has_all_parts_marks_what_is_unfinished_and_names_what_is_missing(probed, runs, tmp_path):
    CliRunner().invoke(app, ["model", "--problems", "2", "--repetitions", "10", "--out", str(tmp_path)])
    words = ["report", "--model", tmp_path / "model.json", "--quantizers", probed[0], "--runs", runs]
    result = CliRunner().invoke(app, [*map(str, words), "--out", str(tmp_path / "all")])
    assert result.exit_code == 0, result.output
    page, text = ((tmp_path / "all" / name).read_text() for name in ("index.html", "report.md"))
    for heading in ("The model against its bounds", "Real quantizers on real gradients", "Does q predict"):
        assert heading in text and heading in page
    assert "**Unfinished, and not in the means: stopped.**" in text and "final training loss less" in text
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(list((tmp_path / "all").glob("*.png"))) == 7 == sum(s.startswith("data:image/png") for s in sources)
    assert all(source.startswith(("data:", "#")) for source in sources)
    _, part = report.write(tmp_path / "part", quantizers=probed[0])
    assert "Not given, so not on this page: --model, --runs." in part.read_text()


def test_faults_of_the_report_are_named(tmp_path):
    with pytest.raises(UsageError, match="expected --model, --quantizers or --runs"):
        report.write(tmp_path)
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(UsageError, match=r"model.json: not a model.json"):
        report.write(tmp_path / "out", model=tmp_path / "model.json")
    with pytest.raises(UsageError, match="not a file of fastgrad shrinkage quantizers"):
        report.write(tmp_path / "out", quantizers=tmp_path)
    with pytest.raises(UsageError, match="no run in this folder"):
        report.write(tmp_path / "out", runs=tmp_path)


def test_command_measures_quantizers(tmp_path):
    words = "quantizers --model small --epochs 1 --limit-train 100 --threads 1 --probes 2 --out".split()
    result = CliRunner().invoke(app, [*words, str(tmp_path)])
    assert result.exit_code == 0 and "84 quantizers at 1 steps" in result.output, result.output
    assert find([tmp_path / "run"])[0].finished
