"""Options of ``pytest bench``, and the path to the package when it is run from a checkout."""

import sys
from pathlib import Path

import pytest

root = str(Path(__file__).parent.parent)
if root not in sys.path:
    sys.path.append(root)  # last: an installed fastgrad is not hidden by the sources


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bench-lists", default="resnet56", help="tensor lists to time: resnet56,gpt,one,tiny")
    parser.addoption(
        "--bench-compile", action="store_true", help="time torch.compile, too (minutes to compile)"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each list, row and contestant, in the order of the tables."""
    from bench.contestants import ROWS

    if "contestant" not in metafunc.fixturenames:
        return
    cases = [
        pytest.param(name, row, contestant, id=f"{name}-{row.name}-{contestant.name}")
        for name in metafunc.config.getoption("--bench-lists").split(",")
        for row in ROWS.values()
        for contestant in row.contestants
        if contestant.kind != "compile" or metafunc.config.getoption("--bench-compile")
    ]
    metafunc.parametrize(("list_name", "row", "contestant"), cases)
