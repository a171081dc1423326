"""The neutral surface of the built-in face as a formula: stacked ovals plus smooth bumps.

Positions are in millimetres: x right in the image, y up, z towards the camera.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

TOP, BOTTOM = 142.0, -170.0
EYE_ROW, MOUTH_ROW = 32.0, -37.0
EYE_CENTER = np.array([31.0, 33.0, 27.0])
EYE_RADIUS = 13.0
LID_THICKNESS = 1.3
EYE_HALF_WIDTH, MOUTH_HALF_WIDTH = 14.5, 25.0
UPPER_LID, LOWER_LID = 5.2, 3.9

# Columns y, half width, front and back are the outline of the head from the front and the side.
# The last is how pointed the front is from above: 1 is an ellipse, more is pointed, less is flat.
_PROFILE = np.array(
    [
        (-170.0, 50.0, -10.0, -84.0, 1.0),
        (-125.0, 44.0, -8.0, -78.0, 1.0),
        (-104.0, 43.0, 0.0, -75.0, 1.1),
        (-94.0, 44.0, 20.0, -75.0, 1.4),
        (-86.0, 48.0, 42.0, -76.0, 1.6),
        (-76.0, 53.0, 50.0, -79.0, 1.6),
        (-60.0, 60.0, 51.0, -86.0, 1.3),
        (-37.0, 67.0, 54.0, -97.0, 1.1),
        (-14.0, 72.0, 53.5, -108.0, 0.95),
        (10.0, 74.5, 51.0, -116.0, 0.9),
        (35.0, 75.5, 50.0, -121.0, 0.9),
        (57.0, 75.0, 53.0, -121.0, 0.9),
        (80.0, 72.5, 51.0, -118.0, 0.9),
        (100.0, 67.0, 43.0, -108.0, 0.92),
        (117.0, 57.0, 29.0, -93.0, 0.95),
        (130.0, 42.0, 8.0, -74.0, 1.0),
        (138.0, 25.0, -13.0, -53.0, 1.0),
        (142.0, 0.0, -33.0, -33.0, 1.0),
    ]
)


@functools.cache
def _smooth_profile() -> Any:
    y = np.linspace(BOTTOM, TOP, 1249)
    columns = [np.interp(y, _PROFILE[:, 0], _PROFILE[:, k]) for k in (1, 2, 3, 4)]
    taps = np.exp(-0.5 * (np.arange(-72, 73) / 24.0) ** 2)
    taps /= taps.sum()
    padded = [np.pad(column, 72, mode="edge") for column in columns]
    smooth = [np.convolve(column, taps, mode="valid") for column in padded]
    # Smoothing would flatten the crown, where the outline has a vertical tangent.
    keep = np.clip((y - 120) / 12, 0, 1)
    mixed = [s * (1 - keep) + c * keep for s, c in zip(smooth, columns, strict=True)]
    return y, mixed


def smoothstep(low: float, high: float, value: Any) -> Any:
    """0 below `low`, 1 above `high`, a cubic in between."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def bump(p: Any, x: float, y: float, sx: float, sy: float, power: float = 1.0) -> Any:
    """`exp(-r^(2 power))` of the scaled distance from (x, y), mirrored if x > 0.

    It is restricted to the front of the head; `power` 2 has a flat top.
    """
    r2 = ((np.abs(p[:, 0]) if x > 0 else p[:, 0]) - x) ** 2 / sx**2 + (p[:, 1] - y) ** 2 / sy**2
    return np.exp(-(r2**power)) * smoothstep(-45, -10, p[:, 2])


def almond(x: Any, center: float, half_width: float, power: float = 0.75) -> Any:
    """Relative height of an opening at x: 1 in the middle, 0 beyond the corners."""
    return np.clip(1 - ((x - center) / half_width) ** 2, 0, None) ** power


def eye_opening(x: Any) -> Any:
    """`almond` of both eyes."""
    return almond(np.abs(x), EYE_CENTER[0], EYE_HALF_WIDTH)


def mouth_opening(x: Any) -> Any:
    """`almond` of the mouth."""
    return almond(x, 0.0, MOUTH_HALF_WIDTH)


def surface(
    azimuth: Any, y: Any, side: Any, upper: float = UPPER_LID, lower: float = LOWER_LID
) -> Any:
    """Points of the skin.

    Args:
        azimuth (array[m]): radians, 0 in front, positive towards +x.
        y (array[m]): height before the lids are opened, millimetres.
        side (array[m]): +1 above the nearest slit, -1 below, 0 on its row but outside it.
        upper, lower (float): distance of the lids from the eye's row, millimetres.

    Returns:
        array[m, 3]
    """
    table_y, columns = _smooth_profile()
    a, zf, zb, pointed = (np.interp(y, table_y, column) for column in columns)
    middle = np.clip(np.minimum(-28.0, (zf + zb) / 2 + 12), zb, zf)
    sine, cosine = np.sin(azimuth), np.cos(azimuth)
    x = a * sine
    depth = np.where(cosine > 0, zf - middle, middle - zb)
    z = middle + depth * np.sign(cosine) * np.abs(cosine) ** np.where(cosine > 0, pointed, 1.0)
    p = np.stack([x, y, z], 1)
    p[:, 2] += _features(p)
    p[:, 0] += np.sign(x) * _ears(p)
    return _open_eyes(p, side, upper, lower)


def _features(p: Any) -> Any:
    x, y = p[:, 0], p[:, 1]
    height = np.interp(y, [-21, -15, -8, 0, 4, 12, 24, 36, 46], [0, 4, 17, 23, 23, 17, 9, 3, 0])
    width = np.interp(y, [-20, -6, 4, 20, 40], [13, 11.5, 9.5, 7.5, 9])
    front = smoothstep(-10, 10, p[:, 2])
    add = height * np.exp(-((x / width) ** 2)) * front
    add += 8.0 * bump(p, 12.5, -7, 5.5, 6.5)
    add -= 2.5 * bump(p, 7.0, -15.5, 3.5, 2.5)
    add -= 8.0 * bump(p, 30, 34, 19, 12)
    add += 4.5 * bump(p, 28, 51, 22, 8)
    add += 5.0 * bump(p, 45, 6, 19, 16)
    add -= 3.0 * bump(p, 66, 62, 16, 22)
    add += 4.0 * bump(p, 0, -34, 30, 20)
    add += 4.6 * np.exp(-((x / 21) ** 4)) * np.exp(-(((y + 31.5) / 5.0) ** 2)) * front
    add += 5.4 * np.exp(-((x / 18) ** 4)) * np.exp(-(((y + 42.5) / 5.0) ** 2)) * front
    add -= 1.2 * bump(p, 0, -24, 4, 6)
    add -= 3.0 * bump(p, 0, -54, 18, 6)
    add += 6.0 * bump(p, 0, -71, 17, 11)
    add -= (
        1.6
        * np.exp(-(((np.abs(x) - 27 - 0.45 * (-14 - y)) / 5) ** 2))
        * (np.exp(-(((y + 18) / 14) ** 2)) * front)
    )
    return add


def _ears(p: Any) -> Any:
    lobe = np.exp(-(np.abs((p[:, 1] - 15) / 29) ** 3)) * np.exp(-(((p[:, 2] + 36) / 9) ** 2))
    return 7.5 * lobe


def shell_front(x: Any, y: Any, radius: float) -> Any:
    """Front z of the sphere of `radius` around the eye on the side of x; -inf outside it."""
    d2 = (np.abs(x) - EYE_CENTER[0]) ** 2 + (y - EYE_CENTER[1]) ** 2
    inside = d2 < radius**2
    return np.where(inside, EYE_CENTER[2] + np.sqrt(np.where(inside, radius**2 - d2, 0)), -np.inf)


def _open_eyes(p: Any, side: Any, upper: float, lower: float) -> Any:
    near = np.exp(-(((p[:, 1] - EYE_ROW) / 12.0) ** 2)) * smoothstep(0, 15, p[:, 2])
    tilt = 1.2 * (np.abs(p[:, 0]) - EYE_CENTER[0]) / EYE_HALF_WIDTH
    around = np.exp(-(((np.abs(p[:, 0]) - EYE_CENTER[0]) / 22) ** 4))
    shift = np.where(side > 0, upper, np.where(side < 0, -lower, 0)) * eye_opening(p[:, 0])
    p[:, 1] += near * (shift + tilt * around)
    lid = shell_front(p[:, 0], p[:, 1], EYE_RADIUS + LID_THICKNESS)
    over = np.where(np.isfinite(lid), lid, -1e3) - p[:, 2]
    # A smooth maximum of the skin and the lid's shell, with a width of 2 mm.
    soft = np.where(over > 30, over, 2.0 * np.log1p(np.exp(np.clip(over, -60, 30) / 2.0)))
    p[:, 2] += soft
    return p


def brow_weight(p: Any) -> Any:
    """Weight of the eyebrows, 0..1, at points of the mean face."""
    x = np.abs(p[:, 0])
    arc = 50.5 + 5.5 * np.sin(np.clip((x - 10) / 46, 0, 1) * math.pi * 0.62) - 0.16 * (x - 10)
    thick = np.interp(x, [9, 14, 40, 56], [3.4, 4.4, 3.4, 1.2])
    across = np.exp(-(np.abs((p[:, 1] - arc) / thick) ** 3))
    return across * smoothstep(8, 13, x) * smoothstep(57, 50, x) * smoothstep(-10, 10, p[:, 2])


def lip_weight(p: Any) -> Any:
    """Weight of the lips' red, 0..1, at points of the mean face."""
    x = p[:, 0]
    opening = almond(x, 0.0, MOUTH_HALF_WIDTH + 1.5, 0.7)
    bow = 7.6 * opening * (1 - 0.18 * np.exp(-((x / 4.5) ** 2)))
    height = np.where(p[:, 1] > MOUTH_ROW, bow, 8.6 * opening)
    inside = height - np.abs(p[:, 1] - MOUTH_ROW)
    return smoothstep(-0.8, 1.2, inside) * smoothstep(0, 0.15, opening) * smoothstep(0, 20, p[:, 2])


def below_jaw(p: Any) -> Any:
    """Occlusion of the neck by the jaw, 0..1, at points of the mean face."""
    edge = -82 + 0.0105 * p[:, 0] ** 2
    return smoothstep(-1, -17, p[:, 1] - edge) * smoothstep(-62, -25, p[:, 2])


def scalp_weight(p: Any) -> Any:
    """Weight of short hair, 0..1, at points of the mean face."""
    hairline = 88.0 - 0.003 * p[:, 0] ** 2 - 30 * smoothstep(38, 78, np.abs(p[:, 0]))
    front = smoothstep(-9, 9, p[:, 1] - hairline)
    behind = smoothstep(-42, -62, p[:, 2]) * smoothstep(-62, -45, p[:, 1])
    return np.maximum(front, behind)
