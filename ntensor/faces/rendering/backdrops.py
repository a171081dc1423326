"""Structured backgrounds: smooth noise with shapes in front of it."""

from __future__ import annotations

from typing import Any

import numpy as np


def draw_backdrop(seed: int, size: int) -> Any:
    """Draws a random background.

    Args:
        seed (int)
        size (int): pixels per side.

    Returns:
        array[3, size, size], float32 in 0..1
    """
    rng = np.random.default_rng([seed, 0xBAC])
    x = np.arange(size)[None] / size - 0.5
    y = x.T
    lean = rng.normal(0, 0.35, (2, 3))
    colour = rng.uniform(0.03, 0.95) * rng.uniform(0.6, 1, 3)
    picture = colour[:, None, None] + lean[0][:, None, None] * x + lean[1][:, None, None] * y
    for _ in range(4):
        wave = rng.normal(0, 1, 2) * rng.uniform(2, 30)
        size_of = rng.uniform(0, 0.07)
        picture += (
            size_of
            * rng.uniform(0.4, 1, (3, 1, 1))
            * np.sin(wave[0] * x + wave[1] * y + rng.uniform(0, 6.3))
        )
    for _ in range(int(rng.integers(0, 7))):
        _add_shape(rng, picture, x, y, size)
    return picture.clip(0, 1).astype(np.float32)


def _add_shape(rng: np.random.Generator, picture: Any, x: Any, y: Any, size: int) -> None:
    turn, middle = rng.uniform(0, np.pi), rng.uniform(-0.6, 0.6, 2)
    along = np.cos(turn) * (x - middle[0]) + np.sin(turn) * (y - middle[1])
    across = -np.sin(turn) * (x - middle[0]) + np.cos(turn) * (y - middle[1])
    width, height = rng.uniform(0.02, 0.5, 2)
    kind = rng.integers(3)
    if kind == 0:
        inside = np.minimum(width - np.abs(along), height - np.abs(across))
    elif kind == 1:
        inside = (1 - np.hypot(along / width, across / height)) * min(width, height)
    else:
        inside = along
    cover = (inside * size * rng.uniform(0.1, 1) + 0.5).clip(0, 1)
    colour = rng.uniform(0, 1) * rng.uniform(0.4, 1, 3)
    picture += cover * rng.uniform(0.3, 1) * (colour[:, None, None] - picture)
