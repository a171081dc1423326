"""Identity and expression modes of the built-in face: smooth displacement fields, one formula each.

Every field is a function of the mean position `p` (m, 3), in millimetres, and of `side` (m,), which
is +1 above the slit of an eye or the mouth and -1 below.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .analytic_surface import (
    LOWER_LID,
    MOUTH_ROW,
    UPPER_LID,
    bump,
    eye_opening,
    mouth_opening,
    smoothstep,
)

Field = Callable[[Any, Any], Any]


def _field(x: Any = 0.0, y: Any = 0.0, z: Any = 0.0, *, like: Any) -> Any:
    zero = np.zeros(like.shape[0])
    return np.stack([zero + x, zero + y, zero + z], 1)


def _at(amount: Any, x: float, y: float, sx: float, sy: float, power: float = 1.0) -> Field:
    """A bump scaled by `amount`, which is (dx, dy, dz) with dx mirrored."""

    def field(p: Any, side: Any) -> Any:
        del side
        weight = bump(p, x, y, sx, sy, power)
        dx = amount[0] * (np.sign(p[:, 0]) if x > 0 else p[:, 0] / sx)
        return _field(dx * weight, amount[1] * weight, amount[2] * weight, like=p)

    return field


def _lips(p: Any, sx: float = 22.0, sy: float = 8.0) -> Any:
    return np.exp(-((p[:, 0] / sx) ** 4)) * bump(p, 0, MOUTH_ROW, 60, sy)


def _lip_thickness(p: Any, side: Any) -> Any:
    away = np.clip(np.abs(p[:, 1] - MOUTH_ROW) / 6, 0, 1)
    return _field(y=1.3 * side * away * _lips(p), z=1.1 * _lips(p), like=p)


IDENTITY_FIELDS: dict[str, Field] = {
    "width": lambda p, side: _field(x=0.045 * p[:, 0], like=p),
    "height": lambda p, side: _field(y=0.035 * p[:, 1], like=p),
    "depth": lambda p, side: _field(z=0.045 * p[:, 2], like=p),
    "jaw_width": lambda p, side: _field(
        x=0.075 * p[:, 0] * np.exp(-(((p[:, 1] + 60) / 34) ** 2)), like=p
    ),
    "chin_length": _at((0, -5.0, 0), 0, -76, 42, 26),
    "chin_projection": _at((0, 0, 4.0), 0, -70, 22, 18),
    "chin_width": _at((3.0, 0, 0), 0, -74, 26, 18),
    "forehead_height": lambda p, side: _field(y=6.0 * smoothstep(58, 125, p[:, 1]), like=p),
    "forehead_slope": _at((0, 0, -4.5), 0, 92, 60, 30),
    "temple_width": lambda p, side: _field(
        x=0.05 * p[:, 0] * np.exp(-(((p[:, 1] - 75) / 26) ** 2)), like=p
    ),
    "nose_length": _at((0, -3.6, 0), 0, -6, 20, 18),
    "nose_projection": _at((0, 0, 3.6), 0, 0, 13, 17),
    "nose_width": _at((3.6, 0, 0), 0, -7, 20, 12),
    "nose_bridge": _at((0, 0, 2.6), 0, 22, 9, 13),
    "nose_tip": _at((0, 2.6, 0.6), 0, 1, 11, 10),
    "eye_distance": _at((2.0, 0, 0), 31, 33, 24, 20, 2.0),
    "eye_height": _at((0, 2.0, 0), 31, 33, 26, 20, 2.0),
    "eye_depth": _at((0, 0, -2.0), 31, 33, 24, 19, 2.0),
    "eye_opening": lambda p, side: _field(
        y=0.55 * side * eye_opening(p[:, 0]) * bump(p, 31, 33, 24, 9), like=p
    ),
    "brow_height": _at((0, 2.6, 0), 32, 54, 28, 9),
    "brow_ridge": _at((0, 0, 2.4), 29, 51, 24, 8),
    "cheekbone_width": _at((3.0, 0, 1.5), 56, 8, 20, 20),
    "cheek_fullness": _at((2.6, 0, 3.2), 46, -24, 22, 22),
    "mouth_width": _at((5.0, 0, 0), 0, MOUTH_ROW, 36, 14),
    "mouth_height": _at((0, 2.6, 0), 0, MOUTH_ROW, 40, 17),
    "mouth_projection": _at((0, 0, 2.8), 0, MOUTH_ROW, 32, 20),
    "lip_thickness": _lip_thickness,
    "ears": lambda p, side: _field(
        x=4.0
        * np.sign(p[:, 0])
        * np.exp(-(((p[:, 1] - 17) / 30) ** 4 + ((p[:, 2] + 34) / 12) ** 2)),
        like=p,
    ),
    "neck_width": lambda p, side: _field(x=0.11 * p[:, 0] * smoothstep(-85, -120, p[:, 1]), like=p),
    "crooked_nose": lambda p, side: _field(x=1.3 * bump(p, 0, 0, 15, 18), like=p),
}


def _side_of_mouth(p: Any, side: Any, wanted: float) -> Any:
    return np.where((np.sign(side) == wanted) & (p[:, 1] < -10), 1.0, 0.0)


def _jaw(p: Any, side: Any) -> Any:
    below = _side_of_mouth(p, side, -1.0) * smoothstep(-130, -88, p[:, 1])
    depth = smoothstep(0, 30, MOUTH_ROW - p[:, 1])
    wide = np.exp(-((p[:, 0] / 58) ** 4))
    weight = below * ((1 - depth) * mouth_opening(p[:, 0]) + depth * wide)
    weight = weight * smoothstep(-25, 25, p[:, 2])
    return _field(y=-27 * weight, z=-7 * weight, x=-0.05 * p[:, 0] * weight, like=p)


def _corners(dx: float, dy: float, dz: float) -> Field:
    def field(p: Any, side: Any) -> Any:
        del side
        weight = bump(p, 25, MOUTH_ROW, 15, 13)
        stretch = np.clip(np.abs(p[:, 0]) / 22, 0, 1) * np.sign(p[:, 0])
        return _field(dx * stretch * weight, dy * weight, dz * weight, like=p)

    return field


def _smile(p: Any, side: Any) -> Any:
    cheek = bump(p, 42, -4, 17, 14)
    return _corners(7.0, 7.5, -4.0)(p, side) + _field(y=3.0 * cheek, z=4.0 * cheek, like=p)


def _pucker(p: Any, side: Any) -> Any:
    weight = bump(p, 0, MOUTH_ROW, 30, 15)
    return _field(x=-0.36 * p[:, 0] * weight, z=7.5 * weight, like=p) + 0.8 * _lip_thickness(
        p, side
    )


def _lip(side_wanted: float, dy: float, dz: float, y: float, sy: float) -> Field:
    def field(p: Any, side: Any) -> Any:
        chosen = _side_of_mouth(p, side, side_wanted)
        at_slit = np.exp(-(((p[:, 1] - MOUTH_ROW) / 8) ** 2))
        shape = at_slit * mouth_opening(p[:, 0]) + (1 - at_slit) * np.exp(-((p[:, 0] / 28) ** 2))
        weight = chosen * shape * bump(p, 0, y, 60, sy)
        return _field(y=dy * weight, z=dz * weight, like=p)

    return field


EXPRESSION_FIELDS: dict[str, Field] = {
    "jawOpen": _jaw,
    "mouthSmile": _smile,
    "mouthFrown": _corners(0.0, -8.0, -2.0),
    "mouthPucker": _pucker,
    "mouthStretch": _corners(9.0, -3.0, -3.5),
    "mouthUpperUp": _lip(1.0, 6.5, 1.0, -33, 11),
    "mouthLowerDown": _lip(-1.0, -6.5, 0.5, -41, 11),
    "mouthPress": lambda p, side: -1.4 * _lip_thickness(p, side),
    "browInnerUp": _at((0, 7.5, 0.5), 14, 54, 15, 12),
    "browOuterUp": _at((0, 7.0, 0), 44, 54, 18, 12),
    "browDown": lambda p, side: _at((-2.6, -6.0, 1.5), 18, 52, 22, 10)(p, side),
    "cheekPuff": _at((4.5, 0, 7.0), 38, -30, 18, 17),
    "noseSneer": lambda p, side: (
        _at((0, 4.0, 1.5), 14, -4, 10, 12)(p, side) + _at((0, -2.0, 1.0), 12, 48, 12, 8)(p, side)
    ),
}

# Expressions that move the lids over the eyeball, as the opening of the upper and the lower lid at
# weight 1, in millimetres. The displacement is the difference of two surfaces.
LID_EXPRESSIONS = {
    "eyeBlink": (-0.80 * LOWER_LID, 0.86 * LOWER_LID),
    "eyeWide": (UPPER_LID + 2.6, LOWER_LID + 0.6),
    "eyeSquint": (0.62 * UPPER_LID, 0.45 * LOWER_LID),
}

BASIC_EXPRESSIONS: dict[str, dict[str, float]] = {
    "neutral": {},
    "happy": {"mouthSmile": 1.0, "eyeSquint": 0.35, "jawOpen": 0.18, "mouthUpperUp": 0.3},
    "sad": {"browInnerUp": 0.9, "mouthFrown": 0.9, "eyeSquint": 0.25},
    "surprise": {"browInnerUp": 0.9, "browOuterUp": 1.0, "eyeWide": 0.9, "jawOpen": 0.65},
    "anger": {"browDown": 1.0, "mouthPress": 0.8, "eyeSquint": 0.4, "mouthFrown": 0.25},
    "disgust": {"browDown": 0.5, "noseSneer": 1.0, "mouthUpperUp": 0.9, "eyeSquint": 0.5},
    "fear": {"browInnerUp": 1.0, "eyeWide": 0.9, "mouthStretch": 0.9, "jawOpen": 0.28},
}
