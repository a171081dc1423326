"""Meshes around a head: hair, a hat, glasses, a collar."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from ntensor.faces.morphable.face_model import FaceModel

# The grid of hair and hats: columns around the head, rows from the crown down the head's surface,
# then drops straight down.
COLUMNS, ROWS, DROPS = 48, 20, 8
_MIDDLE = np.array([0.0, 38.0, -42.0])
_LOWEST = -12.0  # degrees, of the rows on the surface
_STEP = 26.0  # millimetres between drops


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Triangles with vertex colours.

    Attributes:
        points (array[V, 3]): millimetres, in the head's axes.
        triangles (array[T, 3])
        colours (array[V, 3]): 0..1.
        rigid (bool): whether it turns with the head.
    """

    points: Any
    triangles: Any
    colours: Any
    rigid: bool = True


@dataclasses.dataclass(frozen=True)
class Hair:
    """The shape and colours of hair, or of a hat.

    Attributes:
        front, side, back (float): height of the edge above the middle of the head, millimetres.
        parting (float): asymmetry of the front edge, raised on one side and lowered on the other,
            millimetres.
        temple (float): azimuth at which the front ends, degrees.
        thickness (float): millimetres.
        waves (array[3, 4]): waves of the surface: cycles around, cycles down, phase, amplitude in
            millimetres.
        colour (array[3]), streaks (float): 0..1.
    """

    front: float
    side: float
    back: float
    parting: float
    temple: float
    thickness: float
    waves: Any
    colour: Any
    streaks: float


def make_hair(surface: Any, vertices: Any, hair: Hair, seed: int) -> Mesh:
    """A surface over the head, from the crown down to the edge.

    Args:
        surface (array): from `find_surface`.
        vertices (array[V, 3]): this head, unposed.
        hair (Hair)
        seed (int): of the streaks.
    """
    middle = _MIDDLE
    base = vertices[surface]  # (COLUMNS, ROWS, 3)
    away = base - middle
    length = np.linalg.norm(away, axis=2, keepdims=True)
    around = np.linspace(0, 2 * np.pi, COLUMNS, endpoint=False)
    angle = np.abs(np.degrees(np.where(around > np.pi, around - 2 * np.pi, around)))
    bulge = hair.thickness * np.ones((COLUMNS, ROWS + DROPS, 1))
    down = np.arange(ROWS + DROPS) / ROWS
    for cycles, rows, phase, size in hair.waves:
        bulge[..., 0] += size * np.sin(round(cycles) * around[:, None] + rows * down + phase)
    outside = base + away / length * bulge[:, :ROWS].clip(2)
    last = outside[:, -1:]
    drops = last - np.arange(1, DROPS + 1)[None, :, None] * np.array([0, _STEP, 0])
    drops[..., [0, 2]] += (bulge[:, ROWS:] - bulge[:, ROWS - 1 : ROWS]) * (
        away[:, -1:, [0, 2]] / length[:, -1:]
    )
    column = np.concatenate([outside, drops], 1)
    edge = _find_edge(hair, around, angle) + middle[1]
    points = _cut(column, edge)
    # Hair lies flat on the head near its edge.
    near = _cut(np.concatenate([base, drops], 1), edge)
    points += (near - points) * (0.8 * np.linspace(0, 1, ROWS) ** 6)[None, :, None]
    triangles, count = _make_grid(COLUMNS, ROWS), COLUMNS * ROWS
    rng = np.random.default_rng(seed)
    strands = rng.normal(0, 1, (COLUMNS, 1)) + 0.5 * rng.normal(0, 1, (COLUMNS, ROWS))
    colours = hair.colour * (1 + hair.streaks * strands[..., None])
    # Both sides are visible where long hair hangs beside the neck.
    both = np.concatenate([triangles, triangles[:, ::-1]])
    return Mesh(points.reshape(count, 3), both, colours.reshape(count, 3).clip(0.01, 1))


def _find_edge(hair: Hair, around: Any, angle: Any) -> Any:
    """Height of the edge above the head's middle, per column."""
    to_side = _step(angle, hair.temple, hair.temple + 22)
    to_back = _step(angle, 100, 150)
    front = hair.front + hair.parting * np.sin(around)
    edge = front + (hair.side - front) * to_side
    return edge + (hair.back - edge) * to_back


def _step(x: Any, low: float, high: float) -> Any:
    t = ((x - low) / (high - low)).clip(0, 1)
    return t * t * (3 - 2 * t)


def _cut(column: Any, edge: Any) -> Any:
    """`ROWS` points per column (COLUMNS, R, 3), from its top down to the height `edge`."""
    height = np.minimum.accumulate(column[..., 1], axis=1)
    above = (height > edge[:, None]).sum(1).clip(1, height.shape[1] - 1)
    upper, lower = (height[np.arange(len(column)), above - k] for k in (1, 0))
    rows = above - 1 + ((upper - edge) / (upper - lower).clip(1e-6)).clip(0, 1)
    place = rows[:, None] * np.linspace(0, 1, ROWS)
    low = np.minimum(place.astype(int), column.shape[1] - 2)
    part = (place - low)[..., None]
    index = np.arange(len(column))[:, None]
    return column[index, low] * (1 - part) + column[index, low + 1] * part


def find_surface(face: FaceModel) -> Any:
    """The head's surface vertex in each direction of the grid (COLUMNS, ROWS)."""
    away = face.mean.cpu().double().numpy() - _MIDDLE
    length = np.linalg.norm(away, axis=1)
    around = np.linspace(0, 2 * np.pi, COLUMNS, endpoint=False)[:, None]
    up = np.radians(np.linspace(90, _LOWEST, ROWS))
    parts = np.sin(around) * np.cos(up), np.sin(up), np.cos(around) * np.cos(up)
    wanted = np.stack(np.broadcast_arrays(*parts), -1)
    near = wanted.reshape(-1, 3) @ (away / length[:, None]).T
    # Excludes vertices inside the head.
    inside = (length < 60) | (face.eye_direction.abs().sum(1) > 0).cpu().numpy()
    near[:, inside] = -2
    return near.argmax(1).reshape(COLUMNS, ROWS)


@functools.cache
def _make_grid(columns: int, rows: int, closed: bool = True) -> Any:
    """Triangles of a columns x rows grid, facing outwards if the columns run to the right."""
    c, r = np.meshgrid(
        np.arange(columns if closed else columns - 1), np.arange(rows - 1), indexing="ij"
    )
    right = (c + 1) % columns
    a, b = c * rows + r, right * rows + r
    lower = np.stack([a, a + 1, b + 1], -1)
    upper = np.stack([a, b + 1, b], -1)
    return np.concatenate([lower.reshape(-1, 3), upper.reshape(-1, 3)])


def make_brim(hat: Mesh, reach: float, colour: Any) -> Mesh:
    """The brim of a cap, extending from the front edge of the hat.

    Args:
        hat (Mesh): from `make_hair`.
        reach (float): millimetres.
        colour (array[3])
    """
    edge = hat.points.reshape(COLUMNS, ROWS, 3)[:, -1]
    chosen = np.arange(-9, 10) % COLUMNS
    around = 2 * np.pi * chosen / COLUMNS
    inner = edge[chosen]
    out = np.stack([0.5 * np.sin(around), np.full(len(chosen), -0.22), np.cos(around)], 1)
    outer = inner + reach * out * np.cos(around)[:, None].clip(0.15)
    points = np.stack([inner, outer], 1).reshape(-1, 3)
    triangles = _make_grid(len(chosen), 2, closed=False)
    both = np.concatenate([triangles, triangles[:, ::-1]])
    return Mesh(points, both, np.broadcast_to(colour, points.shape))


@dataclasses.dataclass(frozen=True)
class Glasses:
    """The shape and colour of glasses.

    Attributes:
        width, height (float): half width and half height of a lens, millimetres.
        square (float): exponent of the superellipse; 2 is an ellipse, more is squarer.
        rim (float): width of the rim, millimetres.
        colour (array[3])
        dark (bool): whether they are sunglasses.
    """

    width: float
    height: float
    square: float
    rim: float
    colour: Any
    dark: bool


_CORNERS = 20


def make_glasses(face: FaceModel, vertices: Any, glasses: Glasses) -> Mesh:
    """Two rims in front of the eyes, a bridge, and temples to the ears."""
    marks = vertices[face.landmarks68.cpu().numpy()]
    eyes = [marks[36:42].mean(0), marks[42:48].mean(0)]
    ears = [marks[0], marks[16]]
    depth = max(marks[36:48, 2].max() + 14, marks[27, 2] + 2)
    turn = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
    cos, sin = np.cos(turn), np.sin(turn)
    power = 2 / glasses.square
    shape = np.stack([np.sign(cos) * np.abs(cos) ** power, np.sign(sin) * np.abs(sin) ** power], 1)
    points: list[Any] = []
    triangles: list[Any] = []

    def add(corners: Any, faces: Any) -> None:
        start = sum(len(part) for part in points)
        points.append(np.asarray(corners, float))
        triangles.append(np.asarray(faces) + start)

    for side, (eye, ear) in enumerate(zip(eyes, ears, strict=True)):
        outward = 1 if side else -1
        centre = np.array([eye[0] + outward * 1.5, eye[1] - 2, depth])
        size = np.array([glasses.width, glasses.height])
        rings = [centre + np.pad(shape * s, ((0, 0), (0, 1))) for s in (size, size + glasses.rim)]
        # Glasses curve slightly backwards.
        for ring in rings:
            ring[:, 2] -= 0.25 * np.abs(ring[:, 0] - eye[0]).clip(8) + 0.004 * ring[:, 0] ** 2
        k = np.arange(_CORNERS)
        after = (k + 1) % _CORNERS
        quads = [np.stack([k, k + _CORNERS, after + _CORNERS], 1)]
        quads.append(np.stack([k, after + _CORNERS, after], 1))
        add(np.concatenate(rings), np.concatenate(quads))
        if glasses.dark:
            fan = np.stack([np.full(_CORNERS - 2, 0), k[1:-1], k[2:]], 1)
            add(rings[0], fan)
        hinge = np.array(
            [centre[0] + outward * (glasses.width + glasses.rim), centre[1] + 5, depth - 9]
        )
        end = np.array([1.03 * ear[0], ear[1] + 2, ear[2]])
        high = np.array([0, 1.3 * glasses.rim + 1, 0])
        add(
            [hinge - high / 2, end - high / 2, end + high / 2, hinge + high / 2],
            [[0, 1, 2], [0, 2, 3]],
        )
    inner = [eyes[0][0] + glasses.width - 1.5, eyes[1][0] - glasses.width + 1.5]
    y = (eyes[0][1] + eyes[1][1]) / 2 + 3
    half = glasses.rim / 2 + 0.6
    rows = [(inner[0], y - half), (inner[1], y - half), (inner[1], y + half), (inner[0], y + half)]
    add([(*row, depth - 1) for row in rows], [[0, 1, 2], [0, 2, 3]])
    corners, faces = np.concatenate(points), np.concatenate(triangles)
    both = np.concatenate([faces, faces[:, ::-1]])
    return Mesh(corners, both, np.broadcast_to(glasses.colour, corners.shape))


def make_collar(vertices: Any, height: float, slope: float, colour: Any) -> Mesh:
    """A collar with shoulders, which does not turn with the head.

    Args:
        vertices (array[V, 3]): this head.
        height (float): distance of the upper edge below the origin, millimetres.
        slope (float): millimetres outwards per millimetre down, at the sides.
        colour (array[3])
    """
    near = vertices[np.abs(vertices[:, 1] + height) < 8]
    radius = np.array([60.0, 62.0])
    if len(near):
        radius[:] = max(np.percentile(np.abs(near[:, 0]), 90), 50)
    around = np.linspace(0, 2 * np.pi, COLUMNS, endpoint=False)
    down = np.array([0.0, 4.0, 14.0, 40.0, 120.0])
    wide = 4 + slope * down
    x = np.sin(around)[:, None] * (radius[0] + wide)
    z = np.cos(around)[:, None] * (radius[1] + 0.35 * wide) - 38
    # A collar is lower in front.
    y = -height - down - 12 * np.cos(around)[:, None].clip(0)
    points = np.stack(np.broadcast_arrays(x, y, z), -1).reshape(-1, 3)
    triangles = _make_grid(COLUMNS, len(down))
    both = np.concatenate([triangles, triangles[:, ::-1]])
    return Mesh(points, both, np.broadcast_to(colour, points.shape), rigid=False)
