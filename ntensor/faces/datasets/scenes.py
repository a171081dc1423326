"""The random content of a generated picture: expression, pose, light, background."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ntensor.faces.morphable.face_model import FaceModel
from ntensor.faces.rendering import harmonics

# The seven poses of the tables, as yaw in degrees; positive turns the face to the image's right.
YAW_BINS = (-60.0, -40.0, -20.0, 0.0, 20.0, 40.0, 60.0)
FIXED_LIGHTS = 16
NEAR_FRONTAL_DEGREES = 15.0
IDENTITY_SPREAD = 0.9
_IDENTITY_LIMIT = 2.5
_POPULATION = 0x1D


@dataclasses.dataclass(frozen=True)
class Scenes:
    """The parameters of `n` pictures.

    Attributes:
        identity (Tensor[n], int64): the person, who determines `id_3dmm` and the colours.
        id_3dmm, exp_3dmm (Tensor[n, k_a], Tensor[n, k_b]): coefficients of the face model.
        angles (Tensor[n, 3]): yaw, pitch, roll in degrees, see `angles_to_rotation`.
        light (Tensor[n, 3, 9])
        background (Tensor[n, 3, 17, 17]): colours on a coarse grid, 0..1.
        expression, pose_bin, light_bin (Tensor[n], int64): labels, -1 if unknown.
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

    def __getitem__(self, index: Any) -> Scenes:
        """Some of the pictures."""
        return Scenes(*(getattr(self, field.name)[index] for field in dataclasses.fields(self)))

    def to(self, device: torch.device | str) -> Scenes:
        """The same with its tensors on `device`."""
        return Scenes(*(getattr(self, field.name).to(device) for field in dataclasses.fields(self)))


def angles_to_rotation(angles: Tensor) -> Tensor:
    """Camera rotations `R = R_z(roll) R_x(-pitch) R_y(yaw)`.

    Positive yaw turns the face to the image's right, positive pitch upwards, positive roll tilts
    the head to the image's left (counter-clockwise).

    Args:
        angles (Tensor[n, 3]): yaw, pitch, roll in degrees.

    Returns:
        Tensor[n, 3, 3]: orthonormal, determinant +1.

    Example:
        >>> import torch
        >>> from ntensor.faces.datasets.scenes import angles_to_rotation
        >>> rotation = angles_to_rotation(torch.tensor([[90.0, 0.0, 0.0]]))
        >>> (rotation @ torch.tensor([0.0, 0.0, 1.0])).round().abs()
        tensor([[1., 0., 0.]])
    """
    yaw, pitch, roll = torch.deg2rad(angles.double()).unbind(1)
    cy, sy, cp, sp, cr, sr = yaw.cos(), yaw.sin(), pitch.cos(), pitch.sin(), roll.cos(), roll.sin()
    rows = (
        *(cr * cy + sr * sp * sy, -sr * cp, cr * sy - sr * sp * cy),
        *(sr * cy - cr * sp * sy, cr * cp, sr * sy + cr * sp * cy),
        *(-cp * sy, -sp, cp * cy),
    )
    return torch.stack(rows, 1).unflatten(1, (3, 3)).to(angles.dtype)


def rotation_to_angles(rotation: Tensor) -> Tensor:
    """Yaw, pitch and roll of camera rotations: the inverse of `angles_to_rotation`, |pitch| < 90.

    Args:
        rotation (Tensor[n, 3, 3])

    Returns:
        Tensor[n, 3]: degrees.
    """
    yaw = torch.atan2(-rotation[:, 2, 0], rotation[:, 2, 2])
    pitch = torch.asin(-rotation[:, 2, 1].clamp(-1, 1))
    roll = torch.atan2(-rotation[:, 0, 1], rotation[:, 1, 1])
    return torch.rad2deg(torch.stack([yaw, pitch, roll], 1))


def draw_identity(identity: int, size: int) -> Any:
    """The person's shape: `N(0, 0.9^2)` clipped at 2.5, the same in every data set.

    Args:
        identity (int): the person's index.
        size (int): `k_a`.

    Returns:
        array[size], float32
    """
    drawn = np.random.default_rng([_POPULATION, identity]).standard_normal(size)
    limited: Any = np.clip(IDENTITY_SPREAD * drawn, -_IDENTITY_LIMIT, _IDENTITY_LIMIT)
    return limited.astype(np.float32)


def draw_expression(rng: np.random.Generator, face: FaceModel) -> tuple[Any, int]:
    """Draws an expression: a basic one with small additions in 2 of 3 draws, else a free mixture.

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
    """Draws yaw within 60, pitch within 25 and roll within 10 degrees; small angles are likelier.

    Returns:
        array[3], float32
    """
    spread = np.array([28.0, 10.0, 4.0])
    limit = np.array([60.0, 25.0, 10.0])
    drawn = rng.standard_normal(3) * spread
    outside = np.abs(drawn) > limit
    return np.where(outside, rng.uniform(-limit, limit), drawn).astype(np.float32)


def find_pose_bin(yaw: float) -> int:
    """Index of the nearest of `YAW_BINS`."""
    return int(np.argmin(np.abs(np.array(YAW_BINS) - yaw)))


@dataclasses.dataclass(frozen=True)
class Lamps:
    """A light before its projection onto harmonics.

    Attributes:
        azimuth, elevation (array[2]): of the key and the fill lamp, degrees.
        colour (array[2, 3]): of both lamps.
        ambient (array[3]): red, green, blue.
        extra (array[3, 9]): harmonics to add.
        mean (float): desired mean shading of the front.
    """

    azimuth: Any
    elevation: Any
    colour: Any
    ambient: Any
    extra: Any
    mean: float


def draw_lamps(rng: np.random.Generator) -> Lamps:
    """Draws a key lamp, a weaker fill lamp, ambient light and a little of every harmonic."""
    azimuth = float(np.clip(rng.normal(0, 42), -88, 88))
    key, fill, ambient = rng.uniform(0.35, 1.0), rng.uniform(0.0, 0.3), rng.uniform(0.25, 0.55)
    warmth = rng.normal(0, 0.05) * np.array([1.0, 0.1, -1.0])
    extra = np.zeros((3, 9))
    extra[:, 1:] = rng.normal(0, 0.02, 8) + rng.normal(0, 0.006, (3, 8))
    return Lamps(
        np.array([azimuth, -azimuth + rng.normal(0, 20)]),
        np.array([rng.uniform(-20, 60), rng.uniform(-30, 30)]),
        np.stack([key * (1 + warmth), fill * (1 - warmth)]),
        ambient * (1 - 0.7 * warmth),
        extra,
        rng.uniform(0.6, 0.95),
    )


def make_fixed_lamps(index: int) -> Lamps:
    """One of the 16 lights of the tables: 4 azimuths x 2 elevations x soft or hard.

    Args:
        index (int): `(azimuth * 2 + elevation) * 2 + hardness`, 0..15; azimuths -60, -20, 20, 60,
            elevations -10, 35 degrees.

    Returns:
        Lamps

    Raises:
        ValueError: an invalid index.
    """
    if not 0 <= index < FIXED_LIGHTS:
        raise ValueError(f"make_fixed_lamps: index must be 0..{FIXED_LIGHTS - 1}, got {index}")
    azimuth, elevation = (-60.0, -20.0, 20.0, 60.0)[index // 4], (-10.0, 35.0)[index // 2 % 2]
    return _make_lamps(azimuth, elevation, *((0.55, 0.45), (1.0, 0.18))[index % 2])


def make_frontal_lamps() -> Lamps:
    """The light of the proof of concept: soft, from slightly above the camera."""
    return _make_lamps(0.0, 20.0, 0.6, 0.4)


def _make_lamps(azimuth: float, elevation: float, key: float, ambient: float) -> Lamps:
    return Lamps(
        np.array([azimuth, 0.0]),
        np.array([elevation, 0.0]),
        np.stack([np.full(3, key), np.zeros(3)]),
        np.full(3, ambient),
        np.zeros((3, 9)),
        0.75,
    )


def project_lamps(lamps: Sequence[Lamps]) -> Tensor:
    """Projects lights onto harmonics, scaled to the desired mean shading of the front.

    Args:
        lamps (sequence of Lamps): `n` lights.

    Returns:
        Tensor[n, 3, 9], float32: see `harmonics`; the front is a spread of normals with z > 0.15.
    """
    light, scale = _project(lamps)
    return (light * scale[:, None, None]).float()


def project_lamp(lamps: Lamps) -> tuple[Tensor, float]:
    """As `project_lamps`, for one light (1, 3, 9); also returns the factor of the scaling."""
    light, scale = _project([lamps])
    return (light * scale[:, None, None]).float(), float(scale)


def _project(lamps: Sequence[Lamps]) -> tuple[Tensor, Tensor]:
    columns = {
        field.name: torch.from_numpy(np.stack([getattr(row, field.name) for row in lamps]))
        for field in dataclasses.fields(Lamps)
    }
    direction = harmonics.direction_of(columns["azimuth"], columns["elevation"])  # (n, 2, 3)
    both = harmonics.directional(direction.flatten(0, 1), columns["colour"].flatten(0, 1))
    light = columns["extra"] + harmonics.ambient(columns["ambient"])
    light = light + both.unflatten(0, (-1, 2)).sum(1)
    brightness = (light @ _make_front_basis()).relu().mean((1, 2)).clamp_min(1e-6)
    return light, columns["mean"] / brightness


@functools.cache
def _make_front_basis() -> Tensor:
    """The harmonics (9, 64) at normals of the front."""
    turns = torch.arange(64, dtype=torch.double) * math.pi * (3 - math.sqrt(5))
    z = 0.15 + 0.85 * (torch.arange(64, dtype=torch.double) + 0.5) / 64
    r = (1 - z * z).sqrt()
    return harmonics.basis(torch.stack([r * turns.cos(), r * turns.sin(), z])[None])[0]


def draw_background(rng: np.random.Generator) -> Any:
    """Draws a smooth, unsaturated texture on a coarse grid: noise of three scales on one colour.

    Returns:
        array[3, 17, 17], float32 in 0..1
    """
    grey = rng.uniform(0.15, 0.8)
    tint = rng.normal(0, 0.035, (3, 1, 1))
    texture = np.full((3, 17, 17), grey) + tint
    for cells, amplitude in ((2, 0.13), (4, 0.08), (16, 0.03)):
        noise = rng.normal(0, 1, (1, cells + 1, cells + 1)) + 0.22 * rng.normal(
            0, 1, (3, cells + 1, cells + 1)
        )
        fine = torch.nn.functional.interpolate(
            torch.from_numpy(noise)[None], size=17, mode="bilinear", align_corners=True
        )[0].numpy()
        texture = texture + amplitude * rng.uniform(0.3, 1.3) * fine
    return np.clip(texture, 0.02, 0.98).astype(np.float32)
