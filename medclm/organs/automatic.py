"""What is there for each case: masks it comes with, else the lungs of a CT, else none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from medclm.organs.lungs import Lungs
from medclm.organs.source import Mask, OrganSource
from medclm.organs.totalsegmentator import TotalSegmentator

if TYPE_CHECKING:
    from medclm.cases import Case
    from medclm.images.picture import Picture


@dataclass(frozen=True)
class Automatic:
    """The source "auto": a case that names TotalSegmentator masks has those; a CT slice without any the lungs of
    :mod:`medclm.organs.lungs`; the lesions of everything else lie in the background."""

    name: str = "auto"
    beside: OrganSource = field(default_factory=lambda: TotalSegmentator(None))
    lungs: OrganSource = field(default_factory=Lungs)

    def masks(self, case: Case, picture: Picture) -> Mapping[str, Mask]:
        if case.organs is not None:
            return self.beside.masks(case, picture)
        if case.modality == "CT" and picture.raw is not None:
            return self.lungs.masks(case, picture)
        return {}
