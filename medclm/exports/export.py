"""One call: a set's folder in, a trainer's folder out."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from medclm import codecs, sets
from medclm.exports import conversations
from medclm.exports.conversations import InternVLWriter, JsonWriter
from medclm.exports.parquet import ParquetWriter
from medclm.exports.tars import TarWriter
from medclm.problems import DataError
from medclm.schema import FIELDS, SCHEMA_VERSION, SPLITS, STAGES


class Writer(Protocol):
    def add(self, part: str, row: Mapping) -> None: ...

    def close(self) -> None:
        """Finishes every file."""

    def abandon(self) -> None:
        """Lets go of every file: the folder is thrown away."""


def _json(record: conversations.Record, *, array: bool = False, pixels: bool = True) -> Callable[..., Writer]:
    return lambda folder, codec: JsonWriter(folder, codec, record, array=array, pixels=pixels)


def _annotations(row: Mapping, text: conversations.Turns, image: str) -> dict:
    return conversations.annotation(row, text)


@dataclass(frozen=True)
class Format:
    """writer(folder, codec); codec: what is used where none is asked for; pixels: whether images are written."""

    writer: Callable[..., Writer]
    codec: str = "plain"
    pixels: bool = True


FORMATS = {
    "llava": Format(_json(conversations.share_gpt, array=True)),
    "llava_med": Format(_json(conversations.llava_med, array=True)),
    "qwen": Format(_json(conversations.share_gpt, array=True), codec="qwen2_5_vl"),
    "internvl": Format(InternVLWriter, codec="internvl"),
    "paligemma": Format(_json(conversations.paligemma), codec="paligemma"),
    "jsonl": Format(_json(conversations.plain)),
    "annotations": Format(_json(_annotations, pixels=False), pixels=False),
    "trl": Format(lambda folder, codec: ParquetWriter(folder, codec, completion=False)),
    "trl_prompt": Format(lambda folder, codec: ParquetWriter(folder, codec, completion=True)),
    "webdataset": Format(TarWriter),
}


@dataclass
class _Report:
    """What was written, for ``export.json``."""

    rows: Counter = field(default_factory=Counter)
    licences: Counter = field(default_factory=Counter)
    left_out: Counter = field(default_factory=Counter)
    boxes: int = 0
    iou_sum: float = 0.0
    iou_lowest: float = 1.0

    def add(self, part: str, row: Mapping, codec: codecs.Codec) -> None:
        self.rows[part] += 1
        self.licences[row["licence"]] += 1
        for box in row["boxes"]:
            iou = codecs.round_trip_iou(box, (row["width"], row["height"]), codec)
            self.boxes, self.iou_sum, self.iou_lowest = self.boxes + 1, self.iou_sum + iou, min(self.iou_lowest, iou)

    def to_dict(self) -> dict:
        report = {
            "rows": dict(sorted(self.rows.items())),
            "licences": dict(sorted(self.licences.items())),
            "left_out_by_licence": dict(sorted(self.left_out.items())),
            "boxes": self.boxes,
        }
        if self.boxes:
            report["round_trip_iou"] = {
                "mean": round(self.iou_sum / self.boxes, 4),
                "lowest": round(self.iou_lowest, 4),
            }
        return report


def export(
    folder: Path,
    out: Path,
    format: str,
    *,
    codec: str | None = None,
    split: str | None = None,
    stages: Collection[str] = STAGES,
    licences: Collection[str] | None = None,
    by_stage: bool = False,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> dict:
    """Writes the rows of the set in ``folder`` into the new folder ``out``, and returns what ``out/export.json`` says:
    counts by part, licences, and what the codec's rounding leaves of the boxes.

    format     of FORMATS
    codec      of medclm.codecs.CODECS; None: the format's own
    split      of medclm.schema.SPLITS; None: all, each in files of its own
    stages     of medclm.schema.STAGES
    licences   rows of these alone; None: of all
    by_stage   a part is a split and a stage (``train-easy``), not a split
    min_pixels, max_pixels  of the model's image processor, for qwen2_5_vl

    Rows that a reviewer rejected are left out. A few rows are in memory at a time. ``out`` appears whole or not at
    all. Raises ValueError for an argument, DataError where there is nothing to write or ``out`` holds something.
    """
    folder, out = Path(folder), Path(out)
    if format not in FORMATS:
        raise ValueError(f"format: expected one of {', '.join(FORMATS)}, got {format!r}")
    if split is not None and split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    if unknown := set(stages) - set(STAGES):
        raise ValueError(f"stages: expected some of {', '.join(STAGES)}, got {', '.join(sorted(unknown))}")
    chosen = FORMATS[format]
    boxes = codecs.codec(codec or chosen.codec, min_pixels=min_pixels, max_pixels=max_pixels)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"out: expected a folder that is new or empty, got {out}")
    columns = [name for name, _ in FIELDS if chosen.pixels or name != "image"]
    out.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        report = _Report()
        writer = chosen.writer(made, boxes)
        try:
            for row in sets.rows(folder, split=split, columns=columns):
                if row["stage"] not in stages:
                    continue
                if licences is not None and row["licence"] not in licences:
                    report.left_out[row["licence"]] += 1
                    continue
                part = f"{row['split']}-{row['stage']}" if by_stage else row["split"]
                writer.add(part, row)
                report.add(part, row, boxes)
        except BaseException:
            writer.abandon()
            raise
        writer.close()
        if not report.rows:
            raise DataError(f"{folder}: no rows of split {split or 'any'}, stages {', '.join(stages)} and the licences")
        facts = {"format": format, "codec": boxes.name, "schema_version": SCHEMA_VERSION} | report.to_dict()
        (made / "export.json").write_text(json.dumps(facts, indent=2) + "\n")
        made.chmod(0o755)  # mkdtemp's is for its owner alone
        os.replace(made, out)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return facts
