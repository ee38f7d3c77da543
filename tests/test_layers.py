"""Arrows go one way: medclm -> fastgrad.* -> fastgrad.ops -> fastgrad.library, reference -> native, Triton kernels."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("fastgrad", "triton_kernels", "medclm", "bench", "examples", "tests")
PYTHON = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
CSRC = sorted(path for path in (ROOT / "csrc").rglob("*") if path.suffix in (".h", ".cpp", ".cu", ".cuh"))
FRAMEWORKS = {"transformers", "accelerate", "lightning", "safetensors"}
OPTIONAL = {"matplotlib", "typer", "rich", "pyarrow", "PIL", "sklearn", "pooch", "tensorboard", "liger_kernel"}
OPTIONAL |= FRAMEWORKS


def name_of(path: Path) -> str:
    """fastgrad/ops/quantize.py -> fastgrad.ops.quantize; triton_kernels is installed inside fastgrad"""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = ("fastgrad", *parts) if parts[0] == "triton_kernels" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, module: str | None = None, outer_only: bool = False) -> set[str]:
    """Dotted names a file imports, relative ones resolved; `from a import b` gives a.b."""
    module = module or name_of(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    tree = ast.parse(path.read_text())
    lazy = {
        id(inner)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(function)
    }
    for node in ast.walk(tree):
        if outer_only and id(node) in lazy:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def under(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def layer(prefix: str) -> list[Path]:
    files = [path for path in PYTHON if under(name_of(path), prefix)]
    assert files, f"no file of {prefix} was found"
    return files


def offenders(files: list[Path], allowed=lambda name: True, **options) -> list[tuple[str, str]]:
    return [(name_of(f), i) for f in files for i in sorted(imports(f, **options)) if not allowed(i)]


def test_imports_are_read(tmp_path):
    """The reader sees every way an import is written."""
    source = "import a.b\nfrom c import d\nfrom . import e\nfrom ..f import g\ndef h():\n    import i\n"
    path = tmp_path / "m.py"
    path.write_text(source)
    assert imports(path, "p.q.m") == {"a.b", "c.d", "p.q.e", "p.f.g", "i"}
    assert imports(path, "p.q.m", outer_only=True) == {"a.b", "c.d", "p.q.e", "p.f.g"}
    assert under("a.b", "a") and not under("ab", "a")


def test_package_imports_nothing_above_it():
    up = ("tests", "bench", "medclm", "conftest")
    assert offenders(layer("fastgrad"), lambda name: not under(name, *up)) == []


def test_ops_import_only_what_is_below():
    below = ("fastgrad.ops", "fastgrad.library", "fastgrad.reference", "fastgrad.triton_kernels")

    def allowed(name: str) -> bool:
        # `from fastgrad import library`
        return not under(name, "fastgrad") or under(name, *below)

    assert offenders(layer("fastgrad.ops"), allowed) == []


def test_library_imports_only_the_native_module():
    def allowed(name: str) -> bool:
        return not under(name, "fastgrad") or under(name, "fastgrad._native", "fastgrad.__version__")

    assert offenders(layer("fastgrad.library"), allowed) == []


def test_native_module_is_loaded_in_one_place():
    files = [path for path in layer("fastgrad") if name_of(path) != "fastgrad.library"]
    assert offenders(files, lambda name: not under(name, "fastgrad._native")) == []


def test_reference_imports_torch_numpy_and_itself():
    plain = ("torch", "numpy", "math", "dataclasses", "collections.abc", "typing", "__future__", "fastgrad.reference")
    assert offenders(layer("fastgrad.reference"), lambda name: under(name, *plain)) == []


def test_triton_kernels_import_triton_and_the_reference():
    """The reference for its table of formats and its names; the bare name belongs to another package."""
    plain = ("torch", "triton", "struct", "dataclasses", "functools", "itertools", "collections.abc", "__future__")
    below = (*plain, "fastgrad.reference", "fastgrad.triton_kernels")
    assert offenders(layer("fastgrad.triton_kernels"), lambda name: under(name, *below)) == []
    assert offenders(PYTHON, lambda name: not under(name, "triton_kernels")) == []


def test_triton_is_imported_where_used():
    """`import fastgrad` needs no Triton."""
    files = [path for path in layer("fastgrad") if not under(name_of(path), "fastgrad.triton_kernels")]
    assert offenders(files, lambda name: not under(name, "triton", "fastgrad.triton_kernels"), outer_only=True) == []


def test_nothing_imports_the_commands():
    """The experiments and their commands are leaves: no other part of the package rests on them."""
    experiments = ("fastgrad.cifar", "fastgrad.shrinkage_probe", "fastgrad.shrinkage_cli")
    files = [p for p in layer("fastgrad") if not under(name_of(p), *experiments, "fastgrad.cli")]
    assert offenders(files, lambda name: not under(name, *experiments)) == []


def test_nothing_imports_the_integrations():
    """They are leaves, too, and the only files that know a training framework."""
    files = [p for p in layer("fastgrad") if not under(name_of(p), "fastgrad.integrations")]
    assert offenders(files, lambda name: not under(name, "fastgrad.integrations", *FRAMEWORKS)) == []


def test_medclm_imports_public_names_of_fastgrad():
    """And its data side no torch: see also tests/medclm/test_cli.py."""
    public = (
        "fastgrad", "fastgrad.optim", "fastgrad.nn", "fastgrad.distributed", "fastgrad.integrations",
        "fastgrad.integrations.causal_lm", "fastgrad.activations", "fastgrad.shrinkage", "fastgrad.page",
        "fastgrad.plain_pickle",
    )  # fmt: skip
    files = layer("medclm")
    assert files
    known = lambda name: name in public or name.rpartition(".")[0] in public  # noqa: E731
    assert offenders(files, lambda name: not under(name, "fastgrad") or known(name)) == []
    data = [p for p in files if not under(name_of(p), "medclm.training", "medclm.models", "medclm.evaluation")]
    assert len(data) > 50
    assert offenders(data, lambda name: not under(name, "torch", "transformers"), outer_only=True) == []


def test_optional_packages_are_imported_where_used():
    """`import fastgrad` reaches, without any call, no module that needs more than torch and numpy."""
    files = {name_of(path): path for path in layer("fastgrad")}
    reached, waiting = set(), ["fastgrad"]
    while waiting:
        name = waiting.pop()
        if name in files and name not in reached:
            reached.add(name)
            for found in imports(files[name], outer_only=True):
                waiting += [found, found.rpartition(".")[0]]
    assert {"fastgrad.library", "fastgrad.ops.quantize", "fastgrad.reference.philox"} <= reached
    outer = [files[name] for name in sorted(reached)]
    assert offenders(outer, lambda name: name.partition(".")[0] not in OPTIONAL, outer_only=True) == []


def includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(), re.MULTILINE)


def test_numerics_include_only_themselves_and_the_standard():
    headers = [path for path in CSRC if path.parent.name == "numerics"]
    assert headers
    own = {path.name for path in headers}
    outside = [
        (path.name, name)
        for path in headers
        for name in includes(path)
        if name.removeprefix("numerics/") not in own and re.search(r"[/.]", name) and name != "math.h"
    ]
    assert outside == []


SEAM = ("bindings.cpp", "bindings.h", "arguments.h", "tensor_list.h")  # between Python and the kernels


def test_kernels_know_no_python():
    outside = [
        (path.name, name)
        for path in CSRC
        if path.name not in SEAM
        for name in includes(path)
        if re.search(r"torch|pybind|Python\.h|ATen|c10", name)
    ]
    assert outside == []
    assert any("pybind11" in name for name in includes(ROOT / "csrc" / "arguments.h"))


def test_bindings_know_no_torch():
    assert [n for path in CSRC for n in includes(path) if re.search(r"torch|ATen|c10", n)] == []


FILES = [(str(path.relative_to(ROOT)), path) for path in (*PYTHON, *CSRC)]


@pytest.mark.parametrize("path", [pytest.param(path, id=name) for name, path in FILES])
def test_file_is_short(path):
    assert len(path.read_text().splitlines()) < 500
