"""What a drawn picture is, and the vocabulary of the phantoms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FIELD_MM = 400.0  # edge of every picture

# The bit of an organ in a file of masks is its place here.
ORGANS = (
    "right lung", "left lung", "right upper lobe", "right middle lobe", "right lower lobe", "left upper lobe",
    "left lower lobe", "heart", "liver", "spleen", "right kidney", "left kidney", "stomach", "spine", "right ribs",
    "left ribs",
)  # fmt: skip

CHEST_FINDINGS = ("nodule", "mass", "consolidation", "pleural effusion")
ABDOMEN_FINDINGS = ("cyst", "mass", "calcification")
LOBES: dict[str, tuple[str, ...]] = {
    "right": ("right upper lobe", "right middle lobe", "right lower lobe"),
    "left": ("left upper lobe", "left lower lobe"),
}
ABDOMEN: dict[str, tuple[str, ...]] = {"right": ("liver", "right kidney"), "left": ("spleen", "left kidney")}


@dataclass
class View:
    """kind: "chest x-ray", "chest ct" or "abdomen ct". pixels: float32 [H, W], written into by the lesions: grey 0 to
    255 of an X-ray, Hounsfield units of CT. masks: organ of ORGANS -> bool [H, W]."""

    kind: str
    pixels: np.ndarray
    masks: dict[str, np.ndarray]

    @property
    def size(self) -> int:
        return self.pixels.shape[0]

    @property
    def findings(self) -> tuple[str, ...]:
        """Every label that is looked for in such a picture."""
        return ABDOMEN_FINDINGS if self.kind == "abdomen ct" else CHEST_FINDINGS

    @property
    def hosts(self) -> dict[str, tuple[str, ...]]:
        """Side of the patient -> the organs there that lesions are put into."""
        return ABDOMEN if self.kind == "abdomen ct" else LOBES

    @property
    def window(self) -> tuple[float, float] | None:
        """Hounsfield units that are shown; None of an X-ray."""
        return {"chest ct": (-1000.0, 400.0), "abdomen ct": (-160.0, 240.0)}.get(self.kind)


def grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """x [1, W] and y [H, 1] of each pixel in shares of the edge, float32."""
    along = np.arange(size, dtype=np.float32) / size
    return along[None], along[:, None]


def split_lobes(
    right: np.ndarray, left: np.ndarray, upper: np.ndarray, middle: np.ndarray, left_upper: np.ndarray
) -> dict[str, np.ndarray]:
    """Lungs, bool [H, W], and where their lobes are -> masks. ``middle`` counts where ``upper`` is not."""
    return {
        "right lung": right,
        "left lung": left,
        "right upper lobe": right & upper,
        "right middle lobe": right & middle & ~upper,
        "right lower lobe": right & ~middle & ~upper,
        "left upper lobe": left & left_upper,
        "left lower lobe": left & ~left_upper,
    }
