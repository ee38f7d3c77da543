"""Commands on a disk that is full, read-only, or another user's: one line that names the path, and nothing is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from commands import Command
from small_cases import SALT, coco_file, files_of, small_cases, small_settings

from medclm.pipeline import convert_cases
from medclm.problems import Problems

SIZE = "96m"
NOBODY = 65534


@dataclass(frozen=True)
class Disk:
    """A file system of its own."""

    path: Path

    def fill(self) -> None:
        left = os.statvfs(self.path)
        with open(self.path / "filler", "wb") as file:
            os.posix_fallocate(file.fileno(), 0, left.f_bavail * left.f_frsize)

    def free(self) -> None:
        (self.path / "filler").unlink()

    def remount(self, mode: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{mode}", str(self.path)], check=True)


@pytest.fixture(scope="module")
def disk(tmp_path_factory) -> Iterator[Disk]:
    path = tmp_path_factory.mktemp("disk")
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=755", "fastgrad-tests", str(path)]
    try:
        made = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError as error:
        pytest.skip(f"no disk of its own: {error}")
    if made.returncode:
        pytest.skip(f"no disk of its own: {made.stderr.strip()}")
    try:
        few = small_cases(path / "images", 24)
        coco_file(few[:4], path / "few.json")
        coco_file(few, path / "all.json")
        (path / "salt").write_text(SALT)
        convert_cases(iter(few), path / "set", small_settings(), Problems(), workers=1)
        yield Disk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def words_of(name: str, disk: Path, out: Path) -> list[str]:
    words = {
        "cifar": "fastgrad cifar train --data digits --model small --epochs 12 --batch-size 64 --threads 1 "
        f"--device cpu --resume --out {out}",
        "convert": f"medclm convert coco --annotations {disk}/all.json --images {disk}/images --out {out} "
        f"--salt-file {disk}/salt --workers 1",
        "train": f"medclm train {disk}/set --out {out} --model tiny --batch 2 --max-steps 12 --checkpoint-every 3 "
        "--evaluate-every 0",
        "eval": f"medclm eval tiny --on {disk}/set --out {out} --batch 2 --limit 16 --max-new-tokens 4 --examples 2",
        "ablation": f"medclm ablation {disk}/set --out {out} --model tiny --arms adaptive --seeds 0 --max-steps 3 "
        "--batch 2 --questions 4 --evaluate-rows 2",
    }
    return words[name].split()


# What a killed command has to leave before the disk is filled, and what of it has to stay.
BEGUN: dict[str, Callable[[Path], Path]] = {
    "cifar": lambda out: out / "checkpoint.pt",
    "convert": lambda out: out,
    "train": lambda out: out / "checkpoint",
    "eval": lambda out: out / "set" / "predictions.jsonl",
    "ablation": lambda out: out / "adaptive-0" / "checkpoint",
}


def contents(place: Path) -> dict[str, bytes]:
    return files_of(place) if place.is_dir() else {place.name: place.read_bytes()}


def assert_one_line(outcome: tuple[int | None, str], out: Path) -> None:
    code, said = outcome
    errors = [line for line in said.splitlines() if line.startswith(("error:", "medclm:"))]
    assert code == 2 and len(errors) == 1 and "Traceback" not in said, said
    assert str(out) in errors[0], said


def begin(name: str, disk: Path, out: Path, said: Path) -> None:
    """Something good that must not be lost."""
    words = words_of(name, disk, out)
    if name == "cifar":
        words.remove("--resume")
    if name == "convert":  # an older set, whole
        words[words.index(f"{disk}/all.json")] = f"{disk}/few.json"
        assert Command(words, said).end()[0] == 0, said.read_text()
    else:
        good = BEGUN[name](out)
        Command(words, said).kill_when(lambda: good.exists() and good.stat().st_size > 0)
    assert BEGUN[name](out).exists(), said.read_text()


@pytest.mark.parametrize("name", BEGUN)
def test_full_disk(disk, tmp_path, name):
    out, said = disk.path / name, tmp_path / "said"
    begin(name, disk.path, out, said)
    good = contents(BEGUN[name](out))
    disk.fill()
    outcome = Command(words_of(name, disk.path, out), said).end()
    disk.free()
    assert_one_line(outcome, out)
    if name == "eval":  # lines that an unfinished batch left are asked anew
        kept = contents(BEGUN[name](out))["predictions.jsonl"]
        assert good["predictions.jsonl"].startswith(kept) and kept
    else:
        assert contents(BEGUN[name](out)) == good
    code, text = Command(words_of(name, disk.path, out), said).end()
    assert code == 0, text
    shutil.rmtree(out)


@contextmanager
def read_only(disk: Disk) -> Iterator[None]:
    disk.remount("ro")
    try:
        yield
    finally:
        disk.remount("rw")


@contextmanager
def of_another_user(disk: Disk) -> Iterator[None]:
    everything = [disk.path, *disk.path.rglob("*")]
    for path in everything:
        os.chown(path, NOBODY, NOBODY)
    try:
        yield
    finally:
        for path in everything:
            os.chown(path, 0, 0)


@pytest.mark.parametrize("why", [read_only, of_another_user])
@pytest.mark.parametrize("name", BEGUN)
def test_folder_that_cannot_be_written(disk, tmp_path, name, why):
    out, said = disk.path / f"{name}-kept", tmp_path / "said"
    begin(name, disk.path, out, said)
    good = contents(BEGUN[name](out))
    with why(disk):
        for place in (out, disk.path / "new"):  # one to go on in, one to begin in
            words = words_of(name, disk.path, place)
            if name == "cifar" and place != out:
                words.remove("--resume")
            assert_one_line(Command(words, said, bound=why is of_another_user).end(), place)
    assert contents(BEGUN[name](out)) == good
    assert not (disk.path / "new").exists()
    shutil.rmtree(out)
