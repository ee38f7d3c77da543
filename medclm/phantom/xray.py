"""A frontal chest film, drawn: the patient's right is on the left of the picture."""

from __future__ import annotations

import numpy as np

from medclm.phantom import noise
from medclm.phantom.shapes import Canvas, Pose, filled, open_curve
from medclm.phantom.views import View, grid, split_lobes

# Outlines through these points, from the apex down the ribs, along the diaphragm and up the mediastinum.
_RIGHT_LUNG = np.array([
    (0.405, 0.135), (0.335, 0.105), (0.255, 0.165), (0.185, 0.300), (0.150, 0.470), (0.132, 0.640), (0.128, 0.775),
    (0.200, 0.715), (0.290, 0.682), (0.375, 0.700), (0.425, 0.755), (0.432, 0.620), (0.445, 0.480), (0.445, 0.330),
    (0.435, 0.210),
])  # fmt: skip
_LEFT_LUNG = np.array([
    (0.595, 0.135), (0.665, 0.105), (0.745, 0.165), (0.815, 0.300), (0.850, 0.470), (0.868, 0.640), (0.872, 0.800),
    (0.800, 0.748), (0.720, 0.722), (0.660, 0.745), (0.600, 0.780), (0.580, 0.620), (0.570, 0.480), (0.575, 0.330),
    (0.575, 0.210),
])  # fmt: skip
_BODY = np.array([
    (0.420, 0.000), (0.410, 0.060), (0.300, 0.085), (0.130, 0.120), (0.030, 0.210), (0.010, 0.360), (0.060, 0.500),
    (0.065, 0.700), (0.055, 1.050), (0.945, 1.050), (0.935, 0.700), (0.940, 0.500), (0.990, 0.360), (0.970, 0.210),
    (0.870, 0.120), (0.700, 0.085), (0.590, 0.060), (0.580, 0.000),
])  # fmt: skip
_LIVER = np.array([
    (0.130, 0.800), (0.200, 0.725), (0.290, 0.692), (0.375, 0.710), (0.440, 0.765), (0.560, 0.800), (0.480, 0.880),
    (0.330, 0.950), (0.150, 0.985),
])  # fmt: skip
_RIBS = 9
_ROUGH = 0.008  # of the edge, that points of an outline differ between patients


def draw(size: int, patient: np.random.Generator, image: np.random.Generator) -> View:
    """patient: draws the anatomy; image: the vessels. Without noise: see :func:`expose`."""
    pose = Pose(patient, scale=((0.88, 0.90), (1.04, 1.06)), shift=0.02, tilt=0.04)
    right_outline, left_outline = pose.outline(_RIGHT_LUNG, _ROUGH), pose.outline(_LEFT_LUNG, _ROUGH)
    heart_width = patient.uniform(0.115, 0.150)
    heart_outline = pose.ellipse(
        (0.535 + 0.25 * (heart_width - 0.115), 0.635), (heart_width, 0.105), patient.uniform(0.3, 0.55)
    )
    body, liver = pose.outline(_BODY, _ROUGH), pose.outline(_LIVER, _ROUGH)
    stomach = pose.ellipse((0.72, 0.815), (patient.uniform(0.04, 0.07), 0.028), 0.15)
    heart = filled(heart_outline, size)
    ribs = {side: Canvas(size) for side in ("right ribs", "left ribs")}
    bones = Canvas(size)
    _draw_bones(bones, ribs, pose, patient)
    right, left = filled(right_outline, size) & ~heart, filled(left_outline, size) & ~heart
    masks = split_lobes(right, left, *_fissures(size, patient)) | {
        "heart": heart,
        "liver": filled(liver, size) & ~right,
        "stomach": filled(stomach, size) & ~left,
        "spine": filled(pose(np.array([(0.468, 0.02), (0.532, 0.02), (0.535, 0.99), (0.465, 0.99)])), size),
        **{side: canvas.mask() for side, canvas in ribs.items()},
    }
    for sign in (-1.0, 1.0):
        _draw_vessels(bones, np.array([0.5 + sign * 0.085, 0.45]), sign, image)
    soft = _soft(size, (body, right_outline, left_outline, heart_outline, stomach), pose)
    return View("chest x-ray", soft + bones.softened(0.002) * np.float32(image.uniform(0.75, 1.1)), masks)


def expose(view: View, seed: int, rng: np.random.Generator) -> None:
    """Texture, noise, contrast and brightness, over anatomy and lesions alike."""
    lungs = view.masks["right lung"] | view.masks["left lung"]
    view.pixels += noise.tissue(seed, view.size, rng) * np.where(lungs, np.float32(7.0), np.float32(4.0))
    view.pixels += noise.quantum(seed, view.size, rng) * np.float32(rng.uniform(2.5, 5.0))
    contrast, brightness = rng.uniform(0.85, 1.10), rng.uniform(-10.0, 12.0)
    view.pixels -= np.float32(110.0)
    view.pixels *= np.float32(contrast)
    view.pixels += np.float32(110.0 + brightness)


def _soft(
    size: int,
    outlines: tuple[np.ndarray, ...],  # of body, right lung, left lung, heart, stomach
    pose: Pose,
) -> np.ndarray:
    """float32 [H, W]: how much the soft parts hold back."""
    body, right, left, heart, stomach = outlines
    canvas = Canvas(max(size // 2, 1), 8).fill(body, 158).fill(right, 66).fill(left, 66)
    canvas.fill(
        pose(np.array([(0.44, 0.0), (0.56, 0.0), (0.585, 0.42), (0.56, 0.80), (0.44, 0.80), (0.425, 0.40)])), 176
    )
    canvas.fill(heart, 188).fill(stomach, 110)
    canvas.line(pose(np.array([(0.497, 0.0), (0.495, 0.16), (0.492, 0.30)])), 0.022, 150)  # the air in the trachea
    return canvas.softened(0.008, size)


def _draw_bones(bones: Canvas, ribs: dict[str, Canvas], pose: Pose, rng: np.random.Generator) -> None:
    slope, gap = rng.uniform(0.045, 0.085), rng.uniform(0.070, 0.078)
    for number in range(_RIBS):
        y = 0.125 + gap * number
        reach = 0.12 + 0.25 * min(1.0, (number + 1.2) / 4.5)
        for side, canvas in ribs.items():
            sign = -1.0 if side == "right ribs" else 1.0
            back = np.array([(0.03, 0.0), (0.35, -0.018), (0.75, 0.25), (1.0, 1.0)]) * (reach, slope * 1.5)
            front = np.array([(1.0, 1.0), (0.85, 1.75), (0.55, 2.3), (0.34, 2.45)]) * (reach, slope * 1.5)
            middle = np.array([0.5, y])
            curve = open_curve(pose(middle + back * (sign, 1.0)))
            bones.line(curve, 0.021, 24).line(curve, 0.011, 15)  # a rim that is denser than the middle
            bones.line(open_curve(pose(middle + front * (sign, 1.0))), 0.017, 12)
            canvas.line(curve, 0.021, 1)
    for sign in (-1.0, 1.0):
        points = np.array([(0.040, 0.185), (0.15, 0.150), (0.27, 0.132), (0.355, 0.150)]) * (sign, 1.0) + (0.5, 0.0)
        curve = open_curve(pose(points))
        bones.line(curve, 0.026, 32).line(curve, 0.014, 22)
    for y in np.arange(0.03, 1.0, 0.048):
        bones.fill(pose(np.array([(0.47, y), (0.53, y), (0.53, y + 0.037), (0.47, y + 0.037)])), 22)


def _fissures(size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the right upper, the right middle and the left upper lobe are, bool [H, W]. Here the lobes lie beside one
    another; in a patient they also lie behind one another."""
    x, y = grid(size)
    horizontal, oblique = rng.uniform(0.40, 0.46), rng.uniform(0.46, 0.53)
    middle = x - 0.27 > 0.35 * (y - 0.62) + rng.uniform(-0.02, 0.02)
    return y < horizontal + 0.12 * (x - 0.3), middle, y < oblique - 0.25 * (x - 0.72)


def _draw_vessels(canvas: Canvas, hilum: np.ndarray, sign: float, rng: np.random.Generator) -> None:
    """Branches that get thinner and fainter on their way out."""
    for angle in np.linspace(-1.25, 1.25, 9) + rng.uniform(-0.12, 0.12, 9):
        length = rng.uniform(0.10, 0.20)
        out = np.array([np.cos(angle) * sign, np.sin(angle)])
        bend = np.array([-out[1], out[0]]) * rng.uniform(-0.02, 0.02)
        middle, end = hilum + out * length * 0.5 + bend, hilum + out * length
        canvas.line(np.array([hilum, middle]), 0.009, 26).line(np.array([middle, end]), 0.005, 16)
        for turn in (-0.5, 0.5):
            side = np.array([np.cos(angle + turn) * sign, np.sin(angle + turn)])
            canvas.line(np.array([middle, middle + side * length * 0.6]), 0.003, 12)
