"""A face's colours, drawn from the identity's seed: skin, lips, brows, hair, beard, eyes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ntensor.faces.morphable.face_model import MATERIALS, FaceModel

# Skin tones from light to dark, and colours of hair and irises, as red, green, blue in 0..1.
_TONES = np.array(
    [
        (0.90, 0.74, 0.66),
        (0.84, 0.66, 0.55),
        (0.73, 0.54, 0.42),
        (0.56, 0.39, 0.29),
        (0.38, 0.26, 0.20),
    ]
)
_HAIR = np.array(
    [
        (0.08, 0.065, 0.06),
        (0.19, 0.13, 0.095),
        (0.33, 0.24, 0.17),
        (0.54, 0.44, 0.30),
        (0.38, 0.22, 0.14),
        (0.52, 0.51, 0.50),
    ]
)
_IRIS = np.array([(0.24, 0.145, 0.085), (0.37, 0.27, 0.13), (0.33, 0.47, 0.60), (0.34, 0.44, 0.30)])
_TEETH = (0.80, 0.76, 0.69)
_MOUTH = (0.26, 0.09, 0.085)
_SCLERA = (0.76, 0.74, 0.72)
_PUPIL = (0.03, 0.03, 0.035)
_IRIS_DEGREES = 23.0
_WAVES = 6


@dataclasses.dataclass(frozen=True)
class Skin:
    """Colours of `n` faces as red, green, blue in 0..1.

    Attributes:
        skin, lips, hair, brows, iris (Tensor[n, 3])
        beard, blush, brow_strength (Tensor[n, 1]): blending weights in 0..1.
        pupil (Tensor[n, 1]): half angle of the pupil from the eyeball's centre, degrees.
        waves (Tensor[n, 6, 5]): mottling: frequency (3) in radians per millimetre, phase,
            amplitude.
    """

    skin: Tensor
    lips: Tensor
    hair: Tensor
    brows: Tensor
    iris: Tensor
    beard: Tensor
    blush: Tensor
    brow_strength: Tensor
    pupil: Tensor
    waves: Tensor

    def __getitem__(self, index: Any) -> Skin:
        """Some of the faces."""
        return Skin(*(getattr(self, field.name)[index] for field in dataclasses.fields(self)))

    def to(self, device: torch.device | str) -> Skin:
        """The same with its tensors on `device`."""
        return Skin(*(getattr(self, field.name).to(device) for field in dataclasses.fields(self)))


def draw_skin(seeds: Sequence[int]) -> Skin:
    """Draws the colours of identities; the same seed gives the same colours.

    Args:
        seeds (sequence of int): one per face, not negative.

    Returns:
        Skin

    Example:
        >>> from ntensor.faces.rendering.skin import draw_skin
        >>> draw_skin([3, 4]).skin.shape
        torch.Size([2, 3])
    """
    drawn = [_draw_one(np.random.default_rng([seed, 0x5C1])) for seed in seeds]
    columns = [
        torch.from_numpy(np.stack(column).astype(np.float32)) for column in zip(*drawn, strict=True)
    ]
    return Skin(*columns)


def _mix(table: Any, position: float) -> Any:
    index = np.arange(len(table))
    return np.array([np.interp(position, index, table[:, c]) for c in range(3)])


def _draw_one(rng: np.random.Generator) -> list[Any]:
    darkness = 4 * rng.beta(1.1, 1.5)
    skin = _mix(_TONES, darkness) * rng.normal(1, 0.025, 3) * rng.normal(1, 0.03)
    redness = rng.uniform(0.1, 0.5)
    lips = skin * (0.93, 0.60, 0.62) * (1 - 0.15 * redness) + 0.10 * redness * np.array(
        [1, 0.1, 0.2]
    )
    fair = darkness < 1.6
    hair = _HAIR[
        rng.choice(
            6, p=[0.2, 0.28, 0.2, 0.14, 0.08, 0.1] if fair else [0.6, 0.28, 0.04, 0, 0, 0.08]
        )
    ]
    hair = hair * rng.normal(1, 0.08)
    brows = 0.75 * hair + 0.25 * skin * 0.45
    iris = _IRIS[rng.choice(4, p=[0.3, 0.22, 0.28, 0.2] if fair else [0.85, 0.13, 0.01, 0.01])]
    beard = rng.uniform(0.25, 0.75) if rng.random() < 0.28 else rng.uniform(0, 0.06)
    frequency = rng.normal(0, 1, (_WAVES, 3))
    length = np.geomspace(110, 18, _WAVES)[:, None]  # millimetres
    frequency *= 2 * np.pi / length / np.linalg.norm(frequency, axis=1, keepdims=True)
    amplitude = rng.uniform(0.3, 1, (_WAVES, 1)) * 0.026 * (length / 110) ** 0.8
    waves = np.concatenate([frequency, rng.uniform(0, 2 * np.pi, (_WAVES, 1)), amplitude], 1)
    clipped = [
        np.clip(colour, 0.02, 0.98)
        for colour in (skin, lips, hair, brows, iris * rng.normal(1, 0.1))
    ]
    strengths = [beard, rng.uniform(0.1, 0.55), rng.uniform(0.6, 0.95), rng.uniform(6, 9)]
    return [*clipped, *(np.array([s]) for s in strengths), waves]


def vertex_albedo(face: FaceModel, skin: Skin) -> Tensor:
    """Albedo of every vertex; for the eyeballs see `eye_albedo`.

    Args:
        face (FaceModel): provides the mean positions and the material weights.
        skin (Skin): `n` faces.

    Returns:
        Tensor[n, V, 3]: in 0..1, darkened by ambient occlusion; each column is contiguous.
    """
    weight = dict(zip(MATERIALS, face.materials.t().contiguous(), strict=True))  # (V) each
    points = face.mean.t().contiguous()
    frequency, phase, amplitude = skin.waves.split([3, 1, 1], dim=2)
    # By components: the rounding of a matrix product depends on the number of threads.
    x, y, z = frequency.split(1, dim=2)
    wave = (x * points[0]).add_(phase).add_(y * points[1]).add_(z * points[2])  # (n, 6, V)
    mottle = wave.cos_().mul_(amplitude).sum(1, keepdim=True)
    colour = skin.skin[:, :, None] * mottle.add_(1)  # (n, 3, V)

    def blend(paint: Tensor, share: Tensor) -> None:
        colour.add_((paint - colour).mul_(share))

    reddening = colour.new_tensor([1.04, 0.78, 0.78])[:, None]
    blend(colour * reddening, weight["blush"] * skin.blush[:, :, None])
    beard = 0.45 * colour + 0.55 * skin.hair[:, :, None]
    blend(beard, weight["beard"] * skin.beard[:, :, None])
    blend(skin.lips[:, :, None], 0.85 * weight["lips"])
    blend(0.6 * skin.brows[:, :, None], 0.75 * weight["lash"])
    blend(skin.brows[:, :, None], weight["brows"] * skin.brow_strength[:, :, None])
    blend(skin.hair[:, :, None], 0.93 * weight["scalp"])
    blend(colour.new_tensor(_MOUTH)[:, None], weight["mouth"])
    blend(colour.new_tensor(_TEETH)[:, None], weight["teeth"])
    return colour.mul_(weight["open_sky"]).clamp_(0.01, 1).mT


def eye_albedo(skin: Skin, direction: Tensor, open_sky: Tensor) -> Tensor:
    """Albedo of points on eyeballs, by their angle to the gaze: pupil, iris with dark rim, sclera.

    Args:
        skin (Skin): one row per point.
        direction (Tensor[k, 3]): from the ball's centre, in axes where +z is the gaze; any length.
        open_sky (Tensor[k, 1]): ambient occlusion, 0 (dark) to 1.

    Returns:
        Tensor[k, 3]
    """
    z = direction[:, 2:] / direction.norm(dim=1, keepdim=True).clamp_min(1e-9)
    degrees = torch.rad2deg(torch.arccos(z.clamp(-1, 1)))

    def inside(limit: Any, softness: float = 1.2) -> Tensor:
        return torch.sigmoid((limit - degrees) / softness * 2)

    radius = (degrees / _IRIS_DEGREES).clamp(0, 1)
    iris = skin.iris * (1.25 - 0.5 * radius**3)
    white = direction.new_tensor([_SCLERA]) * (1 - 0.1 * ((degrees - 40) / 40).clamp(0, 1))
    colour = white.lerp(iris, inside(_IRIS_DEGREES).expand_as(white))
    colour = colour.lerp(
        direction.new_tensor([_PUPIL]).expand_as(colour), inside(skin.pupil).expand_as(colour)
    )
    return (colour * open_sky).clamp(0.01, 1)
