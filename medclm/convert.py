"""Work items -> rows: the one function that every engine runs.

``convert`` is pure: a batch of items in, for each item its rows and its problems out; nothing else is read but the
files that the items name, and nothing is written. Equal items give equal rows on any machine and in any order.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medclm import png
from medclm.cases import Case
from medclm.planning import NO_LESION, domain
from medclm.privacy import hashed
from medclm.problems import DataError, Problems, Reason
from medclm.resizing import resize_case, resize_mask, resize_picture, stored_size
from medclm.schema import SCHEMA_VERSION
from medclm.settings import Settings

if TYPE_CHECKING:
    from medclm.images.picture import Picture
    from medclm.linking import LinkedCase
    from medclm.organs import OrganSource
    from medclm.organs.source import Mask
    from medclm.questions import Exchange, Rationales

LARGEST_MASKED = 1024  # pixels along a side of an image whose organs are looked for before it is resized
CONVERT_VERSION = 2  # counts changes after which equal items give other rows
PICTURES_KEPT = 32  # by Pictures; a partner is mostly one of the next ten images


@dataclass
class Prepared:
    """One image, read, linked and at its stored size; shared by the items that show it."""

    linked: LinkedCase  # boxes in stored pixels
    pixels: np.ndarray  # uint8 [H, W] or [H, W, 3]
    original: tuple[int, int]  # (width, height)
    identity: str  # salted hash of the case
    patient: str  # salted hash
    spacing: tuple[float, float] | None = None  # mm a stored pixel, (x, y)
    encoded: dict[tuple[int, ...], bytes] = field(default_factory=dict)  # lesions whose box is drawn -> PNG

    @cached_property
    def organ_regions(self) -> list[str]:
        """The host organ's mask of each lesion, encoded; "" without mask."""
        return ["" if each.region is None else each.region.encode() for each in self.linked.links]

    def drawn(self, lesions: tuple[int, ...]) -> np.ndarray:  # uint8 [H, W, 3]
        from medclm.drawing import draw_boxes

        return draw_boxes(self.pixels, [self.linked.case.lesions[number].box for number in lesions])

    def image(self, lesions: tuple[int, ...] = ()) -> bytes:
        """PNG with the boxes of these lesions drawn into it."""
        if lesions not in self.encoded:
            self.encoded[lesions] = png.encode(self.drawn(lesions) if lesions else self.pixels)
        return self.encoded[lesions]


@dataclass
class Pictures:
    """The images that were shown last, under one settings: items that lie near one another show the same ones."""

    most: int = PICTURES_KEPT
    known: OrderedDict[tuple[str, str], tuple[Prepared | None, Problems]] = field(default_factory=OrderedDict)

    def of(self, case: dict, settings: Settings, problems: Problems, *, counted: bool) -> Prepared | None:
        """case: as in an item. A partner's problems are counted with the item whose own case it is, not once more."""
        key = (case["source"], case["id"])
        if key not in self.known:
            found = Problems(settings.strict)
            self.known[key] = (prepare(Case.from_dict(case), settings, found), found)
        self.known.move_to_end(key)
        if len(self.known) > self.most:
            self.known.popitem(last=False)
        ready, found = self.known[key]
        if counted:
            problems.merge(found)
        return ready


def convert(batch: dict[str, list], pictures: Pictures | None = None) -> dict[str, list]:
    """``{"item": [JSON], "settings": [JSON]}`` -> ``{"rows": [[row, ...]], "problems": [JSON]}``, one element an item.

    An item is what :mod:`medclm.planning` writes. Rows are dicts by medclm.schema. pictures: of an earlier batch of the
    same settings; they save reading an image again, and change nothing else. Raises DataError under strict, or where
    the settings themselves cannot work.
    """
    pictures = Pictures() if pictures is None else pictures
    made: dict[str, list] = {"rows": [], "problems": []}
    for text, settings_text in zip(batch["item"], batch["settings"], strict=True):
        settings = _settings(settings_text)
        item = json.loads(text)
        problems = Problems(settings.strict)
        own = pictures.of(item["case"], settings, problems, counted=True)
        partner = None
        if own is not None and item["partner"] is not None and "hard" in settings.stages:
            partner = pictures.of(item["partner"], settings, problems, counted=False)
        made["rows"].append([] if own is None else _rows(item, own, partner, settings, problems))
        made["problems"].append(json.dumps(problems.to_dict()))
    return made


@lru_cache(maxsize=4)
def _settings(text: str) -> Settings:
    return Settings.from_json(text)


@lru_cache(maxsize=4)
def _organ_source(spec: str) -> OrganSource:
    from medclm.organs import organ_source

    return organ_source(spec)


@lru_cache(maxsize=4)
def _rationales(spec: str, cache: str | None) -> Rationales | None:
    from medclm.questions import Rationales, teacher

    try:
        asked = teacher(spec)
    except ValueError as error:
        raise DataError(str(error)) from None
    return None if asked is None else Rationales(asked, None if cache is None else Path(cache))


def prepare(case: Case, settings: Settings, problems: Problems) -> Prepared | None:
    """Read, check, resize and link one image; None where it cannot be used, with the reason counted."""
    from medclm.images import ImageError, load
    from medclm.linking import link_case
    from medclm.organs import OrganError

    try:
        picture = load(case.image, window=settings.window, allow_burned_in=settings.allow_burned_in)
    except ImageError as error:
        problems.add(error.reason, f"{case.source} {case.id}: {error.what}")
        return None
    height, width = picture.pixels.shape[:2]
    told = (case.width or width, case.height or height)
    if told != (width, height):
        problems.add(Reason.IMAGE_SIZE, f"{case.source} {case.id}: {told[0]} x {told[1]}, is {width} x {height}")
        return None
    size = stored_size(width, height, settings.max_side)
    scaled = resize_case(case, (width, height), size, problems)
    try:
        picture, masks = _stored(case, scaled, picture, size, settings)
    except OrganError as error:
        problems.add(error.reason, f"{case.source} {case.id}: {error.what}")
        if error.reason is not Reason.MASK_MISSING:
            return None
        picture, masks = resize_picture(picture, size), {}  # the lesions are true without a host
    linked = link_case(
        scaled,
        masks,
        rule=settings.rule,
        threshold=settings.threshold,
        laterality_verified=picture.laterality_verified,
    )
    return Prepared(
        linked,
        np.ascontiguousarray(picture.pixels),
        (width, height),
        hashed("case", case.source, case.id, salt=settings.salt),
        hashed("patient", case.source, case.patient, salt=settings.salt),
        picture.spacing,
    )


def _stored(
    case: Case, scaled: Case, picture: Picture, size: tuple[int, int], settings: Settings
) -> tuple[Picture, Mapping[str, Mask]]:
    """The picture and its organ masks at the stored size.

    Masks of volumes must lie on the image's own grid, so they are looked for there; but a film has millions of pixels
    and may have a hundred organs: it is resized first. Without lesions no mask is looked for.
    """
    if not case.lesions:
        return resize_picture(picture, size), {}
    source = _organ_source(settings.organs)
    if max(picture.pixels.shape[:2]) > LARGEST_MASKED:
        picture = resize_picture(picture, size)
        return picture, source.masks(scaled, picture)
    masks = {name: resize_mask(mask, size) for name, mask in source.masks(case, picture).items()}
    return resize_picture(picture, size), masks


def _rows(item: dict, own: Prepared, partner: Prepared | None, settings: Settings, problems: Problems) -> list[dict]:
    from medclm.questions import QuestionSettings, exchanges

    wanted = QuestionSettings(kinds=settings.kinds, stages=settings.stages)
    asked = exchanges(own.linked, None if partner is None else partner.linked, wanted, spacing=own.spacing)
    provenance = hashed("provenance", _provenance(item, settings), salt=settings.salt)
    rationales = _rationales(settings.teacher, settings.teacher_cache)
    rows = []
    for exchange in asked:
        shown = partner if exchange.stage == "hard" else own
        if rationales is not None and exchange.stage != "hard":
            pixels = shown.drawn(exchange.about) if exchange.stage == "easy" else shown.pixels
            exchange = rationales.of(exchange, own.linked, pixels, problems, spacing=own.spacing)
        id = f"{own.identity}-{exchange.kind}-{exchange.stage}"
        rows.append(_row(id, item["split"], provenance, exchange, shown, settings))
    if not rows:
        case, unasked = own.linked.case, Problems()  # no fault of the data: counted under strict, too
        unasked.add(Reason.NOTHING_LEFT, f"{case.source} {case.id}")
        problems.merge(unasked)
    return rows


def _row(id: str, split: str, provenance: str, exchange: Exchange, shown: Prepared, settings: Settings) -> dict:
    case, links = shown.linked.case, shown.linked.links
    drawn = tuple(exchange.about) if exchange.stage == "easy" else ()
    labels = [lesion.label for lesion in case.lesions]
    label = labels[exchange.about[0]] if exchange.about else next(iter(labels), NO_LESION)
    return {
        "id": id,
        "case": shown.identity,
        "source": case.source,
        "split": split,
        "patient": shown.patient,
        "image": {"bytes": shown.image(drawn), "path": None},
        "width": case.width,
        "height": case.height,
        "orig_width": shown.original[0],
        "orig_height": shown.original[1],
        "modality": case.modality,
        "laterality_verified": shown.linked.laterality_verified,
        "domain": domain(label, case.modality),
        "boxes": [list(lesion.box) for lesion in case.lesions],
        "labels": labels,
        "organs": [each.organ for each in links],
        "organ_score": [each.score for each in links],
        "organ_iou": [each.iou for each in links],
        "organ_coverage": [each.coverage for each in links],
        "organ_regions": shown.organ_regions,
        "host_rule": settings.rule,
        "kind": exchange.kind,
        "stage": exchange.stage,
        "box_drawn": bool(drawn),
        "seed_text": exchange.seed_text,
        "question": exchange.question,
        "cot": exchange.cot,
        "answer": exchange.answer,
        "answer_type": exchange.answer_type,
        "cot_source": exchange.cot_source,
        "licence": case.licence,
        "provenance_hash": provenance,
    }


def _provenance(item: dict, settings: Settings) -> str:
    """File names, not folders: the same data elsewhere gives the same hash."""

    def placeless(case: dict | None) -> dict | None:
        if case is None:
            return None
        image = case["image"] | {"path": _name(case["image"]["path"])}
        return case | {"image": image, "organs": _name(case["organs"])}

    cases = [placeless(item["case"]), placeless(item["partner"])]
    return json.dumps([SCHEMA_VERSION, CONVERT_VERSION, cases, settings.of_rows], sort_keys=True)


def _name(path: str | None) -> str | None:
    return None if path is None else path.replace("\\", "/").rpartition("/")[2]
