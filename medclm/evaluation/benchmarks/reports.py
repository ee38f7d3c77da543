"""Report generation from pairs of an image and its report on this disk:

    a csv file          image,report[,id,patient,modality,split]
    a json file         [{"image": "a.png" or [..], "report" or "findings" and "impression", ..}]
    R2Gen's annotation  {"train": [..], "val": [..], "test": [{"id", "report", "image_path": [..]}]}

Images are looked for beside the file, or in ``images`` there. Of several images of a report the first is shown. Where
there is a split, the test split is taken.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from medclm.evaluation.benchmarks import files
from medclm.evaluation.questions import REPORT, Benchmark, Question
from medclm.problems import DataError, Problems

WHAT = "reports"
NAMES = ("test.json", "annotation.json", "reports.csv", "*.csv")
REQUEST = "Write the radiology report of this image: findings, then impression."


def read(path: Path, problems: Problems, *, missing: str = "error") -> Benchmark:
    file = files.first_file(path, NAMES, WHAT)
    entries, others = _split(_entries(file), file)
    folder = file.parent / "images"
    images = files.Images(folder if folder.is_dir() else file.parent, missing, problems, WHAT)
    pairs = _pairs(entries, images, problems)
    return files.assemble(WHAT, file, f"Reports, {file.name}", pairs, trained_on=map(_image, others))


def _pairs(entries: list[dict], images: files.Images, problems: Problems) -> Iterator[tuple[Question, Path]]:
    for number, entry in enumerate(entries):
        id = files.text_of(entry.get("id")) or str(number)
        name, report = _image(entry), _report(entry)
        if not report:
            files.malformed(problems, f"report {id}", "expected a text, got none")
            continue
        place = images.find(f"report {id}", name)
        if place is None:
            continue
        modality = files.text_of(entry.get("modality"))
        yield (
            Question(
                id=id,
                question=REQUEST,
                answer=report,
                answer_type=REPORT,
                patient=files.text_of(entry.get("patient")),
                image=name,
                groups={"modality": (modality,)} if modality else {},
            ),
            place,
        )


def _entries(file: Path) -> list[dict]:
    try:
        if file.suffix == ".csv":
            with open(file, newline="", encoding="utf-8-sig") as raw:
                found = list(csv.DictReader(raw))
        elif file.suffix == ".jsonl":
            found = [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
        else:
            found = json.loads(file.read_bytes())
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise DataError(f"{WHAT}: expected a csv or json file at {file} ({error})") from None
    if isinstance(found, dict):
        found = [each | {"split": split} for split, entries in found.items() for each in entries]
    if not isinstance(found, list) or not found or not all(isinstance(entry, dict) for entry in found):
        raise DataError(f"{WHAT}: expected a list of pairs of image and report in {file}")
    for number, entry in enumerate(found):
        if not _image(entry) or not ({"report", "findings"} & set(entry)):
            raise DataError(
                f"{WHAT}: expected image and report (or image_path, or findings and impression) in entry {number} of "
                f"{file}, got {', '.join(map(str, entry))}"
            )
    return found


def _split(entries: list[dict], file: Path) -> tuple[list[dict], list[dict]]:
    """(test, train); all of them are test where none has a split."""
    splits = {files.text_of(entry.get("split")) for entry in entries}
    if splits == {""}:
        return entries, []
    if "test" not in splits:
        raise DataError(f"{WHAT}: expected entries with split 'test' in {file}, got {', '.join(sorted(splits))}")
    return ([e for e in entries if e.get("split") == "test"], [e for e in entries if e.get("split") == "train"])


def _image(entry: dict) -> str:
    found = entry.get("image") or entry.get("image_path") or ""
    return str(found[0]) if isinstance(found, list) and found else str(found or "")


def _report(entry: dict) -> str:
    if files.text_of(entry.get("report")):
        return files.text_of(entry["report"])
    return " ".join(filter(None, (files.text_of(entry.get(name)) for name in ("findings", "impression"))))
