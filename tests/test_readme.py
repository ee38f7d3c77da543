"""The README's example runs, its links lead somewhere, and the commands it names exist."""

import re
from pathlib import Path

import torch
from typer.testing import CliRunner

from fastgrad import cli, library

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_examples_run_and_draw(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 3
    for code in blocks:  # each goes on with the model of the first
        exec(compile(code, "README.md", "exec"), names)
    torch.nn.functional.cross_entropy(names["model"](names["x"]), names["x"][:, :10].argmax(1)).backward()
    names["released"].step()
    assert all(p.grad is None for p in names["model"].parameters())
    assert {"std_global.png", "q_layers.png", "alpha.png"} <= {p.name for p in (tmp_path / "plots").iterdir()}


def test_links_and_make_targets_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
    makefile = (ROOT / "Makefile").read_text()
    named = re.findall(r"`make ([a-z-]+)`|^make ([a-z-]+)", README, re.MULTILINE)
    assert len(named) >= 3
    for target in (quoted or line for quoted, line in named):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_info_names_every_op_and_its_kernel():
    result = CliRunner().invoke(cli.app, ["info"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    for row in library.op_infos():
        assert row.op in result.output
        assert row.reason.split(" (")[0] in result.output
    assert library.instruction_set() in result.output
