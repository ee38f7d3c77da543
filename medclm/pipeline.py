"""Cases -> a set on disk, by any engine: plan, make the shards, describe, swap in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from medclm import card, engines, sets
from medclm.building import Building, Plan
from medclm.cases import Case
from medclm.problems import DataError, Problems
from medclm.reviews import carry_over
from medclm.settings import Settings
from medclm.shards import Done
from medclm.whole_files import room_on_disk, write_whole


@dataclass(frozen=True)
class Progress:
    """Images of finished shards, of all; resumed: those that an earlier run had finished."""

    done: int
    total: int
    resumed: int


def convert_cases(
    cases: Iterable[Case],
    out: Path,
    settings: Settings,
    problems: Problems,  # of the reader: what it counts while the cases are drawn from it
    *,
    engine: str = "local",
    workers: int | None = None,
    restart: bool = False,
    report: Callable[[Progress], None] = lambda progress: None,
) -> dict:
    """The set at ``out``; returns its facts. Interrupted in any way, ``out`` is what it was, and the same call goes on.

    A set that was there is replaced when the new one is whole; verdicts of its review stay with the rows that are still
    the same. Raises DataError where it cannot go on.
    """
    building = Building(out)
    with room_on_disk(str(building.folder)), building.locked():
        plan = building.prepare(cases, settings, problems, restart=restart)
        if not plan.images:
            building.clear()
            raise DataError("annotations: expected at least one case, got none")
        finished = _make_all(building, plan, settings, engine, workers, report)
        problems = Problems.from_dict(plan.problems)
        for done in sorted(finished, key=lambda done: done.shard):
            problems.merge(Problems.from_dict(done.problems))
        found = card.facts(card.count(building.data), problems, settings, plan.hash)
        _write(building.set / "README.md", card.render(found, out.name))
        private = out.with_name(f"{out.name}.problems.json")
        _write(private, _json(card.private_report(problems, settings.salt)), mode=0o600)
        _write(building.set / "set.json", _json(found))
        carry_over(out, building.set)
        building.publish()
    return sets.facts(out)


def _make_all(
    building: Building,
    plan: Plan,
    settings: Settings,
    engine: str,
    workers: int | None,
    report: Callable[[Progress], None],
) -> list[Done]:
    todo, finished = building.tasks(plan, settings)
    images = dict(plan.shards)
    resumed = done = sum(images[each.shard] for each in finished)
    report(Progress(done, plan.images, resumed))
    for each in engines.run(engine, todo, workers):
        finished.append(each)
        done += images[each.shard]
        report(Progress(done, plan.images, resumed))
    return finished


def _json(found: dict) -> str:
    return json.dumps(found, indent=2, sort_keys=True) + "\n"


def _write(path: Path, text: str, mode: int = 0o666) -> None:
    def write(temporary: Path) -> None:
        temporary.touch(mode)
        temporary.write_text(text)

    write_whole(path, write)
