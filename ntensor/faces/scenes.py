"""What a generated picture shows, drawn at random: expression, pose, light and background."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import harmonics
from .face_model import FaceModel

# The seven poses of the tables, degrees of yaw; positive turns the face to the image's right.
YAW_BINS = (-60.0, -40.0, -20.0, 0.0, 20.0, 40.0, 60.0)
FIXED_LIGHTS = 16
NEAR_FRONTAL_DEGREES = 15.0
IDENTITY_SPREAD = 0.9
_IDENTITY_LIMIT = 2.5
_POPULATION = 0x1D


@dataclasses.dataclass(frozen=True)
class Scenes:
    """`n` pictures in numbers.

    Attributes:
        identity (Tensor[n], int64): which person; gives `id_3dmm` and the colours.
        id_3dmm, exp_3dmm (Tensor[n, k_a], Tensor[n, k_b]): coefficients of the face model.
        angles (Tensor[n, 3]): yaw, pitch, roll in degrees, see `rotation_of`.
        light (Tensor[n, 3, 9])
        background (Tensor[n, 3, 17, 17]): colours on a coarse grid, 0..1.
        expression, pose_bin, light_bin (Tensor[n], int64): labels, -1 unknown.
    """

    identity: Tensor
    id_3dmm: Tensor
    exp_3dmm: Tensor
    angles: Tensor
    light: Tensor
    background: Tensor
    expression: Tensor
    pose_bin: Tensor
    light_bin: Tensor

    def to(self, device: torch.device | str) -> Scenes:
        """The same with its tensors on `device`."""
        return Scenes(*(getattr(self, field.name).to(device) for field in dataclasses.fields(self)))


def rotation_of(angles: Tensor) -> Tensor:
    """Camera rotations `R = R_z(roll) R_x(-pitch) R_y(yaw)`.

    Positive yaw turns the face to the image's right, positive pitch upwards, positive roll tilts
    the head to the image's left (counter-clockwise).

    Args:
        angles (Tensor[n, 3]): yaw, pitch, roll in degrees.

    Returns:
        Tensor[n, 3, 3]: orthonormal, determinant +1.

    Example:
        >>> import torch
        >>> from ntensor.faces.scenes import rotation_of
        >>> (rotation_of(torch.tensor([[90.0, 0.0, 0.0]])) @ torch.tensor([0.0, 0.0, 1.0])).round()
        tensor([[1., 0., -0.]])
    """
    yaw, pitch, roll = torch.deg2rad(angles.double()).unbind(1)
    zero, one = torch.zeros_like(yaw), torch.ones_like(yaw)

    def matrix(*rows: Tensor) -> Tensor:
        return torch.stack(rows, 1).unflatten(1, (3, 3))

    cy, sy, cp, sp, cr, sr = yaw.cos(), yaw.sin(), pitch.cos(), pitch.sin(), roll.cos(), roll.sin()
    about_y = matrix(cy, zero, sy, zero, one, zero, -sy, zero, cy)
    about_x = matrix(one, zero, zero, zero, cp, sp, zero, -sp, cp)
    about_z = matrix(cr, -sr, zero, sr, cr, zero, zero, zero, one)
    return (about_z @ about_x @ about_y).to(angles.dtype)


def identity_coefficients(identity: int, size: int) -> Any:
    """The person's shape: `N(0, 0.9^2)` cut at 2.5, the same in every data set.

    Args:
        identity (int): the person's number.
        size (int): `k_a`.

    Returns:
        array[size], float32
    """
    drawn = np.random.default_rng([_POPULATION, identity]).standard_normal(size)
    limited: Any = np.clip(IDENTITY_SPREAD * drawn, -_IDENTITY_LIMIT, _IDENTITY_LIMIT)
    return limited.astype(np.float32)


def draw_expression(rng: np.random.Generator, face: FaceModel) -> tuple[Any, int]:
    """An expression: in 2 of 3 draws a basic one with small additions, else a free mixture.

    Returns:
        (array[k_b], label): weights in 0..1; the label is the basic expression or -1.
    """
    weights = np.zeros(face.expression_size, np.float32)
    label = int(rng.integers(len(face.basic_names))) if rng.random() < 2 / 3 else -1
    count, most = (2, 0.25) if label >= 0 else (4, 0.75)
    if label >= 0:
        weights += face.basic_weights[label].cpu().numpy() * np.float32(rng.uniform(0.7, 1.1))
    chosen = rng.choice(face.expression_size, count, replace=False)
    weights[chosen] += rng.uniform(0, most, count).astype(np.float32)
    return np.clip(weights, 0, 1), label


def draw_angles(rng: np.random.Generator) -> Any:
    """Yaw within 60, pitch within 25 and roll within 10 degrees, more often small ones.

    Returns:
        array[3], float32
    """
    spread = np.array([28.0, 10.0, 4.0])
    limit = np.array([60.0, 25.0, 10.0])
    drawn = rng.standard_normal(3) * spread
    outside = np.abs(drawn) > limit
    return np.where(outside, rng.uniform(-limit, limit), drawn).astype(np.float32)


def pose_bin_of(yaw: float) -> int:
    """Index of the nearest of `YAW_BINS`."""
    return int(np.argmin(np.abs(np.array(YAW_BINS) - yaw)))


def draw_light(rng: np.random.Generator) -> Any:
    """A key lamp, a weaker fill lamp, ambient light and a little of every harmonic.

    Returns:
        array[3, 9], float32: its mean shading of the front is 0.6 to 0.95.
    """
    azimuth = float(np.clip(rng.normal(0, 42), -88, 88))
    elevation = float(rng.uniform(-20, 60))
    key, fill, ambient = rng.uniform(0.35, 1.0), rng.uniform(0.0, 0.3), rng.uniform(0.25, 0.55)
    warmth = rng.normal(0, 0.05) * np.array([1.0, 0.1, -1.0])
    light = _lamp(azimuth, elevation, key * (1 + warmth))
    light += _lamp(
        float(-azimuth + rng.normal(0, 20)), float(rng.uniform(-30, 30)), fill * (1 - warmth)
    )
    light += harmonics.ambient(torch.tensor(ambient * (1 - 0.7 * warmth))[None])[0].numpy()
    light[:, 1:] += rng.normal(0, 0.02, 8) + rng.normal(0, 0.006, (3, 8))
    return _exposed(light, rng.uniform(0.6, 0.95))


def fixed_light(index: int) -> Any:
    """One of the 16 lights of the tables: 4 azimuths x 2 elevations x soft or hard.

    Args:
        index (int): `(azimuth * 2 + elevation) * 2 + hardness`, 0..15; azimuths -60, -20, 20, 60,
            elevations -10, 35 degrees.

    Returns:
        array[3, 9], float32

    Raises:
        ValueError: another index.
    """
    if not 0 <= index < FIXED_LIGHTS:
        raise ValueError(f"fixed_light: index must be 0..{FIXED_LIGHTS - 1}, got {index}")
    azimuth, elevation = (-60.0, -20.0, 20.0, 60.0)[index // 4], (-10.0, 35.0)[index // 2 % 2]
    key, ambient = ((0.55, 0.45), (1.0, 0.18))[index % 2]
    light = _lamp(azimuth, elevation, np.full(3, key))
    light += harmonics.ambient(torch.full((1, 3), ambient, dtype=torch.double))[0].numpy()
    return _exposed(light, 0.75)


def frontal_light() -> Any:
    """The light of the proof of concept: soft, from the camera and a little above.

    Returns:
        array[3, 9], float32
    """
    light = _lamp(0.0, 20.0, np.full(3, 0.6))
    light += harmonics.ambient(torch.full((1, 3), 0.4, dtype=torch.double))[0].numpy()
    return _exposed(light, 0.75)


def _lamp(azimuth: float, elevation: float, colour: Any) -> Any:
    angles = torch.tensor([azimuth, elevation], dtype=torch.double)
    direction = harmonics.direction_of(angles[:1], angles[1:])
    return harmonics.directional(direction, torch.from_numpy(colour)[None])[0].numpy()


def _exposed(light: Any, mean: float) -> Any:
    """`light` scaled so that its mean shading of the normals of a front half sphere is `mean`."""
    turns = np.arange(64) * np.pi * (3 - np.sqrt(5))
    z = 0.15 + 0.85 * (np.arange(64) + 0.5) / 64
    r = np.sqrt(1 - z * z)
    normals = torch.from_numpy(np.stack([r * np.cos(turns), r * np.sin(turns), z]))[None]
    value = harmonics.shading(normals, torch.from_numpy(light)[None]).mean()
    return (light * (mean / max(float(value), 1e-6))).astype(np.float32)


def draw_background(rng: np.random.Generator) -> Any:
    """A smooth, unsaturated texture on a coarse grid: noise of three scales about one colour.

    Returns:
        array[3, 17, 17], float32 in 0..1
    """
    grey = rng.uniform(0.15, 0.8)
    tint = rng.normal(0, 0.05, (3, 1, 1))
    texture = np.full((3, 17, 17), grey) + tint
    for cells, amplitude in ((2, 0.13), (4, 0.08), (16, 0.03)):
        noise = rng.normal(0, 1, (1, cells + 1, cells + 1)) + 0.35 * rng.normal(
            0, 1, (3, cells + 1, cells + 1)
        )
        fine = torch.nn.functional.interpolate(
            torch.from_numpy(noise)[None], size=17, mode="bilinear", align_corners=True
        )[0].numpy()
        texture = texture + amplitude * rng.uniform(0.3, 1.3) * fine
    return np.clip(texture, 0.02, 0.98).astype(np.float32)
