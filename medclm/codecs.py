"""How models write boxes: one table of codecs, from pixels to text and back.

Rounding costs: :func:`round_trip_iou` says what is left of a box. Sources: the model cards and processors of each
family; where a processor in transformers has the conversion, the tests compare with it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from medclm.boxes import Box, clip, iou

Size = tuple[int, int]  # (width, height) in pixels of the image that the boxes are on
Found = tuple[str | None, Box]  # the label beside a box, where the text has one
Numbers = tuple[float, ...]  # as written; whole but for plain
PLACEHOLDER = re.compile(r"<box:(\d+)>")


def smart_resize(width: int, height: int, factor: int, min_pixels: int, max_pixels: int) -> Size:
    """The size to which the image processors of Qwen2-VL and Qwen2.5-VL bring an image: multiples of ``factor`` with
    min_pixels <= area <= max_pixels, the aspect ratio nearly kept."""
    new_width, new_height = round(width / factor) * factor, round(height / factor) * factor
    if new_width * new_height > max_pixels:
        shrink = math.sqrt(width * height / max_pixels)
        new_width = max(factor, math.floor(width / shrink / factor) * factor)
        new_height = max(factor, math.floor(height / shrink / factor) * factor)
    elif new_width * new_height < min_pixels:
        grow = math.sqrt(min_pixels / (width * height))
        new_width, new_height = math.ceil(width * grow / factor) * factor, math.ceil(height * grow / factor) * factor
    return new_width, new_height


@dataclass(frozen=True)
class Codec:
    """One way to write a box.

    grid     (columns, rows) that an image of a size is cut into; a coordinate is off by at most one cell after a round
             trip
    bins     coordinates of the box, in cells -> the integers (or decimals) that are written
    places   those numbers -> coordinates in cells
    write    (numbers x1 y1 x2 y2, label) -> text
    read     text -> (label, numbers x1 y1 x2 y2) of every box in it, in order
    """

    name: str
    grid: Callable[[Size], Size]
    bins: Callable[[Box, Size], Numbers]
    places: Callable[[Numbers, Size], Box]
    write: Callable[[Numbers, str], str]
    read: Callable[[str], list[tuple[str | None, Numbers]]]

    def encode(self, box: Box, size: Size, label: str = "") -> str:
        """The box, clipped to the image, as text. Raises ValueError where nothing of it is inside."""
        width, height = size
        x1, y1, x2, y2 = clip(box, width, height)
        if x2 <= x1 or y2 <= y1:
            raise ValueError(f"box: expected one with an inside in an image of {width} x {height}, got {box}")
        columns, rows = self.grid(size)
        cells = (x1 / width * columns, y1 / height * rows, x2 / width * columns, y2 / height * rows)
        return self.write(self.bins(cells, (columns, rows)), re.sub(r"[<>|\[\]]", " ", label).strip())

    def decode(self, text: str, size: Size) -> list[Found]:
        """Every box in the text, in pixels of an image of ``size``."""
        width, height = size
        columns, rows = self.grid(size)
        found = []
        for label, numbers in self.read(text):
            x1, y1, x2, y2 = self.places(numbers, (columns, rows))
            found.append((label, (x1 / columns * width, y1 / rows * height, x2 / columns * width, y2 / rows * height)))
        return found

    def bin(self, size: Size) -> tuple[float, float]:
        """(width, height) of a cell in pixels."""
        columns, rows = self.grid(size)
        return size[0] / columns, size[1] / rows


def _rounded(highest: int) -> Callable[[Box, Size], Numbers]:
    """To the nearest line; a side that would vanish takes the lines around it. ``highest``: below the cell count where
    the last line has no token."""

    def bins(cells: Box, grid: Size) -> Numbers:
        pairs = []
        for low, high, count in ((cells[0], cells[2], grid[0]), (cells[1], cells[3], grid[1])):
            top = min(highest, count)
            first, last = min(round(low), top), min(round(high), top)
            if first == last:
                first, last = math.floor(low), min(math.ceil(high), top)
            if first == last:  # on a line, or in the last cell
                first, last = (first - 1, last) if last == top else (first, last + 1)
            pairs.append((first, last))
        return pairs[0][0], pairs[1][0], pairs[0][1], pairs[1][1]

    return bins


def _lines(numbers: Numbers, grid: Size) -> Box:
    x1, y1, x2, y2 = map(float, numbers)
    return x1, y1, x2, y2


def _square(cells: int) -> Callable[[Size], Size]:
    return lambda size: (cells, cells)


def _labelled(pattern: str, order: Sequence[int] = (1, 2, 3, 4), label: int = 0) -> Callable:
    """``order``: the groups of the pattern that hold x1, y1, x2, y2; ``label``: the group before or behind them."""
    compiled = re.compile(pattern)

    def read(text: str) -> list[tuple[str | None, Numbers]]:
        return [
            (
                (match.groups()[label] or "").strip() or None,
                tuple(int(match.groups()[i]) for i in order),
            )
            for match in compiled.finditer(text)
        ]

    return read


_OBJECT = re.compile(r"\{[^{}]*\}")


def _json(key: str, order: Sequence[int]) -> tuple[Callable, Callable]:
    """Objects with a list under ``key``; ``order``: which of x1, y1, x2, y2 stands at each place of the list (the
    orders in use are their own inverse)."""

    def write(numbers: Numbers, label: str) -> str:
        entry: dict = {key: [numbers[i] for i in order]}
        return json.dumps(entry | ({"label": label} if label else {}), ensure_ascii=False)

    def read(text: str) -> list[tuple[str | None, Numbers]]:
        found = []
        for match in _OBJECT.finditer(text):
            try:
                entry = json.loads(match.group())
                label = entry.get("label")
                numbers = tuple(float(entry[key][i]) for i in order)
            except (ValueError, LookupError, TypeError, AttributeError):
                continue  # not a box: a model may write anything between braces
            if all(map(math.isfinite, numbers)):
                found.append((label if isinstance(label, str) else None, numbers))
        return found

    return write, read


def _qwen2_vl_write(numbers: Numbers, label: str) -> str:
    x1, y1, x2, y2 = numbers
    named = f"<|object_ref_start|>{label}<|object_ref_end|>" if label else ""
    return f"{named}<|box_start|>({x1},{y1}),({x2},{y2})<|box_end|>"


def _internvl_write(numbers: Numbers, label: str) -> str:
    return (f"<ref>{label}</ref>" if label else "") + f"<box>[{list(numbers)}]</box>"


def _paligemma_write(numbers: Numbers, label: str) -> str:
    x1, y1, x2, y2 = numbers
    return "".join(f"<loc{number:04d}>" for number in (y1, x1, y2, x2)) + (f" {label}" if label else "")


def _florence2_bins(cells: Box, grid: Size) -> Numbers:
    return tuple(min(math.floor(cell), count - 1) for cell, count in zip(cells, grid * 2, strict=True))


def _florence2_places(numbers: Numbers, grid: Size) -> Box:
    """The middles of the bins; a box within one bin gets all of it."""
    low, high = [n + 0.5 for n in numbers[:2]], [n + 0.5 for n in numbers[2:]]
    for axis in (0, 1):
        if low[axis] == high[axis]:
            low[axis], high[axis] = low[axis] - 0.5, high[axis] + 0.5
    return (low[0], low[1], high[0], high[1])


def _florence2_write(numbers: Numbers, label: str) -> str:
    return label + "".join(f"<loc_{number}>" for number in numbers)


_PATCHES = 32  # Kosmos-2: a side of the image, in patches


def _kosmos2_bins(cells: Box, grid: Size) -> Numbers:
    last = _PATCHES - 1
    x1, y1 = (min(math.floor(cell), last) for cell in cells[:2])
    x2, y2 = (max(math.ceil(cell - 1), 0) for cell in cells[2:])
    return x1, y1, max(x1, x2), max(y1, y2)


def _kosmos2_places(numbers: Numbers, grid: Size) -> Box:
    """The middles of the two patches; the whole patches where they share a row or a column."""
    x1, y1, x2, y2 = numbers
    if x1 == x2 or y1 == y2:
        return (float(x1), float(y1), float(x2 + 1), float(y2 + 1))
    return (x1 + 0.5, y1 + 0.5, x2 + 0.5, y2 + 0.5)


def _kosmos2_write(numbers: Numbers, label: str) -> str:
    x1, y1, x2, y2 = numbers
    first, last = y1 * _PATCHES + x1, y2 * _PATCHES + x2
    named = f"<phrase>{label}</phrase>" if label else ""
    return f"{named}<object><patch_index_{first:04d}><patch_index_{last:04d}></object>"


_KOSMOS2 = re.compile(r"(?:<phrase>([^<>]*)</phrase>)?<object><patch_index_(\d{4})><patch_index_(\d{4})></object>")


def _kosmos2_read(text: str) -> list[tuple[str | None, Numbers]]:
    found: list[tuple[str | None, Numbers]] = []
    for match in _KOSMOS2.finditer(text):
        (y1, x1), (y2, x2) = divmod(int(match[2]), _PATCHES), divmod(int(match[3]), _PATCHES)
        found.append((match[1] or None, (x1, y1, x2, y2)))
    return found


_PLAIN = re.compile(r"\[\s*([01]?\.\d+|[01])\s*" + r",\s*([01]?\.\d+|[01])\s*" * 3 + r"\]")


def _plain_write(numbers: Numbers, label: str) -> str:
    return "[" + ", ".join(f"{number / 1000:.3f}" for number in numbers) + "]"


def _plain_read(text: str) -> list[tuple[str | None, Numbers]]:
    return [(None, tuple(1000 * float(number) for number in match.groups())) for match in _PLAIN.finditer(text)]


_XYXY, _YXYX = (0, 1, 2, 3), (1, 0, 3, 2)
_BBOX_2D, _BOX_2D = _json("bbox_2d", _XYXY), _json("box_2d", _YXYX)
QWEN2_5_VL_PIXELS = (56 * 56, 14 * 14 * 4 * 1280)  # min_pixels, max_pixels


def _resized(min_pixels: int, max_pixels: int) -> Callable[[Size], Size]:
    return lambda size: smart_resize(*size, 28, min_pixels, max_pixels)


CODECS = {
    codec.name: codec
    for codec in (
        Codec(
            "qwen2_vl",
            _square(1000),
            _rounded(1000),
            _lines,
            _qwen2_vl_write,
            _labelled(
                r"(?:<\|object_ref_start\|>([^<>]*)<\|object_ref_end\|>)?"
                r"<\|box_start\|>\((\d+),(\d+)\),\((\d+),(\d+)\)<\|box_end\|>"
            ),
        ),
        Codec("qwen2_5_vl", _resized(*QWEN2_5_VL_PIXELS), _rounded(10**9), _lines, *_BBOX_2D),
        Codec("qwen3_vl", _square(1000), _rounded(1000), _lines, *_BBOX_2D),
        Codec(
            "internvl",
            _square(1000),
            _rounded(1000),
            _lines,
            _internvl_write,
            _labelled(
                r"(?:<ref>([^<>]*)</ref>)?<box>\s*\[\[\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*\]\]\s*</box>"
            ),
        ),
        Codec(
            "paligemma",
            _square(1024),
            _rounded(1023),
            _lines,
            _paligemma_write,
            _labelled(r"<loc(\d{4})><loc(\d{4})><loc(\d{4})><loc(\d{4})>(?: ([^<>;]+))?", (1, 0, 3, 2), 4),
        ),
        Codec(
            "florence2",
            _square(1000),
            _florence2_bins,
            _florence2_places,
            _florence2_write,
            _labelled(r"([^<>]*)<loc_(\d+)><loc_(\d+)><loc_(\d+)><loc_(\d+)>"),
        ),
        Codec("kosmos2", _square(_PATCHES), _kosmos2_bins, _kosmos2_places, _kosmos2_write, _kosmos2_read),
        Codec("gemma", _square(1000), _rounded(1000), _lines, *_BOX_2D),
        Codec("plain", _square(1000), _rounded(1000), _lines, _plain_write, _plain_read),
    )
}


def codec(name: str, *, min_pixels: int | None = None, max_pixels: int | None = None) -> Codec:
    """By name. qwen2_5_vl takes the ``min_pixels`` and ``max_pixels`` of the image processor that the model is trained
    with: its boxes are pixels of the image that this makes."""
    if name not in CODECS:
        raise ValueError(f"codec: expected one of {', '.join(CODECS)}, got {name!r}")
    if min_pixels is None and max_pixels is None:
        return CODECS[name]
    if name != "qwen2_5_vl":
        raise ValueError(f"min_pixels, max_pixels: expected with qwen2_5_vl only, got with {name}")
    lowest, highest = QWEN2_5_VL_PIXELS
    grid = _resized(lowest if min_pixels is None else min_pixels, highest if max_pixels is None else max_pixels)
    return replace(CODECS[name], grid=grid)


def round_trip_iou(box: Box, size: Size, codec: Codec) -> float:
    """Of the box (as far as it is in the image) and what is read back after it was written."""
    (_, back), *_ = codec.decode(codec.encode(box, size), size)
    return iou(clip(box, *size), back)


def render(
    text: str,
    boxes: Sequence[Box],
    labels: Sequence[str],  # one a box, "" for none
    size: Size,
    codec: Codec,
) -> str:
    """The text with ``<box:i>`` replaced by the i-th box. Raises ValueError where there is no such box."""

    def replaced(match: re.Match) -> str:
        index = int(match[1])
        if index >= len(boxes):
            raise ValueError(f"text: expected boxes below {len(boxes)}, got {match[0]}")
        return codec.encode(boxes[index], size, labels[index])

    return PLACEHOLDER.sub(replaced, text)
