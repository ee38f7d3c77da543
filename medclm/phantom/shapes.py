"""Smooth outlines, and a canvas that fills them. Points are (x, y) in shares of the picture's edge."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

_STEPS = 8  # points a control point
_T = np.arange(_STEPS, dtype=np.float64)[:, None] / _STEPS
# Catmull-Rom: weights of four neighbouring control points along the stretch between the middle two.
_WEIGHTS = 0.5 * np.concatenate(
    [-_T + 2 * _T**2 - _T**3, 2 - 5 * _T**2 + 3 * _T**3, _T + 4 * _T**2 - 3 * _T**3, -(_T**2) + _T**3], axis=1
)


def closed_curve(points: np.ndarray) -> np.ndarray:  # [N, 2] -> [8 N, 2]
    """A smooth closed line through all points."""
    neighbours = np.stack([np.roll(points, shift, axis=0) for shift in (1, 0, -1, -2)], axis=1)  # [N, 4, 2]
    return np.einsum("sk,nkd->nsd", _WEIGHTS, neighbours).reshape(-1, 2)


def open_curve(points: np.ndarray) -> np.ndarray:  # [N, 2] -> [8 (N - 1) + 1, 2]
    """A smooth line from the first point to the last."""
    padded = np.concatenate([points[:1], points, points[-1:]])
    neighbours = np.stack([padded[k : len(points) - 1 + k] for k in range(4)], axis=1)  # [N - 1, 4, 2]
    return np.concatenate([np.einsum("sk,nkd->nsd", _WEIGHTS, neighbours).reshape(-1, 2), points[-1:]])


def ellipse(
    centre: tuple[float, float], radii: tuple[float, float], tilt: float, rng: np.random.Generator, wobble: float = 0.05
) -> np.ndarray:  # [N, 2]
    """tilt: radians, clockwise as seen. wobble: of the radius, so that no two outlines are alike."""
    angle = np.linspace(0.0, 2 * np.pi, 12, endpoint=False)
    radius = 1.0 + wobble * rng.uniform(-1.0, 1.0, angle.size)
    x, y = radii[0] * radius * np.cos(angle), radii[1] * radius * np.sin(angle)
    turned = np.stack([x * np.cos(tilt) - y * np.sin(tilt), x * np.sin(tilt) + y * np.cos(tilt)], axis=1)
    return closed_curve(turned + np.asarray(centre))


class Pose:
    """How one patient differs: everything is drawn through one change of size, place and tilt.

    scale: lowest and highest (x, y). shift: shares of the edge. tilt: radians.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        scale: tuple[tuple[float, float], tuple[float, float]],
        shift: float,
        tilt: float = 0.0,
    ) -> None:
        self._rng = rng
        self._scale = rng.uniform(*scale)
        self._shift = rng.uniform(-shift, shift, 2)
        self._tilt = rng.uniform(-tilt, tilt)

    def __call__(self, points: np.ndarray) -> np.ndarray:  # [N, 2]
        x, y = ((points - 0.5) * self._scale).T
        cos, sin = np.cos(self._tilt), np.sin(self._tilt)
        return np.stack([x * cos - y * sin, x * sin + y * cos], axis=1) + 0.5 + self._shift

    def outline(self, points: np.ndarray, by: float) -> np.ndarray:  # [N, 2] -> [8 N, 2]
        """A smooth closed line through the points, each moved by up to ``by``."""
        return closed_curve(self(points + self._rng.uniform(-by, by, points.shape)))

    def ellipse(
        self, centre: tuple[float, float], radii: tuple[float, float], tilt: float = 0.0, wobble: float = 0.05
    ) -> np.ndarray:
        return self(ellipse(centre, radii, tilt, self._rng, wobble))


_ACROSS = np.array([-1.0, 1.0])  # (x, y) turned by a quarter is (-y, x)


class Canvas:
    """One byte a pixel; what is drawn later lies on top."""

    def __init__(self, size: int, value: int = 0) -> None:
        self.size = size
        self._image = Image.new("L", (size, size), value)
        self._draw = ImageDraw.Draw(self._image)

    def fill(self, outline: np.ndarray, value: int = 1) -> Canvas:
        self._draw.polygon((outline * self.size).ravel().tolist(), fill=value)
        return self

    def line(self, points: np.ndarray, width: float, value: int) -> Canvas:
        """width: in shares of the edge."""
        if len(points) == 2:
            self._draw.line((points * self.size).ravel().tolist(), fill=value, width=max(round(width * self.size), 1))
            return self
        along = np.empty_like(points)
        along[1:-1], along[0], along[-1] = points[2:] - points[:-2], points[1] - points[0], points[-1] - points[-2]
        across = along[:, ::-1] * _ACROSS * (0.5 * width / np.sqrt((along**2).sum(axis=1, keepdims=True) + 1e-18))
        return self.fill(np.concatenate([points + across, (points - across)[::-1]]), value)

    def mask(self) -> np.ndarray:
        """bool [H, W]: where anything was drawn."""
        return np.asarray(self._image) != 0

    def softened(self, radius: float, size: int | None = None) -> np.ndarray:
        """float32 [size, size]: the mean over a square; radius in shares of the edge. A coarse canvas that is
        enlarged is soft for less work."""
        image = self._image.filter(ImageFilter.BoxBlur(radius * self.size))
        if size is not None and size != self.size:
            image = image.resize((size, size), Image.Resampling.BILINEAR)
        return np.asarray(image, dtype=np.float32)


def filled(outline: np.ndarray, size: int) -> np.ndarray:
    """bool [H, W]"""
    return Canvas(size).fill(outline).mask()
