"""Axial CT slices of chest and abdomen, drawn: seen from the feet, the patient's right on the left of the picture."""

from __future__ import annotations

import numpy as np

from medclm.phantom import noise
from medclm.phantom.shapes import Canvas, Pose, ellipse, filled
from medclm.phantom.views import View, grid, split_lobes

_LOWEST, _HIGHEST = -1000.0, 600.0  # Hounsfield units that a byte of the canvas spans
_AIR, _FAT, _MUSCLE, _LUNG = -1000, -105, 55, -850
_RIGHT_LUNG = np.array([
    (0.455, 0.335), (0.400, 0.270), (0.310, 0.265), (0.210, 0.335), (0.155, 0.470), (0.165, 0.610), (0.240, 0.720),
    (0.345, 0.745), (0.415, 0.690), (0.425, 0.590), (0.400, 0.500), (0.415, 0.410),
])  # fmt: skip
_LEFT_LUNG = np.array([
    (0.545, 0.335), (0.600, 0.270), (0.690, 0.265), (0.790, 0.335), (0.845, 0.470), (0.835, 0.610), (0.760, 0.720),
    (0.655, 0.745), (0.585, 0.690), (0.590, 0.620), (0.690, 0.560), (0.665, 0.420),
])  # fmt: skip
_LIVER = np.array([
    (0.155, 0.470), (0.190, 0.350), (0.300, 0.275), (0.430, 0.270), (0.560, 0.305), (0.570, 0.370), (0.480, 0.430),
    (0.440, 0.520), (0.400, 0.600), (0.320, 0.680), (0.220, 0.680), (0.165, 0.590),
])  # fmt: skip
_SPLEEN = np.array([
    (0.790, 0.470), (0.840, 0.530), (0.835, 0.630), (0.780, 0.710), (0.700, 0.735), (0.690, 0.690), (0.735, 0.620),
    (0.755, 0.540),
])  # fmt: skip
_STOMACH = np.array([(0.560, 0.370), (0.650, 0.290), (0.760, 0.330), (0.785, 0.430), (0.720, 0.500), (0.610, 0.470)])
_CAGE = (0.368, 0.263)  # radii of the ellipse that the ribs lie on
_ROUGH = 0.010  # of the edge, that points of an outline differ between patients


def draw(size: int, kind: str, patient: np.random.Generator) -> View:
    """kind: "chest ct" or "abdomen ct". patient: draws the anatomy. Without noise: see :func:`scan`."""
    pose = Pose(patient, scale=((1.00, 1.08), (1.10, 1.26)), shift=0.015)
    canvas = Canvas(size, _byte(_AIR))
    fat = patient.uniform(0.015, 0.050)
    canvas.fill(pose.ellipse((0.5, 0.51), (0.38 + fat, 0.275 + fat), 0.0, 0.015), _byte(_FAT))
    canvas.fill(pose.ellipse((0.5, 0.51), (0.38, 0.275), 0.0, 0.015), _byte(_MUSCLE))
    masks: dict[str, np.ndarray] = {}
    if kind == "chest ct":
        masks |= _chest(canvas, size, patient, pose)
    else:
        masks |= _abdomen(canvas, size, patient, pose)
    _skeleton(canvas, size, patient, pose, masks)
    hounsfield = canvas.softened(0.0018) * np.float32((_HIGHEST - _LOWEST) / 255.0) + np.float32(_LOWEST)
    return View(kind, hounsfield, masks)


def scan(view: View, seed: int, rng: np.random.Generator) -> None:
    """Texture and noise into the pixels, over anatomy and lesions alike: more in aerated lung."""
    aerated = (view.pixels > -950.0) & (view.pixels < -500.0)
    texture = np.where(aerated, np.float32(30.0), np.float32(9.0))
    view.pixels += noise.tissue(seed, view.size, rng) * texture
    view.pixels += noise.quantum(seed, view.size, rng) * np.float32(rng.uniform(8.0, 16.0))


def _byte(hounsfield: float) -> int:
    return round((np.clip(hounsfield, _LOWEST, _HIGHEST) - _LOWEST) * 255.0 / (_HIGHEST - _LOWEST))


def _chest(canvas: Canvas, size: int, rng: np.random.Generator, pose: Pose) -> dict[str, np.ndarray]:
    right_outline, left_outline = pose.outline(_RIGHT_LUNG, _ROUGH), pose.outline(_LEFT_LUNG, _ROUGH)
    heart_outline = pose.ellipse((0.555, 0.42), (rng.uniform(0.105, 0.130), 0.095), 0.55)
    canvas.fill(pose.ellipse((0.5, 0.50), (0.10, 0.16), 0.0), _byte(-60))  # fat of the mediastinum
    canvas.fill(right_outline, _byte(_LUNG)).fill(left_outline, _byte(_LUNG))
    for outline, hilum in ((right_outline, (0.405, 0.50)), (left_outline, (0.640, 0.615))):
        _draw_vessels(canvas, pose(np.array([hilum]))[0], outline, rng)
    canvas.fill(heart_outline, _byte(125))
    canvas.fill(pose.ellipse((0.575, 0.635), (0.028, 0.028), 0.0), _byte(170))  # descending aorta
    canvas.fill(pose.ellipse((0.495, 0.57), (0.018, 0.014), 0.0), _byte(-900))  # carina
    heart = filled(heart_outline, size)
    x, y = grid(size)
    upper_edge, oblique = rng.uniform(0.38, 0.44), rng.uniform(0.53, 0.60)
    right, left = filled(right_outline, size) & ~heart, filled(left_outline, size) & ~heart
    lobes = split_lobes(
        right,
        left,
        upper=y < upper_edge + 0.3 * (0.3 - x),
        middle=y < oblique + 0.3 * (x - 0.3),
        left_upper=y < rng.uniform(0.49, 0.56) - 0.3 * (x - 0.7),
    )
    return lobes | {"heart": heart}


def _abdomen(canvas: Canvas, size: int, rng: np.random.Generator, pose: Pose) -> dict[str, np.ndarray]:
    canvas.fill(pose.ellipse((0.5, 0.49), (0.345, 0.235), 0.0, 0.02), _byte(-95))  # fat around the organs
    outlines = {
        "liver": pose.outline(_LIVER, _ROUGH),
        "spleen": pose.outline(_SPLEEN, _ROUGH),
        "stomach": pose.outline(_STOMACH, _ROUGH),
        "right kidney": pose.ellipse((0.345, 0.665), (0.068, 0.078), 0.5, 0.04),
        "left kidney": pose.ellipse((0.650, 0.655), (0.068, 0.078), -0.5, 0.04),
    }
    values = {"liver": 105, "spleen": 118, "stomach": 35, "right kidney": 160, "left kidney": 160}
    for name, outline in outlines.items():
        canvas.fill(outline, _byte(values[name] + rng.uniform(-12.0, 12.0)))
    canvas.fill(pose.ellipse((0.680, 0.350), (0.050, 0.022), 0.2), _byte(-900))  # gas in the stomach
    for centre in ((0.368, 0.645), (0.628, 0.637)):
        canvas.fill(pose.ellipse(centre, (0.018, 0.024), 0.0), _byte(-40))  # fat of the renal sinus
    canvas.fill(pose.ellipse((0.525, 0.575), (0.024, 0.024), 0.0), _byte(175))  # aorta
    canvas.fill(pose.ellipse((0.455, 0.565), (0.026, 0.020), 0.0), _byte(140))  # inferior vena cava
    masks, above = {}, np.zeros((size, size), bool)
    for name in reversed(outlines):  # what was drawn later lies on top
        masks[name] = filled(outlines[name], size) & ~above
        above |= masks[name]
    return masks


def _skeleton(canvas: Canvas, size: int, rng: np.random.Generator, pose: Pose, masks: dict[str, np.ndarray]) -> None:
    body = pose.ellipse((0.5, 0.665), (0.055, 0.048), 0.0, 0.03)
    arch = pose(
        np.array([(0.455, 0.695), (0.545, 0.695), (0.555, 0.735), (0.512, 0.772), (0.488, 0.772), (0.445, 0.735)])
    )
    canvas.fill(arch, _byte(320)).fill(body, _byte(420))
    canvas.fill(pose.ellipse((0.5, 0.665), (0.045, 0.038), 0.0, 0.03), _byte(210))
    canvas.fill(pose.ellipse((0.5, 0.726), (0.021, 0.015), 0.0, 0.03), _byte(30))  # spinal canal
    masks["spine"] = filled(body, size) | filled(arch, size)
    for side, sign in (("right ribs", -1.0), ("left ribs", 1.0)):
        drawn = Canvas(size)
        for angle in np.linspace(-0.9, 1.05, 6) + rng.uniform(-0.10, 0.10, 6):
            centre = (0.5 + sign * _CAGE[0] * np.cos(angle), 0.51 + _CAGE[1] * np.sin(angle))
            along = np.arctan2(_CAGE[1] * np.cos(angle), -sign * _CAGE[0] * np.sin(angle))
            outline = pose.ellipse(centre, (rng.uniform(0.022, 0.040), 0.011), along, 0.05)
            canvas.fill(outline, _byte(360))
            drawn.fill(outline)
        masks[side] = drawn.mask()


def _draw_vessels(canvas: Canvas, hilum: np.ndarray, lung: np.ndarray, rng: np.random.Generator) -> None:
    """From the hilum toward points of the outline, not up to it; and cut across, as dots."""
    for target in lung[rng.integers(0, len(lung), 14)]:
        way = target - hilum
        middle = hilum + way * 0.45 + rng.uniform(-0.015, 0.015, 2)
        canvas.line(np.stack([hilum, middle]), 0.006, _byte(20))
        canvas.line(np.stack([middle, hilum + way * rng.uniform(0.65, 0.85)]), 0.003, _byte(-250))
        dot = hilum + way * rng.uniform(0.3, 0.85)
        canvas.fill(ellipse((dot[0], dot[1]), (0.0035, 0.0035), 0.0, rng), _byte(-50))
