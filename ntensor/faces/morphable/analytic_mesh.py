"""Points and triangles of the built-in face: skin with slits, pockets, eyeballs, teeth."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .analytic_surface import (
    BOTTOM,
    EYE_HALF_WIDTH,
    EYE_ROW,
    MOUTH_HALF_WIDTH,
    MOUTH_ROW,
    TOP,
    eye_opening,
    mouth_opening,
    smoothstep,
    surface,
)

SLITS = (EYE_ROW, MOUTH_ROW)
# Depth of a pocket, and how far its back extends above and below the slit, millimetres.
EYE_POCKET, MOUTH_POCKET = (16.0, 3.0), (30.0, 11.0)


def _make_levels(count: int) -> Any:
    """Row heights from top to bottom, dense at eyes, nose, mouth, chin, hairline and crown."""
    y = np.linspace(TOP, BOTTOM, 4001)
    density = 0.2 + 0.25 * smoothstep(-120, -90, y)
    for center, width, weight in (
        (EYE_ROW + 4, 14, 1.6),
        (MOUTH_ROW, 13, 1.9),
        (-5, 14, 0.9),
        (52, 12, 0.7),
        (-85, 14, 0.5),
        (TOP, 9, 1.6),
        (78, 22, 0.55),
    ):
        density = density + weight * np.exp(-(((y - center) / width) ** 2))
    return _find_quantiles(y, density, count)


def _make_azimuths(count: int) -> Any:
    """`count` azimuths of a row, symmetric, dense in front and around the eyes."""
    t = np.linspace(0, math.pi, 4001)
    degrees = np.rad2deg(t)
    density = 0.26 + 1.0 * np.exp(-((degrees / 48) ** 4))
    for center, weight in ((24, 0.55), (96, 0.45)):
        density = density + weight * np.exp(-(((degrees - center) / 12) ** 2))
    half = count // 2
    if count % 2:  # one vertex in the middle of the face, none at the back
        right = _find_quantiles(t, density, 2 * half + 2)[2::2][:half] if half else np.empty(0)
        return np.concatenate([-right[::-1], [0.0], right])
    right = _find_quantiles(t, density, half + 1)[1:]
    return np.concatenate([-right[::-1][1:], [0.0], right])


def _find_quantiles(t: Any, density: Any, count: int) -> Any:
    total = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return np.interp(np.linspace(0, total[-1], count), total, t)


class SkinMesh:
    """The skin, row by row from the crown down, and pockets behind the slits of eyes and mouth.

    Rows at `EYE_ROW` and `MOUTH_ROW` have each point inside a slit twice, as an upper and a lower
    vertex. A pocket closes the gap between lid and eyeball, or between lip and teeth, so that the
    background does not show through.

    Args:
        vertices (int): of skin and pockets together.

    Attributes:
        azimuth, y, side (list of float): parameters of `surface`, one per skin vertex.
        triangles, pocket_triangles (list of int triples): of the skin and of the pockets; pocket
            vertices are numbered from `len(y)` on.
        pocket_follows (list of int): the skin vertex that each pocket vertex moves with.
        pocket_offset (list of float triples): from that vertex, millimetres.
    """

    def __init__(self, vertices: int) -> None:
        self.azimuth: list[float] = []
        self.y: list[float] = []
        self.side: list[float] = []
        self.triangles: list[tuple[int, int, int]] = []
        self.pocket_follows: list[int] = []
        self.pocket_offset: list[tuple[float, float, float]] = []
        self.pocket_triangles: list[tuple[int, int, int]] = []
        columns = max(16, round(math.sqrt(vertices)))
        levels = _make_levels(max(12, (vertices - 1 - columns) // columns) + 1)[1:]
        for slit in SLITS:
            levels[np.argmin(np.abs(levels - slit))] = slit
        above = [self._add(0.0, TOP, 1.0)]
        angles: Any = np.zeros(1)
        rings = []
        for y, count in zip(levels, _count_row_sizes(vertices, levels, columns), strict=True):
            top, bottom, row_angles = self._row(float(y), count)
            self._zip(above, angles, top, row_angles)
            above, angles = bottom, row_angles
            rings += [(float(y), ring) for ring in _find_rings(top, bottom)]
        for y, ring in rings:
            if y == MOUTH_ROW:
                self._pocket(ring, MOUTH_POCKET, MOUTH_HALF_WIDTH)
            else:
                self._pocket(ring, EYE_POCKET, EYE_HALF_WIDTH)

    def _add(self, azimuth: float, y: float, side: float) -> int:
        self.azimuth.append(azimuth)
        self.y.append(y)
        self.side.append(side)
        return len(self.y) - 1

    def _row(self, y: float, count: int) -> tuple[list[int], list[int], Any]:
        angles = _make_azimuths(count)
        split = _inside_slit(y, angles)
        slit = SLITS[0] if y > sum(SLITS) / 2 else SLITS[1]
        side = float(np.sign(y - slit))
        top = [
            self._add(float(a), y, 1.0 if s else side) for a, s in zip(angles, split, strict=True)
        ]
        bottom = [
            self._add(float(a), y, -1.0) if s else index
            for a, s, index in zip(angles, split, top, strict=True)
        ]
        return top, bottom, angles

    def _pocket(self, ring: list[int], depth: tuple[float, float], half_width: float) -> None:
        m = len(ring)
        start = len(self.y) + len(self.pocket_follows)
        self.pocket_follows += [*ring, *ring, ring[0]]
        back = [(0.0, depth[1] * self.side[index], -depth[0]) for index in ring]
        self.pocket_offset += [*([(0.0, 0.0, 0.0)] * m), *back]
        # The middle of the back follows a corner of the slit, half the slit's width away.
        self.pocket_offset.append((half_width, 0.0, -depth[0]))
        for k in range(m):
            here, after = start + k, start + (k + 1) % m
            self.pocket_triangles += [
                (after, here, here + m),
                (after, here + m, after + m),
                (after + m, here + m, start + 2 * m),
            ]

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


def _count_row_sizes(vertices: int, levels: Any, columns: int) -> list[int]:
    """Vertices per row, so that rows, doubled points, pockets and the pole add up to `vertices`."""
    doubled = [int(_inside_slit(float(y), _make_azimuths(columns)).sum()) for y in levels]
    slits = 3
    pockets = 2 * (2 * sum(doubled) + 2 * slits) + slits
    left = vertices - 1 - sum(doubled) - pockets - columns * len(levels)
    free = [k for k, y in enumerate(levels) if y not in SLITS]
    counts = [columns] * len(levels)
    step = 1 if left > 0 else -1
    for k in range(abs(left)):
        counts[free[-1 - k % len(free)]] += step
    return counts


def _find_rings(top: list[int], bottom: list[int]) -> list[list[int]]:
    """Vertices around each slit of a row, clockwise as seen from the front."""
    rings = []
    k = 0
    while k < len(top):
        if top[k] == bottom[k]:
            k += 1
            continue
        end = k
        while top[end] != bottom[end]:
            end += 1
        rings.append([top[k - 1], *top[k:end], top[end], *bottom[k:end][::-1]])
        k = end
    return rings


def _inside_slit(y: float, angles: Any) -> Any:
    """Which points of the row at y lie inside a slit, and so are doubled."""
    if y not in SLITS:
        return np.zeros(len(angles), bool)
    p = surface(angles, np.full(len(angles), y), np.zeros(len(angles)))
    opening = eye_opening(p[:, 0]) if y == EYE_ROW else mouth_opening(p[:, 0])
    return (opening > 0) & (np.cos(angles) > 0)


def make_eyeball(rings: int, segments: int) -> tuple[Any, Any]:
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


def make_teeth_and_tongue(columns: int, rows: int) -> tuple[Any, Any, Any]:
    """The inside of the mouth: positions, side and triangles; positive sides are the upper jaw."""
    u: Any = np.repeat(np.linspace(-1, 1, columns), rows)
    v: Any = np.tile(np.linspace(1, -1, rows), columns)
    upper = v > 0
    y = np.where(upper, MOUTH_ROW - 8 + 17 * v, MOUTH_ROW - 1 + 13 * v)
    z = 45.0 - 17.0 * u**2 - np.where(upper, 0.0, 4.0)
    z = z - 16 * np.exp(-((v / 0.22) ** 2))
    points = np.stack([28 * u, y, z], 1)
    k = np.arange(columns * rows).reshape(columns, rows)
    a, b, c, d = k[:-1, :-1].ravel(), k[:-1, 1:].ravel(), k[1:, 1:].ravel(), k[1:, :-1].ravel()
    return points, v, np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
