"""Lesions, painted into a view: each with its exact mask."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from medclm.phantom.views import FIELD_MM, View

NUMBERS = (0.30, 0.42, 0.19, 0.09)  # how often 0, 1, 2, 3 lesions are meant
_TRIES = 12  # places looked at before a lesion is left out
_MOST = 0.6  # of a lesion lies in the organ that it is put into
_VISIBLE_GREY, _VISIBLE_HU = 8.0, 25.0  # median change: twice the usual deviation of the noise, or it is no lesion
_SPREAD_HU = 200.0  # of what is patchy
_COARSE = 8  # pixels a cell, where places are looked for


@dataclass(frozen=True)
class Kind:
    """diameter: mm. edge: mm over which it fades. lobes: how far its outline leaves a circle, of the radius. grain: how
    patchy it is. xray: what is added to the grey values. ct: Hounsfield units that it has; relative: that it adds."""

    diameter: tuple[float, float]
    edge: float
    lobes: float
    grain: float
    xray: tuple[float, float] = (0.0, 0.0)
    ct: tuple[float, float] = (0.0, 0.0)
    relative: bool = False


_CHEST = {
    "nodule": Kind((9.0, 29.0), 4.0, 0.06, 0.0, xray=(20.0, 46.0), ct=(-60.0, 70.0)),
    "mass": Kind((31.0, 62.0), 7.0, 0.16, 0.25, xray=(26.0, 56.0), ct=(10.0, 70.0)),
    "consolidation": Kind((30.0, 66.0), 22.0, 0.32, 0.75, xray=(30.0, 62.0), ct=(-250.0, 0.0)),
}
_ABDOMEN = {
    "cyst": Kind((11.0, 36.0), 1.6, 0.03, 0.0, ct=(-2.0, 14.0)),
    "mass": Kind((13.0, 38.0), 3.0, 0.15, 0.5, ct=(-52.0, -30.0), relative=True),
    "calcification": Kind((5.0, 14.0), 1.2, 0.15, 0.2, ct=(260.0, 520.0)),
}


@dataclass(frozen=True)
class Painted:
    """organ: that it was put into. mask: bool [H, W]. diameter_mm: None of an effusion."""

    label: str
    organ: str
    mask: np.ndarray
    diameter_mm: float | None

    @property
    def side(self) -> str:
        """Of the patient: "liver" is right, "spleen" left."""
        if self.organ in ("liver", "spleen"):
            return "right" if self.organ == "liver" else "left"
        return self.organ.split(" ", 1)[0]


def paint(view: View, texture: np.ndarray, rng: np.random.Generator) -> list[Painted]:
    """Writes into ``view.pixels``; lesions keep apart. texture: float32 [H, W], mean 0, deviation 1, what is patchy."""
    painted: list[Painted] = []
    for _ in range(rng.choice(len(NUMBERS), p=NUMBERS)):
        label = view.findings[rng.integers(len(view.findings))]
        side = ("right", "left")[rng.integers(2)]
        if label == "pleural effusion":
            made = _effusion(view, f"{side} lung", painted, rng)
        else:
            hosts = view.hosts[side]
            made = _blob(view, label, hosts[rng.integers(len(hosts))], painted, texture, rng)
        if made is not None:
            painted.append(made)
    return painted


def _blob(
    view: View, label: str, organ: str, painted: list[Painted], texture: np.ndarray, rng: np.random.Generator
) -> Painted | None:
    kind = (_ABDOMEN if view.kind == "abdomen ct" else _CHEST)[label]
    diameter = rng.uniform(*kind.diameter)
    strength = np.float32(rng.uniform(*(kind.xray if view.kind == "chest x-ray" else kind.ct)))
    waves = rng.uniform(-1.0, 1.0, (2, 4)) * kind.lobes / np.arange(1.0, 5.0) ** 0.5
    radius = 0.5 * diameter * view.size / FIELD_MM
    for centre in _places(view.masks[organ], radius, rng):
        window, alpha = _shape(view.size, centre, radius, waves, kind)
        bound = _bound(view, organ)[window]
        inside = (alpha >= 0.5) & bound
        mostly = (inside & view.masks[organ][window]).sum() > _MOST * inside.sum()
        change = alpha * _grown(bound) * _change(view, window, kind, strength, texture)
        if mostly and np.median(np.abs(change[inside])) > (
            _VISIBLE_GREY if view.kind == "chest x-ray" else _VISIBLE_HU
        ):
            if not any((inside & other.mask[window]).any() for other in painted):
                break
    else:
        return None
    view.pixels[window] += change
    mask = np.zeros((view.size, view.size), bool)
    mask[window] = inside
    return Painted(label, organ, mask, diameter)


def _change(
    view: View, window: tuple[slice, slice], kind: Kind, strength: np.float32, texture: np.ndarray
) -> np.ndarray:
    """What is added where the lesion covers a pixel wholly, float32."""
    patch, grain = view.pixels[window], texture[window] * np.float32(kind.grain)
    if view.kind == "chest x-ray":
        return strength * np.clip(1.0 + 0.6 * grain, 0.3, 1.7) * _aired(patch)
    if kind.relative:
        return strength * np.clip(1.0 + 0.6 * grain, 0.2, 1.8)
    wanted = strength + grain * np.float32(_SPREAD_HU) - patch
    return np.maximum(wanted, 0.0) if view.kind == "chest ct" else wanted  # lung only gets denser


def _places(host: np.ndarray, radius: float, rng: np.random.Generator) -> Iterator[tuple[float, float]]:
    """Some (x, y) around which most of a circle lies in the host."""
    from scipy import ndimage

    step = max(min(_COARSE, host.shape[0] // 64), 1)
    cells = host[step // 2 :: step, step // 2 :: step]
    room = ndimage.distance_transform_edt(np.pad(cells, 1))[1:-1, 1:-1] * step
    rows, columns = np.nonzero(room >= max(min(1.05 * radius, 0.95 * float(room.max())), 1e-6))
    if len(rows):
        for pick in rng.integers(0, len(rows), _TRIES):
            x, y = (np.array([columns[pick], rows[pick]]) + rng.uniform(0.0, 1.0, 2)) * step
            yield float(x), float(y)


def _shape(
    size: int,
    centre: tuple[float, float],
    radius: float,  # pixels
    waves: np.ndarray,  # [2, 4]: cosines and sines of two to five lobes
    kind: Kind,
) -> tuple[tuple[slice, slice], np.ndarray]:
    """The part of the picture around it, and how much of each pixel there it covers, float32."""
    edge = max(kind.edge * size / FIELD_MM, 1.0)
    reach = int(np.ceil(radius * (1.0 + kind.lobes) + edge)) + 2
    x, y = centre
    rows = slice(max(int(y) - reach, 0), min(int(y) + reach + 1, size))
    columns = slice(max(int(x) - reach, 0), min(int(x) + reach + 1, size))
    dy = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] + np.float32(0.5 - y)
    dx = np.arange(columns.start, columns.stop, dtype=np.float32)[None] + np.float32(0.5 - x)
    angle = np.arctan2(dy, dx)
    outline = np.ones_like(angle)
    for order, (cosine, sine) in enumerate(waves.T.astype(np.float32), start=2):
        outline += cosine * np.cos(order * angle) + sine * np.sin(order * angle)
    covered = np.clip(0.5 + (np.float32(radius) * outline - np.hypot(dx, dy)) / np.float32(edge), 0.0, 1.0)
    return (rows, columns), covered.astype(np.float32)


def _grown(mask: np.ndarray) -> np.ndarray:
    """By two pixels: over the soft edge of an organ, so that no seam shows there."""
    grown = mask.copy()
    for axis in (0, 1):
        for shift in (-1, 1):
            near = np.roll(mask if axis == 0 else grown, shift, axis=axis)
            grown |= near | np.roll(near, shift, axis=axis)
    return grown


def _aired(grey: np.ndarray) -> np.ndarray:
    """0 to 1, [H, W]: less toward the brightness of the chest wall, so that no seam shows where a lung ends."""
    return np.clip((np.float32(172.0) - grey) / np.float32(70.0), 0.0, 1.0)


def _bound(view: View, organ: str) -> np.ndarray:
    """What a lesion cannot grow out of: its lung, or its organ; not its lobe."""
    if view.kind == "abdomen ct":
        return view.masks[organ]
    return view.masks["right lung" if organ.startswith("right") else "left lung"]


def _effusion(view: View, lung: str, painted: list[Painted], rng: np.random.Generator) -> Painted | None:
    """Fluid where gravity leaves it: at the base of a standing patient's film, at the back of a lying one's CT."""
    host = view.masks[lung]
    rows, columns = np.flatnonzero(host.any(axis=1)), np.flatnonzero(host.any(axis=0))
    height, width = rows[-1] - rows[0], columns[-1] - columns[0]
    share = rng.uniform(0.14, 0.42) if view.kind == "chest x-ray" else rng.uniform(0.10, 0.32)
    across = np.clip((np.arange(view.size) - columns[0]) / width, 0.0, 1.0)
    if lung == "right lung":
        across = 1.0 - across  # 0 at the mediastinum, 1 at the ribs
    rise = rng.uniform(0.05, 0.16) * height * across**3  # the meniscus climbs along the ribs
    level = rows[-1] - share * height - rise + (0.02 * height) * np.sin(3.0 * across + rng.uniform(0.0, 6.0))
    depth = np.arange(view.size)[:, None] - level[None]
    mask = host & (depth > 0.0)
    if not mask.any() or any((mask & other.mask).any() for other in painted):
        return None
    alpha = (_grown(mask) * np.clip(0.5 + depth / (0.012 * view.size), 0.0, 1.0)).astype(np.float32)
    if view.kind == "chest x-ray":
        view.pixels += alpha * np.float32(rng.uniform(58.0, 88.0)) * _aired(view.pixels)
    else:
        view.pixels += alpha * np.maximum(np.float32(rng.uniform(2.0, 20.0)) - view.pixels, 0.0)
    return Painted("pleural effusion", lung, mask, None)
