"""The documentation: its code runs, its commands exist, its figures are drawn, its site builds without a warning."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from doc_blocks import PAGES, ROOT, blocks, commands, problem

BLOCKS = blocks()
PYTHON = [b for b in BLOCKS if b.language == "python" and b.runs_here]
BASH = [b for b in BLOCKS if b.language == "bash" and b.runs_here]
ALONE = "CONTRIBUTING.md"  # declares an op, which would stay in this process
# A page's blocks go on with each other's names; README.md has a test of its own (test_readme.py).
PAGES_OF_PYTHON = sorted({b.page for b in PYTHON} - {"README.md", ALONE})


@pytest.mark.parametrize("page", PAGES_OF_PYTHON)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "__main__"}
    for block in (b for b in PYTHON if b.page == page):
        exec(compile("\n" * block.line + block.code, str(ROOT / page), "exec"), names)


def test_python_blocks_that_declare_ops_run(tmp_path):
    code = "\n".join(b.code for b in PYTHON if b.page == ALONE)
    assert "declare(" in code
    script = tmp_path / "contributing.py"
    script.write_text(code)
    command = [sys.executable, str(script)]
    done = subprocess.run(command, cwd=tmp_path, env=_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "block",
    [pytest.param(b, id=str(b), marks=[pytest.mark.slow] if b.slow else []) for b in BASH],
)
def test_bash_blocks_run(block, tmp_path):
    command = ["bash", "-euo", "pipefail", "-c", block.code]
    environment = _environment(tmp_path)
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr


def _environment(home: Path | None = None) -> dict[str, str]:
    """Programs of this interpreter's environment, packages of this tree, and no file of the user's."""
    own = {} if home is None else {"HOME": str(home), "XDG_CACHE_HOME": str(home), "XDG_CONFIG_HOME": str(home)}
    return {
        **os.environ,
        **own,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }


@pytest.mark.parametrize("block", [pytest.param(b, id=str(b)) for b in BLOCKS if b.language == "bash"])
def test_commands_exist(block):
    """Also of what is not run: programs, subcommands, options, modules, files, make targets."""
    found = list(commands(block))
    assert found
    assert [(" ".join(words), wrong) for words in found if (wrong := problem(words))] == []


def test_wrong_commands_are_found():
    """The reader of commands can say no."""
    assert problem("fastgrad info".split()) is None
    for wrong in (
        "fastgrad cifar trian", "medclm convert phantom --oot x", "make nothing", "python -m bench.nothing",
        "python examples/nothing.py", "packaging/nothing.sh", "frobnicate x",
    ):  # fmt: skip
        assert problem(wrong.split()) is not None, wrong


def test_blocks_that_are_not_run_say_why():
    """The list of them is printed:  pytest -rA -k say_why"""
    for block in BLOCKS:
        if block.reason is not None:
            assert len(block.reason.split()) >= 2, f"{block}: why?"
            print(f"not run: {block} ({block.reason})")
        if block.elsewhere is not None:
            assert block.elsewhere.is_file(), block
        if block.snippet is not None:
            runner = (ROOT / "tests" / "integrations" / "test_examples.py").read_text()
            assert block.snippet.is_file() and block.snippet.parent.name == "examples", block
            assert block.snippet.stem in runner, block
    languages = {b.language for b in BLOCKS}
    assert languages <= {"python", "bash"}, f"blocks in {languages} are not looked at"
    assert len(PYTHON) >= 15


def test_links_lead_somewhere():
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
            if not target.startswith(("http", "mailto:")):
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"


def test_figures_are_drawn(tmp_path):
    """By the committed script, all those that the pages show, with the size of those that are committed."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install -e .[docs]")
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "figures.py"), str(tmp_path)], env=_environment(), capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = set(re.findall(r"\]\(figures/([\w.]+)\)", (ROOT / "docs" / "how_it_works.md").read_text()))
    assert shown == {path.name for path in tmp_path.iterdir()}
    assert shown == {path.name for path in (ROOT / "docs" / "figures").iterdir()}
    for name in shown:
        drawn, committed = (tmp_path / name).read_bytes(), (ROOT / "docs" / "figures" / name).read_bytes()
        assert drawn[16:24] == committed[16:24], f"{name}: width and height differ: run `make figures`"


def test_every_op_has_a_page():
    import fastgrad
    import fastgrad.distributed
    from fastgrad import ops

    def named(folder: str) -> set[str]:
        texts = [path.read_text() for path in (ROOT / "docs" / folder).glob("*.md")]
        return {found.rpartition(".")[2] for text in texts for found in re.findall(r"^::: (\S+)", text, re.MULTILINE)}

    assert named("ops") == {*ops.__all__, "linear_cross_entropy"}
    assert named("ops") | named("api") >= set(fastgrad.__all__) - {"nn", "optim", "numerics_version"}
    assert named("api") >= {*fastgrad.optim.__all__, *fastgrad.nn.__all__, *fastgrad.distributed.__all__}


def test_site_builds_without_a_warning(tmp_path):
    for name in ("mkdocs", "material", "mkdocstrings"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: pip install -e .[docs]")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    quiet = _environment() | {"NO_MKDOCS_2_WARNING": "1"}  # the theme's own advertisement
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    page = (tmp_path / "ops" / "quantize" / "index.html").read_text()
    assert "stochastic" in page and ":func:" not in page, "roles of docstrings must not be shown"
