"""The docstrings as Markdown: an extension of griffe, for the pages that mkdocstrings makes of them.

Docstrings are written to be read in a terminal, by help(). Here ``code`` and :func:`names` become Markdown, tables of
equals signs become tables, and paragraphs of the form "argument: what it is" become lists.
"""

from __future__ import annotations

import re

import griffe

_ROLE = re.compile(r":(?:func|class|mod|meth):`~?([\w.]+)`")
_ARGUMENT = re.compile(r"[A-Za-z_][\w, ]*: \S")
_RULE = re.compile(r"=+( +=+)+\s*$")


def _inline(text: str) -> str:
    text = _ROLE.sub(r"`\1`", text)
    text = text.replace("``", "`")
    return re.sub(r"::$", ":", text)


def _table(lines: list[str]) -> list[str]:
    """A table between rules of equals signs, whose gaps are the columns."""
    starts = [m.start() for m in re.finditer(r"=+", lines[0])]
    spans = list(zip(starts, [*starts[1:], None], strict=True))
    rows = [[line[a:b].strip() for a, b in spans] for line in lines if not _RULE.match(line)]
    bars = ["| " + " | ".join(_inline(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return [bars[0], "|" + "---|" * len(spans), *bars[1:]]


def _paragraph(lines: list[str]) -> list[str]:
    if _RULE.match(lines[0]):
        return _table(lines)
    if lines[0].startswith(("    ", "- ", ">>> ")):
        return [_inline(line) if lines[0].startswith("- ") else line for line in lines]
    if not _ARGUMENT.match(lines[0]):
        return [_inline(line) for line in lines]
    listed = []
    for line in lines:
        if _ARGUMENT.match(line):
            name, _, rest = line.partition(": ")
            listed.append(f"- **{name}**: {_inline(rest)}")
        else:
            listed.append("  " + _inline(line.strip()))
    return listed


def markdown(text: str) -> str:
    paragraphs = re.split(r"\n\s*\n", text.strip("\n"))
    return "\n\n".join("\n".join(_paragraph(paragraph.split("\n"))) for paragraph in paragraphs)


class Docstrings(griffe.Extension):
    """Rewrites every docstring that is loaded; those in Google's style (theory) keep their sections."""

    def on_object(self, *, obj: griffe.Object, **rest: object) -> None:
        if obj.docstring is not None and not re.search(r"^(Args|Returns|Raises):$", obj.docstring.value, re.MULTILINE):
            obj.docstring.value = markdown(obj.docstring.value)
        elif obj.docstring is not None:
            obj.docstring.value = _ROLE.sub(r"`\1`", obj.docstring.value).replace("``", "`")
