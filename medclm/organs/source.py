"""Where masks of organs come from: one protocol, and ``organ_source`` that makes a source out of a line of text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from medclm.organs.layers import Layer
from medclm.problems import DataError, Reason

if TYPE_CHECKING:
    from medclm.cases import Case
    from medclm.images.picture import Picture

SPECS = (
    "none",
    "auto",
    "lungs",
    "phantom[:FOLDER]",
    "totalsegmentator[-v1|-v2|-mr][:PATH]",
    "cxas[:PATH]",
    "torchxrayvision[-crop][:PATH]",
    "chexmask:CSV",
    "slake[:FOLDER]",
)


Mask = np.ndarray | Layer  # bool [H, W], or what is one when it is looked at


class OrganError(Exception):
    """No masks for one case: counted by its reason, or raised further under ``--strict``. ``what`` names the file and
    what is wrong with it; whoever counts it names the case."""

    def __init__(self, reason: Reason, what: str) -> None:
        super().__init__(f"{reason.value}: {what}")
        self.reason = reason
        self.what = what

    def __reduce__(self) -> tuple:  # comes back whole from another process
        return type(self), (self.reason, self.what)


class OrganSource(Protocol):
    @property
    def name(self) -> str:
        """As in a spec, for the provenance of a set."""

    def masks(self, case: Case, picture: Picture) -> Mapping[str, Mask]:
        """Canonical organ name -> bool [H, W] on the picture's grid, none empty. Raises OrganError where the masks of
        this case are missing, unreadable or on another grid."""


@dataclass(frozen=True)
class NoOrgans:
    """The source "none": every lesion lies in the background."""

    name: str = "none"

    def masks(self, case: Case, picture: Picture) -> dict[str, np.ndarray]:
        return {}


def organ_source(spec: str, *, merge_lobes: bool = False) -> OrganSource:
    """One of SPECS -> a source. PATH: a folder in which each case's masks are found by ``case.organs`` or by the name
    of its image; without it ``case.organs`` must say where.

    merge_lobes  of the lungs, for totalsegmentator and cxas
    """
    kind, _, place = spec.partition(":")
    root = Path(place) if place else None
    if root is not None and not root.exists():
        raise DataError(f"organs: expected a path that exists, got {place!r} in {spec!r}")
    if kind == "none" and root is None:
        return NoOrgans()
    if kind == "auto" and root is None:
        from medclm.organs.automatic import Automatic

        return Automatic()
    if kind == "lungs" and root is None:
        from medclm.organs.lungs import Lungs

        return Lungs()
    if kind == "phantom":
        from medclm.organs.phantoms import Phantoms

        return Phantoms(root)
    if kind == "slake":
        from medclm.organs.slake import Slake

        return Slake(root)
    if kind in ("totalsegmentator", "totalsegmentator-v1", "totalsegmentator-v2", "totalsegmentator-mr"):
        from medclm.organs.totalsegmentator import TotalSegmentator

        return TotalSegmentator(root, version=kind.partition("-")[2] or None, merge_lobes=merge_lobes)
    if kind == "cxas":
        from medclm.organs.cxas import Cxas

        return Cxas(root, merge_lobes=merge_lobes)
    if kind in ("torchxrayvision", "torchxrayvision-crop"):
        from medclm.organs.xray_vision import XrayVision

        return XrayVision(root, fit="centre crop" if kind.endswith("-crop") else "stretch")
    if kind == "chexmask" and root is not None:
        from medclm.organs.chexmask import CheXmask

        return CheXmask(root)
    raise DataError(f"organs: expected one of {', '.join(SPECS)}; got {spec!r}")
