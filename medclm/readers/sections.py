"""Findings of a volume, cut into slices: which slices become cases, and what a case of one says."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from medclm import boxes
from medclm.cases import Case, Lesion
from medclm.regions import Region


@dataclass(frozen=True)
class Section:
    """What one slice shows of one finding.

    finding  which of the volume's, from 0
    slice    index from the feet
    area     pixels
    """

    finding: int
    slice: int
    area: float
    lesion: Lesion


@dataclass(frozen=True)
class Policy:
    """Which sections become lesions and which slices cases.

    slices        "all" that show a finding; "largest": for each finding the slice with its largest section;
                  "every:N": each N-th of all
    min_area      pixels; smaller sections are left out, and their label is not called absent on their slice
    empty_slices  slices of a volume without any finding, spread evenly; only where the source is exhaustive
    """

    slices: str = "all"
    min_area: float = 9.0
    empty_slices: int = 0

    def __post_init__(self) -> None:
        if self.slices not in ("all", "largest") and not re.fullmatch(r"every:[1-9]\d*", self.slices):
            raise ValueError(f"slices: expected all, largest or every:N, got {self.slices!r}")
        if self.empty_slices < 0:
            raise ValueError(f"empty_slices: expected 0 or more, got {self.empty_slices}")

    def chosen(self, sections: Sequence[Section]) -> list[int]:
        """The slices, from the feet."""
        if self.slices == "largest":
            best: dict[int, Section] = {}
            for section in sorted(sections, key=lambda section: section.slice):
                if section.finding not in best or section.area > best[section.finding].area:
                    best[section.finding] = section
            return sorted({section.slice for section in best.values()})
        shown = sorted({section.slice for section in sections})
        return shown if self.slices == "all" else shown[:: int(self.slices.removeprefix("every:"))]


def components(
    labels: np.ndarray,  # integers [z, y, x]
    names: Mapping[int, str],
    voxel_mm3: float,
) -> Iterator[Section]:
    """The sections of every 3D connected component (26 neighbours) of every name, numbered through. Ids of one name are
    one label. Components are found in the volume, not on the slice: one lesion that a slice meets twice stays one.
    """
    from scipy import ndimage

    first = 0
    for name in dict.fromkeys(names.values()):
        marked = np.isin(labels, [value for value, named in names.items() if named == name])
        numbered, count = ndimage.label(marked, structure=np.ones((3, 3, 3), bool))
        volumes = np.bincount(numbered.ravel(), minlength=count + 1) * voxel_mm3
        for number, bounds in enumerate(ndimage.find_objects(numbered), start=1):
            attributes = {"volume_mm3": f"{volumes[number]:.0f}"}
            for z in range(bounds[0].start, bounds[0].stop):
                mask = np.zeros(labels.shape[1:], bool)
                mask[bounds[1:]] = numbered[z][bounds[1:]] == number
                yield masked(mask, first + number - 1, z, name, attributes)
        first += count


def masked(
    mask: np.ndarray,  # bool [H, W], not empty
    finding: int,
    slice: int,
    label: str,
    attributes: dict[str, str],
    readers: tuple[str, ...] = (),
) -> Section:
    """The section of a finding whose mask is known."""
    lesion = Lesion(label, boxes.from_mask(mask), Region.of(mask), attributes, readers)
    return Section(finding, slice, float(mask.sum()), lesion)


def cases(
    sections: Sequence[Section],
    whole: Case,
    policy: Policy,
    *,
    depth: int,
    looked_for: Sequence[str] = (),
) -> Iterator[Case]:
    """One case for each chosen slice, with every lesion on it.

    whole        the volume's case: its id gets the slice behind it, its image the index
    depth        slices of the volume
    looked_for   the labels whose every occurrence is marked; empty where a mark on one lesion says nothing of others
    """
    big = [section for section in sections if section.area >= policy.min_area]
    for z in policy.chosen(big):
        here = tuple(section.lesion for section in big if section.slice == z)
        marked = {section.lesion.label for section in sections if section.slice == z}  # also the small ones
        yield _slice(whole, z, here, tuple(name for name in looked_for if name not in marked))
    if policy.empty_slices and looked_for:
        touched = {section.slice for section in sections}
        # Not beside a finding either: partial volume shows it where its mask has ended.
        free = [z for z in range(depth) if touched.isdisjoint((z - 1, z, z + 1))]
        picks = np.linspace(0, len(free) - 1, min(policy.empty_slices, len(free))).round().astype(int)
        for z in (free[k] for k in picks):
            yield _slice(whole, z, (), tuple(looked_for))


def _slice(whole: Case, z: int, lesions: tuple[Lesion, ...], absent: tuple[str, ...]) -> Case:
    image = replace(whole.image, slice=z)
    return replace(whole, id=f"{whole.id}:{z:04d}", image=image, lesions=lesions, absent=absent)
