"""The built-in face: a head defined by formulas, without data files or third-party data."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ntensor.faces.common.errors import ConfigurationError

from .analytic_mesh import SkinMesh, make_eyeball, make_teeth_and_tongue
from .analytic_modes import BASIC_EXPRESSIONS, EXPRESSION_FIELDS, IDENTITY_FIELDS, LID_EXPRESSIONS
from .analytic_surface import (
    EYE_CENTER,
    EYE_RADIUS,
    EYE_ROW,
    MOUTH_ROW,
    below_jaw,
    brow_weight,
    bump,
    eye_opening,
    lip_weight,
    scalp_weight,
    smoothstep,
    surface,
)
from .face_model import MATERIALS, FaceModel

DEFAULT_VERTICES = 6000
MINIMUM_VERTICES = 1000
PART_NAMES = ("skin", "pockets", "teeth", "eyeball_left", "eyeball_right")


def blush_weight(p: Any) -> Any:
    """Weight of blush on cheeks, nose tip and chin, 0..1, at points of a mean face, millimetres."""
    return np.clip(
        bump(p, 42, 0, 17, 15) + 0.7 * bump(p, 0, 2, 12, 10) + 0.4 * bump(p, 0, -70, 15, 10), 0, 1
    )


def beard_weight(p: Any) -> Any:
    """Weight of a beard on chin, jaw and upper lip, 0..1, at points of a mean face, millimetres."""
    x, y = np.abs(p[:, 0]), p[:, 1]
    edge = -40 + 0.008 * np.clip(x - 20, 0, None) ** 2
    jaw = smoothstep(6, -10, y - edge) * smoothstep(-110, -92, y)
    lip = np.exp(-(((y + 23) / 7) ** 4)) * smoothstep(34, 26, x)
    return np.maximum(jaw, lip) * smoothstep(-35, -15, p[:, 2])


@functools.lru_cache(maxsize=4)
def make_analytic_face(vertices: int = DEFAULT_VERTICES) -> FaceModel:
    """Makes the built-in face: 30 identity modes, 16 expressions, eyes, mouth, 68 landmarks.

    Args:
        vertices (int): the exact number of vertices `V`, including the eyes and the inside of the
            mouth; at least 1000. The paper's shape has 9375.

    Returns:
        FaceModel: all vertices are part of the shape. Treat it as read-only: calls with the same
        count return the same object.

    Raises:
        ConfigurationError: too few vertices.

    Example:
        >>> from ntensor.faces.morphable.analytic_face import make_analytic_face
        >>> face = make_analytic_face(9375)
        >>> face.mean.shape, face.shape_size
        (torch.Size([9375, 3]), 28125)
    """
    if vertices < MINIMUM_VERTICES:
        raise ConfigurationError(
            f"make_analytic_face: vertices must be at least {MINIMUM_VERTICES}, got {vertices}"
        )
    scale = math.sqrt(vertices / DEFAULT_VERTICES)
    ball = make_eyeball(max(5, round(9 * scale)), max(10, round(18 * scale)))
    teeth = make_teeth_and_tongue(max(7, round(17 * scale)), max(6, round(12 * scale)))
    mesh = SkinMesh(vertices - 2 * len(ball[0]) - len(teeth[0]))
    return _assemble(mesh, ball, teeth)


def _assemble(mesh: SkinMesh, ball: tuple[Any, Any], teeth: tuple[Any, Any, Any]) -> FaceModel:
    azimuth, y, side = (np.array(v) for v in (mesh.azimuth, mesh.y, mesh.side))
    skin = surface(azimuth, y, side)
    follows = np.array(mesh.pocket_follows)
    centers = [EYE_CENTER, EYE_CENTER * [-1, 1, 1]]
    pockets = skin[follows] + np.array(mesh.pocket_offset)
    eyes = [center + EYE_RADIUS * ball[0] for center in centers]
    mean = np.concatenate([skin, pockets, teeth[0], *eyes])
    sizes = [len(skin), len(follows), len(teeth[0]), len(ball[0]), len(ball[0])]
    starts = np.cumsum([0, *sizes])
    parts = np.repeat(np.arange(5), sizes)
    triangles = np.concatenate(
        [np.array(mesh.triangles), np.array(mesh.pocket_triangles), teeth[2] + starts[2]]
        + [ball[1] + starts[3 + k] for k in range(2)]
    )
    # A pocket moves with the slit in front of it. An eyeball moves rigidly, with the skin in front.
    before = [np.repeat(c[None] + [0, 0, EYE_RADIUS], len(ball[0]), 0) for c in centers]
    anchor = np.concatenate([skin, skin[follows], teeth[0], *before])
    sides = np.concatenate([side, side[follows], np.sign(teeth[1]), np.zeros(2 * len(ball[0]))])
    moving = (parts < 3)[:, None]
    expression = [field(anchor, sides) * moving for field in EXPRESSION_FIELDS.values()]
    still = np.zeros((len(mean) - starts[2], 3))
    for lids in LID_EXPRESSIONS.values():
        moved = surface(azimuth, y, side, *lids) - skin
        expression.append(np.concatenate([moved, moved[follows], still]))
    names = (*EXPRESSION_FIELDS, *LID_EXPRESSIONS)
    weights = [[mix.get(name, 0.0) for name in names] for mix in BASIC_EXPRESSIONS.values()]
    direction = np.concatenate([np.zeros((starts[3], 3)), ball[0], ball[0]])
    return FaceModel(
        source=f"analytic face, {len(mean)} vertices",
        mean=_float(mean),
        identity_modes=_float([field(anchor, sides) for field in IDENTITY_FIELDS.values()]),
        expression_modes=_float(expression),
        expression_names=names,
        triangles=torch.from_numpy(triangles.astype(np.int64)),
        parts=torch.from_numpy(parts),
        part_names=PART_NAMES,
        landmarks68=_find_landmarks(mean, sides, parts),
        basic_names=tuple(BASIC_EXPRESSIONS),
        basic_weights=_float(weights),
        materials=_make_materials(mean, y, side, parts, teeth[1], direction),
        eye_direction=_float(direction),
        shape_vertices=torch.arange(len(mean)),
    )


def _float(array: Any) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def _make_materials(
    mean: Any, row: Any, side: Any, parts: Any, teeth_v: Any, direction: Any
) -> Tensor:
    is_skin, is_pocket, is_teeth, is_eye = (parts == 0, parts == 1, parts == 2, parts >= 3)
    columns = {name: np.zeros(len(mean)) for name in MATERIALS}
    skin = mean[is_skin]
    unopened = np.stack([skin[:, 0], row, skin[:, 2]], 1)
    columns["lips"][is_skin] = lip_weight(unopened)
    columns["brows"][is_skin] = brow_weight(skin)
    lid = eye_opening(skin[:, 0]) ** 0.3 * np.exp(-(((row - EYE_ROW) / 1.6) ** 2))
    columns["lash"][is_skin] = lid * np.where(side > 0, 1.0, 0.45) * smoothstep(0, 15, skin[:, 2])
    columns["scalp"][is_skin] = scalp_weight(skin)
    columns["beard"][is_skin] = beard_weight(skin)
    columns["blush"][is_skin] = blush_weight(skin)
    upper, lower = smoothstep(0.10, 0.2, teeth_v), smoothstep(-0.3, -0.4, teeth_v)
    white = np.maximum(upper * smoothstep(0.95, 0.85, teeth_v), 0.8 * lower)
    columns["teeth"][is_teeth] = white
    columns["mouth"][is_teeth] = 1 - white
    # The corners of the eyes are flesh-coloured, the mouth is dark.
    columns["mouth"][is_pocket] = np.where(mean[is_pocket, 1] > 0, 0.55, 1.0)
    sky = columns["open_sky"]
    sky[is_skin] = 1 - 0.22 * bump(skin, 30, 36, 17, 9) - 0.3 * bump(skin, 7, -15, 5, 4)
    sky[is_skin] -= 0.12 * bump(skin, 0, -54, 16, 5) + 0.45 * below_jaw(skin)
    sky[is_pocket], sky[is_teeth] = 0.7, 0.75
    sky[is_eye] = 1 - 0.45 * smoothstep(0.05, 0.5, direction[is_eye, 1])
    return _float(np.stack([columns[name] for name in MATERIALS], 1))


# x and y of the 68 Multi-PIE landmarks on the mean face, on the subject's right half (x < 0). A
# third column is the side of the slit; 0: any.
_JAW: list[Any] = [
    (-74, 34),
    (-73, 14),
    (-71, -8),
    (-67, -29),
    (-58, -49),
    (-45, -63),
    (-30, -73),
    (-15, -79),
]
_HALVES: dict[str, list[Any]] = {
    "brow": [(-56, 50), (-47, 55), (-37, 57), (-25, 56), (-13, 53)],
    "eye": [(-45, 31, 0), (-37, 37, 1), (-25, 37, 1), (-17, 31, 0), (-25, 28, -1), (-37, 28, -1)],
}


def _find_landmarks(mean: Any, side: Any, parts: Any) -> Tensor:
    jaw = [*_JAW, (0, -81), *[(-x, y) for x, y in _JAW[::-1]]]
    brow = _HALVES["brow"]
    brows = [*brow, *[(-x, y) for x, y in brow[::-1]]]
    nose = [(0, 34), (0, 24), (0, 13), (0, 2), (-14, -12), (-7, -14), (0, -15), (7, -14), (14, -12)]
    right = _HALVES["eye"]
    left = [(-right[k][0], *right[k][1:]) for k in (3, 2, 1, 0, 5, 4)]
    m = MOUTH_ROW
    outer: list[Any] = [
        (-26, m, 0),
        (-15, m + 6, 1),
        (-5, m + 8, 1),
        (0, m + 7, 1),
        (5, m + 8, 1),
        (15, m + 6, 1),
    ]
    outer += [
        (26, m, 0),
        (15, m - 7, -1),
        (5, m - 9, -1),
        (0, m - 9, -1),
        (-5, m - 9, -1),
        (-15, m - 7, -1),
    ]
    inner = [
        (-23, m, 1),
        (-8, m, 1),
        (0, m, 1),
        (8, m, 1),
        (23, m, 1),
        (8, m, -1),
        (0, m, -1),
        (-8, m, -1),
    ]
    wanted: list[Any] = [*jaw, *brows, *nose, *right, *left, *outer, *inner]
    index = []
    for x, y, *which in wanted:
        allowed = (parts == 0) & (mean[:, 2] > -40)
        if which and which[0]:
            allowed &= np.sign(side) == which[0]
        distance = (mean[:, 0] - x) ** 2 + (mean[:, 1] - y) ** 2
        index.append(int(np.argmin(np.where(allowed, distance, np.inf))))
    return torch.tensor(index)
