"""What is built, shipped and released: a native build that fails, the wheel, versions, the hosted workflow."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import yaml

import fastgrad

ROOT = Path(__file__).resolve().parents[1]
NO_COMPILER = {"CXX": "/bin/false", "CC": "/bin/false", "FASTGRAD_CUDA": "0"}


def run(*command: str, timeout: float = 60, **environment: str) -> subprocess.CompletedProcess:
    # With the cmake and ninja of this environment.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PATH": path, **environment}, timeout=timeout, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def build_native(folder: Path, **environment: str) -> subprocess.CompletedProcess:
    arguments = ("build_ext", "--build-lib", str(folder / "lib"), "--build-temp", str(folder / "temp"))
    return run(sys.executable, "setup.py", *arguments, **{**NO_COMPILER, **environment})


def stale_module(folder: Path) -> Path:
    module = folder / "lib" / "fastgrad" / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"
    module.parent.mkdir(parents=True)
    module.write_text("of an earlier build")
    return module


def test_a_failing_native_build_warns_and_leaves_no_module(tmp_path):
    """setup.py's optional=True catches errors of compilers; CMake's have to be turned into one."""
    stale = stale_module(tmp_path)
    done = build_native(tmp_path)
    assert done.returncode == 0, done.stdout
    assert "the native module was NOT built" in done.stdout and "C++20 compiler" in done.stdout
    assert not stale.exists(), "a module of other sources would have been packaged"


def test_a_required_native_build_is_an_error(tmp_path):
    done = build_native(tmp_path, FASTGRAD_REQUIRE_NATIVE="1")
    assert done.returncode != 0
    assert "the native module was NOT built" in done.stdout


def test_a_build_without_native_module_does_not_try(tmp_path):
    done = build_native(tmp_path, FASTGRAD_NATIVE="0", FASTGRAD_REQUIRE_NATIVE="1")
    assert done.returncode == 0 and "CMake" not in done.stdout, done.stdout


def test_versions_agree_and_are_semantic():
    project = (ROOT / "pyproject.toml").read_text()
    version = re.search(r'^version = "(.+)"$', project, re.MULTILINE)[1]
    assert fastgrad.__version__ == version
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased" and version in headings


def test_packages_say_that_they_are_typed():
    for package in ("fastgrad", "medclm"):
        assert (ROOT / package / "py.typed").is_file()


def test_hosted_workflow_runs_what_ci_runs():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    steps = {name: [step.get("run", "") for step in job["steps"]] for name, job in workflow["jobs"].items()}
    assert ".ci/run" in steps["tests"]
    makefile = (ROOT / "Makefile").read_text()
    for command in (c for commands in steps.values() for c in commands if c):
        program, _, rest = command.partition(" ")
        if program == "make":
            assert re.search(rf"^{rest}:", makefile, re.MULTILINE), command
        else:
            assert os.access(ROOT / program, os.X_OK), command


def test_make_writes_tables_to_build_unless_they_are_of_the_documentation(tmp_path):
    def asked(*words: str) -> str:
        return run("make", "-n", f"VENV={tmp_path}", *words).stdout

    assert "--out build/benchmarks.md" in asked("bench") and "docs/" not in asked("bench") + asked("gpu-check")
    assert "--summary README.md" in asked("bench-docs") and "--out docs/gpu_code.md" in asked("gpu-docs")
    assert "'.[peers]'" not in asked("bench") and "FASTGRAD_CUDA=0" in asked("bench", "PEERS=1")
    assert "'.[peers]'" in asked("bench", "PEERS=1")


def test_make_says_which_python_it_wants(tmp_path):
    old = tmp_path / "old"
    old.write_text(f'#!/bin/sh\nshift; exec {sys.executable} -c "import sys; sys.version_info = (3, 10, 0); $1"\n')
    old.chmod(0o755)
    done = run("make", f"PYTHON={old}", f"VENV={tmp_path / 'new'}", f"{tmp_path / 'new'}/installed")
    assert done.returncode != 0 and "make wants Python 3.11 or later" in done.stdout


def test_the_source_distribution_is_told_every_folder_that_building_and_testing_need():
    """Of the folders in the tree each is a package, grafted, or named here with the reason to leave it out."""
    manifest = (ROOT / "MANIFEST.in").read_text()
    packages = {"fastgrad", "medclm", "triton_kernels"}  # found by setup.py
    left_out = {".ci", ".github"}  # of the repository, not of the sources
    tracked = run("git", "ls-files")
    if tracked.returncode != 0:
        pytest.skip("not a git checkout: there is no list of files to compare with")
    folders = {line.partition("/")[0] for line in tracked.stdout.splitlines() if "/" in line}
    grafted = set(re.findall(r"^graft (\S+)$", manifest, re.MULTILINE))
    assert folders == packages | left_out | grafted


@pytest.mark.slow
def test_the_wheel_works_where_no_compiler_is(tmp_path):
    """sdist -> wheel -> auditwheel -> a fresh environment without a compiler -> the README's example."""
    done = run("packaging/check_wheel.sh", str(tmp_path), timeout=3600)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "works without a compiler" in done.stdout
    assert list(tmp_path.glob("fastgrad-*.whl")) and list(tmp_path.glob("fastgrad-*.tar.gz"))


@pytest.mark.slow
def test_an_installation_without_a_compiler_runs_on_the_references(tmp_path):
    """pip builds the wheel where every compiler fails; what it holds computes, and says how."""
    tree = tmp_path / "tree"  # a build leaves folders in its sources
    left_out = shutil.ignore_patterns(".*", "*.so", "__pycache__", "build", "dist", "runs", "demo", "*.egg-info")
    shutil.copytree(ROOT, tree, ignore=left_out)
    wheels = ("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), "-v", str(tree))
    made = run(sys.executable, *wheels, timeout=1800, **NO_COMPILER)
    assert made.returncode == 0, made.stdout[-4000:]
    assert "the native module was NOT built" in made.stdout
    (wheel,) = tmp_path.glob("fastgrad-*.whl")
    assert [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")] == []
    code = (
        # An editable installation would lend the wheel the native module of another tree.
        "import sys; sys.meta_path = [finder for finder in sys.meta_path if 'Editable' not in repr(finder)]\n"
        "import fastgrad, torch; from fastgrad import library\n"
        "assert library.native is None, library.native_state\n"
        "q, table = fastgrad.quantize(torch.ones(8), 'int8')\n"
        "assert torch.equal(fastgrad.dequantize(q), torch.ones(8))\n"
        f"assert {str(wheel)!r} in fastgrad.__file__\n"
        "print('on', library.instruction_set())"
    )
    # A wheel is a zip that Python can import from: no environment is needed to try it.
    tried = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(wheel)}, capture_output=True,
        text=True,
    )  # fmt: skip
    assert tried.returncode == 0, tried.stderr
    assert tried.stdout.strip() == "on none"
    assert "The PyTorch references are used" in tried.stderr
