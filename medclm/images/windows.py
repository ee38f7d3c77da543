"""Stored values to grey: which range of them becomes 0..255."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Window = tuple[float, float]  # (lowest, highest) value; Hounsfield units for CT

# Hounsfield units. "soft" is the abdomen's usual level 40, width 400.
PRESETS: dict[str, Window] = {
    "lung": (-1350.0, 150.0),
    "soft": (-160.0, 240.0),
    "mediastinum": (-125.0, 225.0),
    "liver": (-20.0, 140.0),
    "bone": (-500.0, 1300.0),
    "brain": (0.0, 80.0),
    "subdural": (-32.5, 182.5),
}
MEDGEMMA3: tuple[Window, Window, Window] = ((-1024.0, 1024.0), (-135.0, 215.0), (0.0, 80.0))  # red, green, blue
NAMES = ("auto", "percentile", "medgemma3", *PRESETS)
AIR = -500.0  # values below it occur in Hounsfield units and in nothing else that is stored as a volume


def check(window: str | Window) -> None:
    """Raises ValueError where it is neither one of NAMES nor (lowest, highest)."""
    if isinstance(window, str):
        if window not in NAMES:
            raise ValueError(f"window: expected (lowest, highest) or one of {', '.join(NAMES)}, got {window!r}")
    elif len(window) != 2 or not window[0] < window[1]:
        raise ValueError(f"window: expected (lowest, highest) with lowest < highest, got {window!r}")


def percentiles(values: np.ndarray) -> Window:
    """The 0.5th and the 99.5th percentile of the finite values: a few bright pixels must not decide."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return (0.0, 1.0)
    low, high = np.percentile(finite, (0.5, 99.5))
    return (float(low), float(high))


def scaled(values: np.ndarray, window: Window) -> np.ndarray:  # [...] -> uint8 [...]
    """0 at and below the window's lowest value, 255 at and above the highest; NaN is 0."""
    low, high = window
    if not low < high:  # a constant image
        return np.zeros(values.shape, np.uint8)
    unit = (values.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    return np.rint(np.nan_to_num(unit.clip(0.0, 1.0), nan=0.0) * 255.0).astype(np.uint8)


def shown(
    values: np.ndarray,  # float [H, W]
    asked: str | Window,
    *,
    source: Window | None,
    hounsfield: bool,
    automatic: Callable[[], Window],
) -> np.ndarray:  # uint8 [H, W], or [H, W, 3] under "medgemma3"
    """The pixels under the window that was asked for.

    auto        the source's window; else "soft" for Hounsfield units, ``automatic()`` for anything else
    percentile  ``automatic()``
    medgemma3 and the presets are in Hounsfield units: for anything else they are "auto"
    """
    if not isinstance(asked, str):
        return scaled(values, asked)
    if asked == "percentile":
        return scaled(values, automatic())
    if asked == "medgemma3" and hounsfield:
        return np.stack([scaled(values, window) for window in MEDGEMMA3], axis=-1)
    if asked in PRESETS and hounsfield:
        return scaled(values, PRESETS[asked])
    if source is not None:
        return scaled(values, source)
    return scaled(values, PRESETS["soft"] if hounsfield else automatic())
