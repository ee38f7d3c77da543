"""What a set says about itself: ``set.json`` for programs, ``README.md`` for people.

Neither names a file or a patient. Of what was left out they give counts and references; the texts behind the references
name cases and files, so they are written beside the set, in ``OUT.problems.json``, which is not to be passed on.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from medclm.privacy import hashed
from medclm.problems import Problems
from medclm.schema import SCHEMA_VERSION
from medclm.settings import Settings

OF_ROWS = ("split", "stage", "kind", "answer_type", "cot_source", "source", "licence")
COLUMNS = ("case", "patient", "modality", "labels", "organs", *OF_ROWS)
LOADING = """```python
from pathlib import Path
from medclm import sets

for row in sets.rows(Path("."), split="train"):
    print(row["question"], row["answer"])
```
"""
AT_ONCE = 4096  # rows; without their images


def count(data: Path) -> dict:
    """Rows by what they are; images, and lesions by label and host organ, each image once however many rows show it."""
    rows: dict[str, Counter] = {name: Counter() for name in OF_ROWS}
    names = ("modality", "label", "organ", "images_by_split", "patients_by_split")
    once: dict[str, Counter] = {name: Counter() for name in names}
    cases: set = set()
    patients: set = set()
    for path in sorted(data.glob("*.parquet")):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(AT_ONCE, columns=list(COLUMNS)):
                for name in OF_ROWS:
                    for entry in batch.column(name).value_counts().to_pylist():
                        rows[name][entry["values"]] += entry["counts"]
                new = {case: row for row, case in enumerate(batch.column("case").to_pylist()) if case not in cases}
                cases |= new.keys()
                for row in batch.take(pa.array(new.values(), pa.int64())).to_pylist():
                    if row["patient"] not in patients:
                        patients.add(row["patient"])
                        once["patients_by_split"][row["split"]] += 1
                    once["images_by_split"][row["split"]] += 1
                    once["modality"][row["modality"]] += 1
                    once["label"].update(row["labels"])
                    once["organ"].update(row["organs"])
    totals = {"rows": sum(rows["split"].values()), "images": len(cases), "patients": len(patients)}
    tables = {name: dict(sorted(found.items())) for name, found in (rows | once).items()}
    return totals | tables


def facts(counts: dict, problems: Problems, settings: Settings, plan: str) -> dict:
    """The content of ``set.json``."""
    public = {
        reason: {"count": entry["count"], "examples": [reference(each, settings.salt) for each in entry["examples"]]}
        for reason, entry in problems.to_dict().items()
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "settings": settings.public(),
        "plan": plan,
        "counts": counts,
        "problems": public,
    }


def reference(example: str, salt: str) -> str:
    """Of a problem's text, which may name a file or a patient."""
    return hashed("problem", example, salt=salt)[:8]


def private_report(problems: Problems, salt: str) -> dict:
    """The texts behind the references."""
    return {
        reason: {"count": entry["count"], "examples": {reference(each, salt): each for each in entry["examples"]}}
        for reason, entry in problems.to_dict().items()
    }


def render(found: dict, name: str) -> str:
    """``README.md``, with the header that dataset hubs read."""
    counts, settings = found["counts"], found["settings"]
    licences = sorted(counts["licence"])
    parts = [
        _front_matter(counts),
        f"# {name}\n",
        f"{counts['rows']:,} questions about {counts['images']:,} medical images of {counts['patients']:,} patients, "
        "made from lesion boxes and organ masks by `medclm convert`. Each row is one question with its image, the "
        "lesions' boxes, the organ that hosts each of them, reasoning and answer.\n",
        "Stages: *easy* has the boxes drawn into the image and reasoning that repeats them; *medium* is the same image "
        "without them; *hard* is another image of the same domain, with the answer alone. Reasoning was written by "
        "templates where `cot_source` says so. It restates annotations and is no medical advice.\n",
        f"Licences of the sources: {', '.join(licences) or 'none'}. They bind every copy and every extract.\n",
        "## Load\n",
        LOADING,
        'With `datasets`: `load_dataset("parquet", data_files={"train": "data/train-*.parquet"})`; the column `image` '
        "holds PNG bytes.\n",
        "Boxes are half-open pixels (x1, y1, x2, y2) of the stored image; `<box:0>` in a reasoning is the first of "
        "`boxes`. Splits are by patient: no patient is in two of them.\n",
        "## Counts\n",
        _by_split(counts),
        *(_table(title, counts[key]) for title, key in (
            ("Questions by stage", "stage"), ("Questions by kind", "kind"), ("Questions by answer", "answer_type"),
            ("Questions by reasoning", "cot_source"), ("Questions by source", "source"),
            ("Questions by licence", "licence"), ("Images by modality", "modality"), ("Lesions by label", "label"),
            ("Lesions by host organ", "organ"),
        )),
        "## Left out\n",
        _problems(found["problems"]),
        "## Settings\n",
        "```json\n" + json.dumps(settings, indent=2, sort_keys=True) + "\n```\n",
    ]  # fmt: skip
    return "\n".join(part for part in parts if part)


def _front_matter(counts: dict) -> str:
    splits = "\n".join(f"  - split: {split}\n    path: data/{split}-*.parquet" for split in counts["split"])
    return (
        "---\ntask_categories:\n- visual-question-answering\ntags:\n- medical\n"
        + (f"configs:\n- config_name: default\n  data_files:\n{splits}\n" if splits else "")
        + "---\n"
    )


def _by_split(counts: dict) -> str:
    lines = ["| split | patients | images | questions |", "| --- | ---: | ---: | ---: |"]
    for split, rows in counts["split"].items():
        patients, images = counts["patients_by_split"][split], counts["images_by_split"][split]
        lines.append(f"| {split} | {patients:,} | {images:,} | {rows:,} |")
    return "\n".join(lines) + "\n"


def _table(title: str, found: Mapping[str, int]) -> str:
    if not found:
        return ""
    lines = [f"| {title} | |", "| --- | ---: |"]
    lines += [f"| {_cell(name)} | {n:,} |" for name, n in sorted(found.items(), key=lambda each: (-each[1], each[0]))]
    return "\n".join(lines) + "\n"


def _problems(found: dict) -> str:
    if not found:
        return "Nothing.\n"
    lines = ["| reason | count | references |", "| --- | ---: | --- |"]
    lines += [f"| {reason} | {entry['count']:,} | {', '.join(entry['examples'])} |" for reason, entry in found.items()]
    return "\n".join(lines) + "\n\nThe maker of the set can look the references up in the report beside it.\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|") or "(none)"
