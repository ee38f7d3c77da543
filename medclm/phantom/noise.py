"""Noise and tissue texture: drawn once a seed, then cut out at random places, which costs no time an image."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

_MARGIN = 192  # pixels that the bank is larger than a picture, for places to cut


@lru_cache(maxsize=2)
def _bank(seed: int, size: int) -> dict[str, np.ndarray]:
    edge = size + _MARGIN
    rng = np.random.default_rng([seed, 2])
    white = rng.standard_normal((edge, edge), dtype=np.float32)
    frequency = np.hypot(np.fft.fftfreq(edge)[:, None], np.fft.rfftfreq(edge)[None])
    found = {"quantum": white}
    # Amplitude ~ 1 / f is tissue, a steeper fall is cloudy. Without the lowest, which would shift whole organs.
    for name, steepness in (("tissue", 1.0), ("cloud", 1.9)):
        shape = np.where(frequency > 3.0 / edge, np.maximum(frequency, 1.0 / edge) ** -steepness, 0.0)
        made = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((edge, edge))) * shape, s=(edge, edge))
        found[name] = (made / made.std()).astype(np.float32)
    return found


def _cut(whole: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    y, x, flip_y, flip_x = rng.integers(0, [_MARGIN, _MARGIN, 2, 2])
    part = whole[y : y + size, x : x + size]
    return part[:: 1 - 2 * flip_y, :: 1 - 2 * flip_x]


def quantum(seed: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """White, mean 0, deviation 1, float32 [size, size]."""
    return _cut(_bank(seed, size)["quantum"], size, rng)


def tissue(seed: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth, mean 0, deviation 1, float32 [size, size]."""
    return _cut(_bank(seed, size)["tissue"], size, rng)


def cloud(seed: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Smoother still, mean 0, deviation 1, float32 [size, size]."""
    return _cut(_bank(seed, size)["cloud"], size, rng)
