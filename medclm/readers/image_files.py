"""Where a source's images lie on this disk, and how large they are."""

from __future__ import annotations

import os
from pathlib import Path, PurePath

from medclm.problems import DataError, Problems, Reason

MISSING = ("error", "skip", "report")
EXTENSIONS = (".dicom", ".dcm", ".png", ".jpg", ".jpeg")  # tried where a source names images without


def choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raises DataError for an option's value that is not among those allowed."""
    if value not in allowed:
        raise DataError(f"{name}: expected one of {', '.join(allowed)}, got {value!r}")


class ImageFiles:
    """The images below a folder.

    missing     what happens to a case whose image is not there: "error" raises, "skip" leaves it out without a word
                (a part of a source was fetched), "report" leaves it out and counts it
    """

    def __init__(self, folder: Path | None, missing: str, problems: Problems) -> None:
        choice("missing", missing, MISSING)
        self._folder, self._missing, self._problems = folder, missing, problems
        self._by_name: dict[str, list[Path]] | None = None

    def find(self, where: str, *names: str) -> str | None:
        """The path of the first name that is there, or of a name with one of EXTENSIONS; None: leave the case out.

        A name without folders is found in any folder below; names that lead out of the folder are never followed.
        Without a folder: the first name, as it is. Raises DataError for two files of the name that is looked for.
        """
        if self._folder is None:
            return names[0]
        for name in names:
            if found := self._found(name):
                return str(found)
        what = f"{where}: {names[0]} below {self._folder}"
        if self._missing == "error":
            raise DataError(f"{Reason.IMAGE_MISSING.value}: {what}")
        if self._missing == "report":
            self._problems.add(Reason.IMAGE_MISSING, what)
        return None

    def _found(self, name: str) -> Path | None:
        pure = PurePath(name)
        if not name or pure.is_absolute() or ".." in pure.parts:
            return None
        spellings = (name, *(name + extension for extension in EXTENSIONS))
        for spelling in spellings:
            if (path := self._folder / spelling).is_file():
                return path
        if len(pure.parts) > 1:  # never a key of the index, which may take a walk over a million files
            return None
        if self._by_name is None:
            self._by_name = _files_by_name(self._folder)
        for spelling in spellings:
            paths = self._by_name.get(spelling, [])
            if len(paths) > 1:
                raise DataError(f"images: expected one file {spelling}, got {paths[0]} and {paths[1]}")
            if paths:
                return paths[0]
        return None


def _files_by_name(folder: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            found.setdefault(name, []).append(Path(parent, name))
    return found


def image_size(path: str | Path) -> tuple[int, int] | None:
    """(width, height) of a PNG or JPEG, from its first bytes; None where it is unreadable."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
