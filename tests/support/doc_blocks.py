"""The code blocks of the Markdown pages: what is run, what is not and why."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SKIPPED, SLOW, ELSEWHERE = "# not run in the tests: ", "# run by pytest -m slow", "# run by tests/"
_FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
_SNIPPET = re.compile(r'^--8<-- "([^"]+)"$')


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    code: str

    @property
    def first(self) -> str:
        return self.code.partition("\n")[0]

    @property
    def reason(self) -> str | None:
        """Why it is not run; None: it is."""
        return self.first.removeprefix(SKIPPED) if self.first.startswith(SKIPPED) else None

    @property
    def elsewhere(self) -> Path | None:
        """The test file that runs it."""
        return ROOT / self.first.removeprefix("# run by ") if self.first.startswith(ELSEWHERE) else None

    @property
    def snippet(self) -> Path | None:
        """The file whose content it shows."""
        found = _SNIPPET.match(self.code.strip())
        return ROOT / found[1] if found else None

    @property
    def slow(self) -> bool:
        return self.first == SLOW

    @property
    def runs_here(self) -> bool:
        return self.reason is None and self.elsewhere is None and self.snippet is None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks() -> list[Block]:
    """Every python and bash block of every page."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for fence in _FENCE.finditer(text):
            line = text.count("\n", 0, fence.start()) + 1
            found.append(Block(str(page.relative_to(ROOT)), line, fence[2], fence[3]))
    return found


def commands(block: Block) -> Iterator[list[str]]:
    """The commands of a bash block, as words, comments and joined lines taken care of."""
    for line in block.code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = next((i for i, word in enumerate(words) if word in ("&&", "|", ";")), len(words))
            yield words[:end]
            words = words[end + 1 :]


def problem(words: list[str]) -> str | None:
    """What is wrong with a command, found without running it: a program, subcommand, option, module or file."""
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    if not words:
        return None
    program, *rest = words
    if program in ("fastgrad", "medclm"):
        return _typer_problem(program, rest)
    if program == "make":
        makefile = (ROOT / "Makefile").read_text()
        targets = [word for word in rest if "=" not in word]  # others are variables
        return next((f"no target {t}" for t in targets if not re.search(rf"^{t}:", makefile, re.MULTILINE)), None)
    if program in ("python", "torchrun"):
        rest = rest[rest.index("-m") :] if "-m" in rest else [w for w in rest if w.endswith(".py")]
        name = rest[1] if rest[:1] == ["-m"] else rest[0]
        if name in ("pytest", "mkdocs", "mypy"):
            return None
        known = (ROOT / name).exists() if name.endswith(".py") else importlib.util.find_spec(name) is not None
        return None if known else f"no {name}"
    if "/" in program:
        return None if (ROOT / program).exists() else f"no file {program}"
    return None if program in ("pip", "cd", "mkdocs", "pytest", "export") else f"unknown program {program}"


def _typer_problem(program: str, words: list[str]) -> str | None:
    if program == "fastgrad":
        from fastgrad import cli
        from fastgrad.cifar.cli import app as cifar
        from fastgrad.shrinkage_cli import app as shrinkage

        if not {group.name for group in cli.app.registered_groups} >= {"cifar", "shrinkage"}:
            cli.app.add_typer(cifar, name="cifar")
            cli.app.add_typer(shrinkage, name="shrinkage")
        app = cli.app
    else:
        from medclm import cli as medclm_cli

        app = medclm_cli.app
    command: Any = typer.main.get_command(app)  # of click, or of the copy that typer may bring
    trail = [program]
    while hasattr(command, "commands"):
        name, *words = words or [""]
        if name == "--help":
            return None
        if name not in command.commands:
            return f"{' '.join(trail)} has no subcommand {name!r}"
        command, trail = command.commands[name], [*trail, name]
    options = {name for p in command.params for name in (*p.opts, *p.secondary_opts)} | {"--help"}
    for word in words:
        if word.startswith("-") and not re.fullmatch(r"-\d.*", word) and word.partition("=")[0] not in options:
            return f"{' '.join(trail)} has no option {word}"
    return None
