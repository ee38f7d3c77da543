"""Sections of a markdown file, each written by a command of its own, between two comments that name it."""

from __future__ import annotations

from pathlib import Path


def replace(path: Path, name: str, text: str, title: str) -> None:
    """Put ``text`` in the place of the section ``name``; the rest of the file stays.

    A file without that section gets it at its end, a file that does not exist begins with ``# title``.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    section = f"{begin}\n{text.strip()}\n{end}\n"
    whole = path.read_text() if path.exists() else f"# {title}\n"
    before, found, rest = whole.partition(begin)
    if found and end not in rest:
        raise ValueError(f"{path}: expected {end!r} after {begin!r}, found none")
    after = rest.partition(end)[2].lstrip("\n")
    path.write_text(before.rstrip("\n") + "\n\n" + section + ("\n" + after if after else ""))
