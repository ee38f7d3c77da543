"""fastgrad's headers for other people's kernels: packaged, and an extension made of them has fastgrad's bits."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from contract_bits import bits

import fastgrad
from fastgrad.reference import philox

ROOT = Path(__file__).resolve().parents[1]
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
needs_pybind11 = pytest.mark.skipif(importlib.util.find_spec("pybind11") is None, reason="pybind11 is not installed")


def run(*command: str | Path, cwd: Path) -> None:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


@pytest.fixture(scope="module")
def extension(tmp_path_factory) -> ModuleType:
    """The example, built as its setup.py says, out of the source tree."""
    folder = tmp_path_factory.mktemp("cpp_extension")
    shutil.copytree(ROOT / "examples" / "cpp_extension", folder, dirs_exist_ok=True)
    run(sys.executable, "setup.py", "build_ext", "--inplace", cwd=folder)
    (built,) = folder.glob("fastgrad_ema*.so")
    spec = importlib.util.spec_from_file_location("fastgrad_ema", built)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@needs_compiler
@needs_pybind11
@pytest.mark.parametrize("n", (1, 127, 1024, 1025, 70_001))
def test_the_example_has_our_bits(extension, n):
    """Its moving average is fastgrad's rounding of the same float32 numbers, with the noise of the same names."""
    seed, step, ids = 2026, 17, 3
    stream = extension.pack_stream(1, ids, step, 0)
    assert stream == philox.pack_stream("weight", ids, step, 0)
    e, p = torch.randn(n).bfloat16(), torch.randn(n)
    p[::97] = torch.nan
    rate = torch.tensor(1e-3)
    moved = e.float() + rate * (p - e.float())
    expected, _ = fastgrad.quantize(moved, "bf16", seed=seed, step=step, purpose="weight", ids=[ids])
    nearest = moved.bfloat16()
    extension.ema_(e.view(torch.uint16).numpy(), p.numpy(), float(rate), seed, stream)
    assert torch.equal(bits(e), bits(expected.codes))
    assert n == 1 or not torch.equal(bits(e), bits(nearest)), "the noise has no effect"
    other, _ = fastgrad.quantize(moved, "bf16", seed=seed, step=step + 1, purpose="weight", ids=[ids])
    assert n == 1 or not torch.equal(bits(e), bits(other.codes)), "the step has no effect"


@needs_compiler
@needs_pybind11
def test_the_example_refuses_what_it_cannot_take(extension):
    e, p = torch.zeros(8, dtype=torch.bfloat16).view(torch.uint16).numpy(), torch.zeros(9).numpy()
    with pytest.raises(ValueError, match="p: expected as many elements"):
        extension.ema_(e, p, 0.1, 0, 0)


@needs_pybind11  # setup.py imports it
def test_headers_are_packaged(tmp_path):
    """What an installation holds: every header that numerics.h includes, and nothing else of csrc."""
    run(
        *(sys.executable, "setup.py", "egg_info", "--egg-base", tmp_path, "build_py", "--build-lib", tmp_path / "lib"),
        cwd=ROOT,
    )
    packaged = tmp_path / "lib" / "fastgrad" / "csrc"
    found = {str(path.relative_to(packaged)) for path in packaged.rglob("*") if path.is_file()}
    numerics = {f"numerics/{path.name}" for path in (ROOT / "csrc" / "numerics").glob("*.h")}
    assert found == numerics | {"include/fastgrad/numerics.h"}
    if shutil.which("g++") is None:
        pytest.skip("there is no g++: the packaged headers are not compiled")
    source = tmp_path / "use.cpp"
    source.write_text("#include <fastgrad/numerics.h>\nstatic_assert(fastgrad::kTile == 1024);\n")
    compile_it = ["g++", "-std=c++20", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", f"-I{packaged / 'include'}"]
    run(*compile_it, source, cwd=tmp_path)
    refused = subprocess.run([*compile_it, "-ffast-math", source], capture_output=True, text=True)
    assert refused.returncode != 0 and "fast-math changes the bits" in refused.stderr


def test_get_include_finds_the_source_tree_and_says_what_is_missing(monkeypatch, tmp_path):
    assert (Path(fastgrad.get_include()) / "fastgrad" / "numerics.h").is_file()
    from fastgrad import headers

    monkeypatch.setattr(headers, "__file__", str(tmp_path / "fastgrad" / "headers.py"))
    with pytest.raises(FileNotFoundError, match=r"numerics\.h is neither in"):
        headers.get_include()
