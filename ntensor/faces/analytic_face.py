"""The built-in face: a head made of formulas, with no data file and no third party's data."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .analytic_modes import (
    BASIC_EXPRESSIONS,
    EXPRESSION_FIELDS,
    IDENTITY_FIELDS,
    LID_EXPRESSIONS,
)
from .analytic_surface import (
    BOTTOM,
    EYE_CENTER,
    EYE_RADIUS,
    EYE_ROW,
    MOUTH_ROW,
    TOP,
    brow_weight,
    bump,
    eye_opening,
    lip_weight,
    mouth_opening,
    scalp_weight,
    smoothstep,
    surface,
)
from .face_model import MATERIALS, FaceModel

DEFAULT_VERTICES = 4000
MINIMUM_VERTICES = 800
PART_NAMES = ("skin", "mouth", "eyeball_left", "eyeball_right")


def blush_weight(p: Any) -> Any:
    """Cheeks, nose tip and chin, 0..1, for points of a mean face in millimetres."""
    return np.clip(
        bump(p, 42, 0, 17, 15) + 0.7 * bump(p, 0, 2, 12, 10) + 0.4 * bump(p, 0, -70, 15, 10), 0, 1
    )


def beard_weight(p: Any) -> Any:
    """Chin, jaw and upper lip, 0..1, for points of a mean face in millimetres."""
    x, y = np.abs(p[:, 0]), p[:, 1]
    edge = -40 + 0.008 * np.clip(x - 20, 0, None) ** 2
    jaw = smoothstep(6, -10, y - edge) * smoothstep(-110, -92, y)
    lip = np.exp(-(((y + 23) / 7) ** 4)) * smoothstep(34, 26, x)
    return np.maximum(jaw, lip) * smoothstep(-35, -15, p[:, 2])


def _levels(count: int) -> Any:
    """Heights of the rows, top to bottom, dense at eyes, nose, mouth, chin and crown."""
    y = np.linspace(TOP, BOTTOM, 4001)
    density = 0.35 + 0 * y
    for center, width, weight in (
        (EYE_ROW + 4, 14, 1.6), (MOUTH_ROW, 13, 1.9), (-5, 14, 0.9), (52, 12, 0.7),
        (-85, 14, 0.6), (TOP, 9, 1.6), (70, 60, 0.3),
    ):  # fmt: skip
        density = density + weight * np.exp(-(((y - center) / width) ** 2))
    return _quantiles(y, density, count)


def _azimuths(count: int) -> Any:
    """`count` angles of a row, symmetric, dense in front and around the eyes."""
    t = np.linspace(0, math.pi, 4001)
    degrees = np.rad2deg(t)
    density = 0.26 + 1.0 * np.exp(-((degrees / 48) ** 4))
    for center, weight in ((24, 0.55), (96, 0.45)):
        density = density + weight * np.exp(-(((degrees - center) / 12) ** 2))
    half = count // 2
    if count % 2:  # one vertex in the middle of the face, none at the back
        right = _quantiles(t, density, 2 * half + 2)[2::2][:half] if half else np.empty(0)
        return np.concatenate([-right[::-1], [0.0], right])
    right = _quantiles(t, density, half + 1)[1:]
    return np.concatenate([-right[::-1][1:], [0.0], right])


def _quantiles(t: Any, density: Any, count: int) -> Any:
    total = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return np.interp(np.linspace(0, total[-1], count), total, t)


class _Mesh:
    """Vertices (by their parameters) and triangles of the skin, gathered row by row."""

    def __init__(self, skin: int) -> None:
        self.azimuth: list[float] = []
        self.y: list[float] = []
        self.side: list[float] = []
        self.triangles: list[tuple[int, int, int]] = []
        columns = max(16, round(math.sqrt(skin * 1.0)))
        rows = self._row_count(skin, columns)
        levels = _levels(rows + 2)[1:]
        for slit in (EYE_ROW, MOUTH_ROW):
            levels[np.argmin(np.abs(levels - slit))] = slit
        counts = self._row_sizes(skin, levels, columns)
        above, angles = self._pole()
        for y, count in zip(levels, counts, strict=True):
            top, bottom, row_angles = self._row(float(y), count)
            self._zip(above, angles, top, row_angles)
            above, angles = bottom, row_angles

    @staticmethod
    def _slit_extra(y: float, count: int) -> int:
        if y not in (EYE_ROW, MOUTH_ROW):
            return 0
        return int(_opening_at(y, _azimuths(count)).sum())

    def _row_count(self, skin: int, columns: int) -> int:
        return max(12, (skin - 1 - columns // 2) // columns)

    def _row_sizes(self, skin: int, levels: Any, columns: int) -> list[int]:
        """Vertices of each row, so that all rows, duplicates and the pole are `skin` together."""
        counts = [columns] * len(levels)
        free = [k for k, y in enumerate(levels) if y not in (EYE_ROW, MOUTH_ROW)]
        extra = sum(self._slit_extra(float(y), columns) for y in levels)
        left = skin - 1 - extra - columns * len(levels)
        step = 1 if left > 0 else -1
        for k in range(abs(left)):
            counts[free[-1 - k % len(free)]] += step
        return counts

    def _add(self, azimuth: float, y: float, side: float) -> int:
        self.azimuth.append(azimuth)
        self.y.append(y)
        self.side.append(side)
        return len(self.y) - 1

    def _pole(self) -> tuple[list[int], Any]:
        return [self._add(0.0, TOP, 1.0)], np.zeros(1)

    def _row(self, y: float, count: int) -> tuple[list[int], list[int], Any]:
        angles = _azimuths(count)
        split = _opening_at(y, angles)
        middle = (EYE_ROW + MOUTH_ROW) / 2
        side = (
            0.0
            if y in (EYE_ROW, MOUTH_ROW)
            else (math.copysign(1, y - (EYE_ROW if y > middle else MOUTH_ROW)))
        )
        top = [
            self._add(float(a), y, 1.0 if s else side) for a, s in zip(angles, split, strict=True)
        ]
        bottom = [
            self._add(float(a), y, -1.0) if s else index
            for a, s, index in zip(angles, split, top, strict=True)
        ]
        return top, bottom, angles

    def _zip(
        self, above: list[int], angles_above: Any, below: list[int], angles_below: Any
    ) -> None:
        """Triangles between two closed rows, counter-clockwise from outside."""
        a = [*above, above[0]] if len(above) > 1 else above
        b = [*below, below[0]]
        ta = [*angles_above, angles_above[0] + 2 * math.pi] if len(above) > 1 else [math.inf]
        tb = [*angles_below, angles_below[0] + 2 * math.pi]
        i = j = 0
        while i < len(a) - 1 or j < len(b) - 1:
            advance_below = i == len(a) - 1 or (
                j < len(b) - 1 and tb[j] + tb[j + 1] <= ta[i] + ta[i + 1]
            )
            if advance_below:
                self.triangles.append((a[i], b[j], b[j + 1]))
                j += 1
            else:
                self.triangles.append((a[i], b[j], a[i + 1]))
                i += 1


def _opening_at(y: float, angles: Any) -> Any:
    """Which points of the row at y lie inside a slit (so that the row has them twice)."""
    if y not in (EYE_ROW, MOUTH_ROW):
        return np.zeros(len(angles), bool)
    p = surface(angles, np.full(len(angles), y), np.zeros(len(angles)))
    opening = eye_opening(p[:, 0]) if y == EYE_ROW else mouth_opening(p[:, 0])
    return (opening > 0) & (np.cos(angles) > 0)


def _ball(rings: int, segments: int) -> tuple[Any, Any]:
    """The front of a unit sphere around +z: directions and triangles."""
    directions = [(0.0, 0.0, 1.0)]
    triangles = []
    for ring in range(1, rings + 1):
        polar = math.radians(95) * ring / rings
        for k in range(segments):
            turn = 2 * math.pi * k / segments
            directions.append(
                (
                    math.sin(polar) * math.cos(turn),
                    math.sin(polar) * math.sin(turn),
                    math.cos(polar),
                )
            )
            here, after = (
                1 + (ring - 1) * segments + k,
                1 + (ring - 1) * segments + (k + 1) % segments,
            )
            if ring == 1:
                triangles.append((0, here, after))
            else:
                triangles += [
                    (here - segments, here, after),
                    (here - segments, after, after - segments),
                ]
    return np.array(directions), np.array(triangles)


def _mouth_grid(columns: int, rows: int) -> tuple[Any, Any, Any]:
    """The inside of the mouth: positions, side (upper or lower jaw) and triangles."""
    u, v = np.meshgrid(np.linspace(-1, 1, columns), np.linspace(1, -1, rows), indexing="ij")
    u, v = u.ravel(), v.ravel()
    upper = v > 0
    y = np.where(upper, MOUTH_ROW + 12 * v, MOUTH_ROW + 14 * v)
    z = 47.0 - 14.0 * u**2 - np.where(upper, 0.0, 4.0)
    z = z - 16 * np.exp(-((v / 0.22) ** 2))
    points = np.stack([31 * u, y, z], 1)
    k = np.arange(columns * rows).reshape(columns, rows)
    a, b, c, d = k[:-1, :-1].ravel(), k[:-1, 1:].ravel(), k[1:, 1:].ravel(), k[1:, :-1].ravel()
    return points, v, np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])


@functools.lru_cache(maxsize=4)
def analytic_face(vertices: int = DEFAULT_VERTICES) -> FaceModel:
    """Makes the built-in face: 30 identity modes, 16 expressions, eyes, mouth, 68 landmarks.

    Args:
        vertices (int): `V` exactly, eyes and the inside of the mouth included; at least 800.
            The paper's shape has 9375.

    Returns:
        FaceModel: all its vertices are part of the shape. Treat it as read-only: the same object
        is returned for the same count.

    Raises:
        ValueError: too few vertices.

    Example:
        >>> from ntensor.faces.analytic_face import analytic_face
        >>> face = analytic_face(9375)
        >>> face.mean.shape, face.shape_size
        (torch.Size([9375, 3]), 28125)
    """
    if vertices < MINIMUM_VERTICES:
        raise ValueError(
            f"analytic_face: vertices must be at least {MINIMUM_VERTICES}, got {vertices}"
        )
    scale = math.sqrt(vertices / DEFAULT_VERTICES)
    rings, segments = max(5, round(9 * scale)), max(10, round(18 * scale))
    ball, ball_triangles = _ball(rings, segments)
    grid = (max(7, round(17 * scale)), max(6, round(12 * scale)))
    cavity, cavity_side, cavity_triangles = _mouth_grid(*grid)
    mesh = _Mesh(vertices - 2 * len(ball) - len(cavity))
    return _assemble(mesh, ball, ball_triangles, cavity, cavity_side, cavity_triangles, vertices)


def _assemble(
    mesh: _Mesh, ball: Any, ball_triangles: Any, cavity: Any, cavity_v: Any,
    cavity_triangles: Any, count: int,
) -> FaceModel:  # fmt: skip
    azimuth, y, side = (np.array(v) for v in (mesh.azimuth, mesh.y, mesh.side))
    skin = surface(azimuth, y, side)
    centers = [EYE_CENTER, EYE_CENTER * [-1, 1, 1]]
    eyes = [center + EYE_RADIUS * ball for center in centers]
    mean = np.concatenate([skin, cavity, *eyes])
    sizes = [len(skin), len(cavity), len(ball), len(ball)]
    starts = np.cumsum([0, *sizes])
    parts = np.repeat(np.arange(4), sizes)
    triangles = np.concatenate(
        [np.array(mesh.triangles), cavity_triangles + starts[1]]
        + [ball_triangles + starts[2 + k] for k in range(2)]
    )
    # Fields are evaluated at the undeformed skin, so that lids follow their brow and cheek; an
    # eyeball moves as a whole with the field at its centre.
    anchor = np.concatenate([skin, cavity, *(np.repeat(c[None], len(ball), 0) for c in centers)])
    anchor[parts >= 2, 2] += EYE_RADIUS
    full_side = np.concatenate([side, np.sign(cavity_v), np.zeros(2 * len(ball))])
    identity = np.stack([field(anchor, full_side) for field in IDENTITY_FIELDS.values()])
    moving = (parts < 2)[:, None]
    expression = [field(anchor, full_side) * moving for field in EXPRESSION_FIELDS.values()]
    expression += [
        np.concatenate([surface(azimuth, y, side, *lids) - skin, np.zeros((count - len(skin), 3))])
        for lids in LID_EXPRESSIONS.values()
    ]
    names = (*EXPRESSION_FIELDS, *LID_EXPRESSIONS)
    direction = np.zeros_like(mean)
    direction[starts[2] :] = np.concatenate([ball, ball])
    weights = [[mix.get(name, 0.0) for name in names] for mix in BASIC_EXPRESSIONS.values()]
    return FaceModel(
        source=f"analytic face, {count} vertices",
        mean=_float(mean),
        identity_modes=_float(identity),
        expression_modes=_float(np.stack(expression)),
        expression_names=names,
        triangles=torch.from_numpy(triangles.astype(np.int64)),
        parts=torch.from_numpy(parts),
        part_names=PART_NAMES,
        landmarks68=_landmarks(mean, full_side, parts),
        basic_names=tuple(BASIC_EXPRESSIONS),
        basic_weights=_float(np.array(weights)),
        materials=_materials(mean, y, side, parts, cavity_v, direction),
        eye_direction=_float(direction),
        shape_vertices=torch.arange(count),
    )


def _float(array: Any) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def _materials(mean: Any, row: Any, side: Any, parts: Any, cavity_v: Any, direction: Any) -> Tensor:
    is_skin = parts == 0
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
    upper, lower = smoothstep(0.10, 0.2, cavity_v), smoothstep(-0.3, -0.4, cavity_v)
    teeth = np.maximum(upper * smoothstep(0.95, 0.85, cavity_v), 0.8 * lower)
    columns["teeth"][parts == 1] = teeth
    columns["mouth"][parts == 1] = 1 - teeth
    sky = np.ones(len(mean))
    sky[is_skin] -= 0.22 * bump(skin, 30, 36, 17, 9) + 0.3 * bump(skin, 7, -15, 5, 4)
    sky[is_skin] -= 0.35 * smoothstep(-82, -100, skin[:, 1]) + 0.12 * bump(skin, 0, -54, 16, 5)
    sky[parts == 1] = 0.75
    sky[parts >= 2] = 1 - 0.45 * smoothstep(0.05, 0.5, direction[parts >= 2, 1])
    columns["open_sky"] = sky
    return _float(np.stack([columns[name] for name in MATERIALS], 1))


# Where the 68 Multi-PIE points lie on the mean face, subject's right half (x < 0) first; the last
# column is the side of the slit (0: any).
_JAW = [(-74, 34), (-73, 14), (-71, -8), (-67, -29), (-58, -49), (-45, -63), (-30, -73), (-15, -79)]
_HALVES = {
    "brow": [(-56, 50), (-47, 55), (-37, 57), (-25, 56), (-13, 53)],
    "eye": [(-45, 31, 0), (-37, 37, 1), (-25, 37, 1), (-17, 31, 0), (-25, 28, -1), (-37, 28, -1)],
}


def _landmarks(mean: Any, side: Any, parts: Any) -> Tensor:
    jaw = [*_JAW, (0, -81), *[(-x, y) for x, y in _JAW[::-1]]]
    brow = _HALVES["brow"]
    brows = [*brow, *[(-x, y) for x, y in brow[::-1]]]
    nose = [(0, 34), (0, 24), (0, 13), (0, 2), (-14, -12), (-7, -14), (0, -15), (7, -14), (14, -12)]
    right = _HALVES["eye"]
    left = [(-right[k][0], *right[k][1:]) for k in (3, 2, 1, 0, 5, 4)]
    m = MOUTH_ROW
    outer = [
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
    wanted = [*jaw, *brows, *nose, *right, *left, *outer, *inner]
    index = []
    for x, y, *which in wanted:
        allowed = (parts == 0) & (mean[:, 2] > -40)
        if which and which[0]:
            allowed &= np.sign(side) == which[0]
        distance = (mean[:, 0] - x) ** 2 + (mean[:, 1] - y) ** 2
        index.append(int(np.argmin(np.where(allowed, distance, np.inf))))
    return torch.tensor(index)
