"""Smooth patches of colour on a face: freckles, moles, make-up, stubble, rings under the eyes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ntensor.faces.morphable.face_model import FaceModel

_CHEEK, _NOSE, _FOREHEAD = (38.0, 4.0, 42.0), (0.0, 4.0, 74.0), (0.0, 84.0, 48.0)
# Millimetres; vertices further back have no patches.
_BEHIND = -10.0
_PART = 2048
_SMALLEST = -80.0
# Regions of facial hair: middle and radii in millimetres.
_MOUSTACHE = ((0.0, -22.0, 64.0), (26.0, 7.0, 22.0))
_GOATEE = ((0.0, -66.0, 56.0), (20.0, 22.0, 24.0))
_CHIN = ((0.0, -78.0, 30.0), (70.0, 26.0, 60.0))
_CHEEKS = ((60.0, -38.0, 4.0), (22.0, 36.0, 42.0))


@dataclasses.dataclass(frozen=True)
class Patches:
    """`k` patches: ellipsoids with soft edges around points of the mean face.

    Attributes:
        middle, radius (Tensor[k, 3]): millimetres.
        colour (Tensor[k, 3]): 0..1.
        strength (Tensor[k]): opacity in the middle, 0..1.
    """

    middle: Tensor
    radius: Tensor
    colour: Tensor
    strength: Tensor

    def paint(self, face: FaceModel, albedo: Tensor) -> Tensor:
        """Paints the patches on the albedo (n, V, 3) of one face's vertices.

        .. math:: a \\leftarrow a + w_k (c_k - a), \\qquad
                  w_k = s_k \\exp(-\\tfrac12 |(v - m_k) / r_k|^4)
        """
        mean = face.mean.t().contiguous()
        front = (mean[2] > _BEHIND).nonzero()[:, 0]
        points = torch.stack([axis.index_select(0, front) for axis in mean])  # (3, F)
        scale = 1 / self.radius
        place = self.middle * scale
        weighted = torch.cat([self.colour.t(), self.colour.new_ones(1, len(self.colour))])
        planes = albedo.mT.flatten(0, 1)
        old = torch.stack([plane.index_select(0, front) for plane in planes]).unflatten(0, (-1, 3))
        # In parts that stay in the processor's cache.
        for part, paint in zip(points.split(_PART, 1), old.split(_PART, 2), strict=True):
            away = torch.zeros((), device=points.device)
            for c, axis in enumerate(part):
                away = (axis * scale[:, c : c + 1]).sub_(place[:, c : c + 1]).square_().add_(away)
            # exp is slow where its result is not a normal number.
            weight = away.square_().mul_(-0.5).clamp_(min=_SMALLEST).exp_()
            weight *= self.strength[:, None]  # (k, part)
            *colour, total = weighted @ weight
            covered = 1 - (1 - weight).prod(0)
            paint += (torch.stack(colour) / total.clamp_min(1e-6) - paint) * covered
        painted = planes.clone()
        for plane, new in zip(painted, old.flatten(0, 1), strict=True):
            plane[front] = new
        return painted.unflatten(0, (-1, 3)).mT


def draw_patches(
    rng: np.random.Generator, skin: Any, lips: Any, hair: Any, amount: float
) -> Patches:
    """Draws the patches of one person.

    Args:
        rng: the person's generator.
        skin, lips, hair (array[3]): colours of the person, 0..1.
        amount (float): factor for the strengths; 1 in training.
    """
    skin, lips, hair = (np.asarray(colour, np.float64) for colour in (skin, lips, hair))
    rows: list[tuple[Any, Any, Any, float]] = []
    _add_blotches(rng, rows, skin)
    _add_spots(rng, rows, skin)
    kind = rng.random()
    if kind < 0.35:
        _add_make_up(rng, rows, skin, lips)
    elif kind > 0.6:
        _add_beard(rng, rows, skin, hair)
    tired = rng.uniform(0, 0.35)
    for side in (-1, 1):
        rows.append(((side * 31, 20, 40), (15, 6, 16), skin * (0.72, 0.66, 0.74), tired))
    middle, radius, colour, strength = (
        torch.from_numpy(np.asarray(column, np.float32)) for column in zip(*rows, strict=True)
    )
    return Patches(middle, radius, colour.clamp(0.01, 1), (amount * strength).clamp(0, 0.95))


def _add_blotches(rng: np.random.Generator, rows: list[Any], skin: Any) -> None:
    """Large soft regions: flushed nose and cheeks, a paler or darker forehead, random blotches."""
    red = skin * (1.05, 0.78, 0.76)
    for place, size in ((_NOSE, 15.0), (_CHEEK, 20.0), ((-_CHEEK[0], *_CHEEK[1:]), 20.0)):
        rows.append((place, (size, 0.8 * size, 22), red, rng.uniform(0, 0.6)))
    rows.append((_FOREHEAD, (50, 26, 40), skin * rng.uniform(0.88, 1.15), rng.uniform(0, 0.5)))
    for _ in range(6):
        anywhere = rng.normal((0, -10, 35), (42, 50, 20))
        shade = skin * rng.uniform(0.72, 1.2) * rng.normal(1, 0.06, 3)
        rows.append((anywhere, rng.uniform(10, 34, 3), shade, rng.uniform(0, 0.45)))


def _add_spots(rng: np.random.Generator, rows: list[Any], skin: Any) -> None:
    """Moles, and freckles on some faces."""
    count = int(rng.integers(0, 4)) + (int(rng.integers(12, 28)) if rng.random() < 0.12 else 0)
    for _ in range(count):
        place = rng.normal((0, 0, 48), (34, 32, 14))
        size = rng.uniform(2.5, 4.5)
        rows.append((place, (size, size, 12), skin * (0.5, 0.42, 0.4), rng.uniform(0.2, 0.7)))


def _add_make_up(rng: np.random.Generator, rows: list[Any], skin: Any, lips: Any) -> None:
    paint = np.array([rng.uniform(0.35, 0.8), rng.uniform(0.05, 0.3), rng.uniform(0.1, 0.4)])
    rows.append(((0, -35, 58), (23, 9, 18), 0.35 * lips + 0.65 * paint, rng.uniform(0.2, 0.85)))
    shadow = rng.uniform(0.08, 0.55) * rng.normal(1, 0.25, 3)
    strength = rng.uniform(0, 0.7)
    for side in (-1, 1):
        rows.append(((side * 32, 40, 40), (18, 8, 16), np.abs(shadow), strength))
        rows.append(((side * 45, 0, 36), (16, 10, 20), skin * (1.05, 0.7, 0.72), 0.7 * strength))


def _add_beard(rng: np.random.Generator, rows: list[Any], skin: Any, hair: Any) -> None:
    """Stubble to a full beard, in a random choice of regions."""
    strength = rng.uniform(0.15, 0.92)
    colour = hair * rng.uniform(0.8, 1.15) + 0.12 * (1 - strength) * skin
    full = rng.random() < 0.55
    for (place, size), grows in (
        (_MOUSTACHE, rng.random() < 0.8),
        (_GOATEE, rng.random() < 0.8),
        (_CHIN, full),
        (_CHEEKS, full),
    ):
        if grows:
            for side in (-1, 1) if place[0] else (1,):
                rows.append(((side * place[0], *place[1:]), size, colour, strength))
