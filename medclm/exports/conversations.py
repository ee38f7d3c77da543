"""Formats that are lines or lists of JSON beside a folder of images."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TextIO

from medclm.codecs import Codec
from medclm.exports.images import write_image
from medclm.exports.text import IMAGE_TOKEN, Turns, turns
from medclm.questions.choice import pick
from medclm.schema import FIELDS

Record = Callable[[Mapping, Turns, str], dict]  # row, its two turns, the image's path -> what is written

_LLAVA_MED_DOMAINS = {"XR": "chest_xray", "MR": "mri", "pathology": "histology", "CT": "ct_scan"}
_LLAVA_MED_KEYS = ("chest_xray", "mri", "histology", "gross", "ct_scan")


def share_gpt(row: Mapping, text: Turns, image: str) -> dict:
    """LLaVA's list of conversations; Qwen's fine-tuning code reads the same."""
    return {
        "id": row["id"],
        "image": image,
        "conversations": [
            {"from": "human", "value": f"{IMAGE_TOKEN}\n{text.question}"},
            {"from": "gpt", "value": text.reply},
        ],
        "stage": row["stage"],
        "answer_type": row["answer_type"],
    }


def llava_med(row: Mapping, text: Turns, image: str) -> dict:
    """With the domain, and the image before or behind the question, as LLaVA-Med's own data."""
    record = share_gpt(row, text, image)
    options = (f"{IMAGE_TOKEN}\n{text.question}", f"{text.question}\n{IMAGE_TOKEN}")
    record["conversations"][0]["value"] = pick(options, row["id"], "image first")
    own = _LLAVA_MED_DOMAINS.get(row["modality"])
    return record | {"domain": {name: name == own for name in _LLAVA_MED_KEYS}}


def internvl(row: Mapping, text: Turns, image: str) -> dict:
    return share_gpt(row, text, image) | {"width": row["width"], "height": row["height"]}


def paligemma(row: Mapping, text: Turns, image: str) -> dict:
    return {"id": row["id"], "image": image, "prefix": f"answer en {text.question}", "suffix": text.reply}


def plain(row: Mapping, text: Turns, image: str) -> dict:
    """Every field of the row, the image as a path, and the two turns."""
    return annotation(row, text) | {"image": image}


def annotation(row: Mapping, text: Turns) -> dict:
    """Every field of the row but the image, and the two turns."""
    fields = {name: row[name] for name, _ in FIELDS if name != "image"}
    return fields | {"prompt": text.question, "completion": text.reply}


class JsonWriter:
    """One file a part (``train.jsonl``); ``array``: one JSON list (``train.json``) instead of lines."""

    def __init__(self, folder: Path, codec: Codec, record: Record, *, array: bool, pixels: bool = True) -> None:
        self._folder, self._codec, self._record = folder, codec, record
        self._array, self._pixels = array, pixels
        self._open: dict[str, TextIO] = {}
        self._counts: dict[str, int] = {}

    def add(self, part: str, row: Mapping) -> None:
        image = write_image(row, self._folder) if self._pixels else ""
        line = json.dumps(self._record(row, turns(row, self._codec), image), ensure_ascii=False)
        if part not in self._open:
            self._open[part] = open(
                self._folder / f"{part}.{'json' if self._array else 'jsonl'}", "w", encoding="utf-8"
            )
            self._counts[part] = 0
            self._open[part].write("[\n" if self._array else "")
        elif self._array:
            self._open[part].write(",\n")
        self._open[part].write(line + ("" if self._array else "\n"))
        self._counts[part] += 1

    def close(self) -> None:
        for file in self._open.values():
            file.write("\n]\n" if self._array else "")
            file.close()

    def abandon(self) -> None:
        for file in self._open.values():
            file.close()


class InternVLWriter(JsonWriter):
    """Beside the lines, ``meta.json``: what InternVL's training script is given. ``root`` is filled in there."""

    def __init__(self, folder: Path, codec: Codec) -> None:
        super().__init__(folder, codec, internvl, array=False)

    def close(self) -> None:
        super().close()
        meta = {
            f"medclm_{part}": {
                "root": "",
                "annotation": f"{part}.jsonl",
                "data_augment": False,
                "repeat_time": 1,
                "length": count,
            }
            for part, count in self._counts.items()
        }
        (self._folder / "meta.json").write_text(json.dumps(meta, indent=2) + "\n")
