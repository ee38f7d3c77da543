"""Options of ``pytest bench``, and the path to the package when it is run from a checkout."""

import sys
from pathlib import Path

import pytest

root = str(Path(__file__).parent.parent)
if root not in sys.path:
    sys.path.append(root)  # last: an installed fastgrad is not hidden by the sources


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bench-lists", default="resnet56", help="tensor lists to time: resnet56,gpt,one,tiny")
    parser.addoption("--bench-rows", default=None, help="rows to time (default all)")
    parser.addoption("--bench-dtype", default="fp32", help="of the gradients: fp32,bf16")
    parser.addoption("--bench-threads", default=None, help="e.g. 1,2 (default: torch's)")
    parser.addoption("--bench-isa", default=None, help="avx2,avx512: of fastgrad's kernels (default: the best)")
    parser.addoption(
        "--bench-compile", action="store_true", help="time torch.compile, too (minutes to compile)"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each setting, row and contestant, in the order of the tables."""
    import torch

    from bench.plan import BEST, Part
    from bench.rows import ROWS

    if "contestant" not in metafunc.fixturenames:
        return
    option = metafunc.config.getoption
    threads = option("--bench-threads") or str(torch.get_num_threads())
    cases, graphs = [], ("list", "tensor")
    for isa in (option("--bench-isa") or BEST).split(","):
        part = Part(
            tuple(option("--bench-lists").split(",")),
            tuple((option("--bench-rows") or ",".join(ROWS)).split(",")),
            tuple(option("--bench-dtype").split(",")),
            tuple(map(int, threads.split(","))),
            isa,
        )
        for name, dtype, count, row in part.settings():
            for contestant in ROWS[row].contestants:
                if dtype in contestant.dtypes and (contestant.compiles not in graphs or option("--bench-compile")):
                    place = f"{name}-{dtype}-{isa}-{count}-{row}-{contestant.name}"
                    cases.append(pytest.param((name, dtype, count, isa), ROWS[row], contestant, id=place))
    metafunc.parametrize(("setting", "row", "contestant"), cases)
