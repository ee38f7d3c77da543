"""The folder in which a set is made, beside the set: ``OUT.building``.

    OUT.building/lock            held by the process that works in it
    OUT.building/cases.jsonl     the manifest: names files and patients, so it stays here
    OUT.building/plan.json       written when the items are; what a later run must agree with
    OUT.building/items/          work items, one file a shard
    OUT.building/done/           markers of finished shards, with their problems
    OUT.building/set/            becomes OUT in one step

Whatever stops a run, OUT is the old set or the new one, and the same command goes on where it stopped.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from medclm import planning, swapping
from medclm.cases import Case
from medclm.convert import CONVERT_VERSION
from medclm.privacy import hashed
from medclm.problems import DataError, Problems
from medclm.schema import SCHEMA_VERSION
from medclm.settings import Settings
from medclm.shards import Done, Task, read_done
from medclm.whole_files import make_folder, write_whole, writing


@dataclass(frozen=True)
class Plan:
    """hash: of the cases, the settings and the salt; says: what went into it, for a person; shards: (name, images)."""

    hash: str
    says: dict
    shards: tuple[tuple[str, int], ...]
    problems: dict  # of reading and planning: Problems.to_dict()

    @property
    def images(self) -> int:
        return sum(count for _, count in self.shards)


class Building:
    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out.with_name(f"{out.name}.building")
        self.manifest = self.folder / "cases.jsonl"
        self.items = self.folder / "items"
        self.done = self.folder / "done"
        self.set = self.folder / "set"
        self.data = self.set / "data"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """For this process alone. Raises DataError where another one is at work, or where OUT is something else than a
        set."""
        if (
            self.out.exists()
            and not (self.out / "set.json").exists()
            and (self.out.is_file() or any(self.out.iterdir()))
        ):
            raise DataError(f"out: expected a new name or a converted set, got {self.out}, which is something else")
        make_folder(self.folder, mode=0o700)  # names of patients
        with writing(self.folder / "lock"):
            lock = open(self.folder / "lock", "w")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DataError(f"out: another process is converting into {self.out}") from None
            try:
                self._heal()
                yield
            finally:
                if self.folder.exists() and self.plan() is None:
                    shutil.rmtree(self.folder)  # nothing to go on with

    def _heal(self) -> None:
        """Puts right what a kill in the last moment left."""
        swapping.put_back(self.out, self.folder / "replaced")
        marker = self.folder / "publishing"
        if marker.exists():
            if self.out.exists() and marker.read_text() == str(self.out.stat().st_ino):
                self.clear()  # OUT is the new set already; what is left here was to be deleted
            else:
                marker.unlink()

    def plan(self) -> Plan | None:
        try:
            raw = json.loads((self.folder / "plan.json").read_text())
        except FileNotFoundError:
            return None
        return Plan(**raw | {"shards": tuple((name, count) for name, count in raw["shards"])})

    def prepare(self, cases: Iterable[Case], settings: Settings, problems: Problems, *, restart: bool = False) -> Plan:
        """Read the cases and plan them; or agree with the plan that an earlier run left. Raises DataError where that
        was another one, and says in what."""
        if restart:
            self.clear()
        old = self.plan()
        if old is None:
            self.clear()
        fresh = self.manifest.with_suffix(".new")
        digests = []
        write_whole(fresh, lambda path: digests.append(planning.write_manifest(cases, path)))
        says = json.loads(settings.to_json()) | {
            "salt": hashed("salt", salt=settings.salt),
            "annotations": digests[0],
            "schema_version": SCHEMA_VERSION,
            "convert_version": CONVERT_VERSION,
        }
        del says["teacher_cache"]
        hash = hashed("plan", json.dumps(says, sort_keys=True), salt=settings.salt)
        if old is not None:
            _must_agree(old.says, says, self.folder)
            fresh.unlink()
            return old
        fresh.replace(self.manifest)
        shards = planning.write_items(self.manifest, self.items, settings, problems)
        plan = Plan(hash, says, tuple(shards), problems.to_dict())
        for folder in (self.done, self.data):
            make_folder(folder)
        write_whole(self.folder / "plan.json", lambda path: path.write_text(json.dumps(asdict(plan))))
        return plan

    def tasks(self, plan: Plan, settings: Settings) -> tuple[list[Task], list[Done]]:
        """What is still to do, and what is done."""
        self._drop_leftovers()
        todo, done = [], []
        for shard, _ in plan.shards:
            marker = read_done(self.done, self.data, shard)
            if marker is not None:
                done.append(marker)
            else:
                items = str((self.items / f"{shard}.jsonl").resolve())
                places = str(self.data.resolve()), str(self.done.resolve())
                todo.append(Task(shard, items, *places, settings.to_json()))
        return todo, done

    def _drop_leftovers(self) -> None:
        """Files that a killed worker had begun."""
        for leftover in self.data.glob(".*"):
            leftover.unlink(missing_ok=True)

    def publish(self) -> None:
        """``set/`` becomes OUT."""
        # A worker outlives its killed parent by a moment, in which it may begin a file after `tasks` has looked.
        self._drop_leftovers()
        for folder in (self.data, self.set):
            swapping.sync_folder(folder)
        (self.folder / "publishing").write_text(str(self.set.stat().st_ino))  # a rename keeps it
        swapping.take_place(self.set, self.out, self.folder / "replaced")
        shutil.rmtree(self.folder)

    def clear(self) -> None:
        """Everything but the lock; the plan first, since without it the rest is of no use."""
        for path in sorted(self.folder.iterdir(), key=lambda path: path.name != "plan.json"):
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink()


def _must_agree(old: dict, new: dict, folder: Path) -> None:
    changed = []
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            told = name in ("salt", "annotations", "teacher")  # too long or too private to show
            changed.append(f"{name} changed" if told else f"{name} was {old.get(name)!r}, is {new.get(name)!r}")
    if changed:
        raise DataError(
            f"{folder} holds an unfinished conversion with other settings: {'; '.join(changed)}. "
            "Finish it with the old ones, or begin anew with --restart"
        )
