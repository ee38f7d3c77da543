"""The process in which one contestant trains: ``python -m bench.medclm_training.child '{...}' OUT.json``."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

from transformers import AutoModelForImageTextToText, AutoProcessor  # noqa: F401  what every run imports

import medclm.models  # noqa: F401
from bench.machine import Others
from bench.medclm_training.contestants import CONTESTANTS
from bench.memory_tiers import resident
from medclm.training.loop import products
from medclm.training.ranks import joined
from medclm.training.run_folder import RunFolder
from medclm.training.settings import Settings

WARM = 3  # steps that are not timed


def main(request: str, out: str) -> None:
    asked = json.loads(request)
    imports = resident.now()
    contestant = CONTESTANTS[asked["contestant"]]
    settings = Settings(**asked["settings"], **contestant.settings)
    others = Others()
    with joined() as ranks, products(settings):
        training = contestant.loop(Path(asked["set"]), RunFolder(Path(asked["run"])), settings, ranks)
        training.run(False)
    lines = [line for line in training.at.lines() if "seconds" in line]
    found = {
        "parameters": sum(p.numel() for p in training.loaded.model.parameters()),
        "imports": imports,
        "peak": resident.peak(),
        "seconds": statistics.median(line["seconds"] for line in lines[WARM:]),
        "tokens": statistics.median(line["tokens"] for line in lines[WARM:]),
        "validation": [line["validation"] for line in training.at.lines() if "validation" in line],
        "others": others.share(),
    }
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
