"""Errors of pictures, normals, rotations and coefficients, accumulated over batches."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

THRESHOLDS = (20, 25, 30, 35, 40)


def angular_degrees(normals: Tensor, target: Tensor) -> Tensor:
    """Angle between normals, per pixel.

    Args:
        normals (Tensor[n, 3, S, S]): of any length; a zero normal gives an angle of 90.
        target (Tensor[n, 3, S, S]): of unit length.

    Returns:
        Tensor[n, S, S]: degrees, 0 to 180.

    Example:
        >>> import torch
        >>> from ntensor.faces.evaluation.measures import angular_degrees
        >>> z, x = torch.eye(3)[2].view(1, 3, 1, 1), torch.eye(3)[0].view(1, 3, 1, 1)
        >>> round(angular_degrees(z + x, z).item(), 3)
        45.0
    """
    cosine = (F.normalize(normals, dim=1) * target).sum(1)
    return torch.rad2deg(cosine.clamp(-1, 1).acos())


@dataclass
class AngularError:
    """Angular error of normals over the face: mean, spread over images, shares below thresholds."""

    images: list[float] = field(default_factory=list)
    below: dict[int, float] = field(default_factory=lambda: dict.fromkeys(THRESHOLDS, 0.0))
    pixels: float = 0.0

    def add(self, normals: Tensor, target: Tensor, mask: Tensor) -> None:
        """Adds a batch; only pixels count where the mask (n, 1, S, S) is above 0.5."""
        degrees = angular_degrees(normals, target)
        inside = mask[:, 0] > 0.5
        self.pixels += float(inside.sum())
        for threshold in THRESHOLDS:
            self.below[threshold] += float(((degrees < threshold) & inside).sum())
        counts = inside.sum((1, 2)).clamp_min(1)
        self.images += ((degrees * inside).sum((1, 2)) / counts).tolist()

    def result(self) -> dict[str, float]:
        """`mean` and `std` over images in degrees, `below_T` as shares of all pixels."""
        n = len(self.images)
        mean = sum(self.images) / n
        std = math.sqrt(sum((x - mean) ** 2 for x in self.images) / max(1, n - 1))
        shares = {f"below_{t}": count / max(1, self.pixels) for t, count in self.below.items()}
        return {"mean": mean, "std": std, **shares}


@dataclass
class SquaredError:
    """Mean squared error of colours, of the whole image and inside the mask."""

    total: float = 0.0
    values: float = 0.0
    face_total: float = 0.0
    face_values: float = 0.0

    def add(self, image: Tensor, target: Tensor, mask: Tensor) -> None:
        """Adds a batch (n, 3, S, S) with its mask (n, 1, S, S)."""
        error = (image.clamp(0, 1) - target).square()
        self.total += float(error.sum())
        self.values += error.numel()
        self.face_total += float((error * mask).sum())
        self.face_values += 3 * float(mask.sum())

    def result(self) -> dict[str, float]:
        """`image` and `face`."""
        return {
            "image": self.total / max(1.0, self.values),
            "face": self.face_total / max(1.0, self.face_values),
        }


def rotation_degrees(found: Tensor, target: Tensor) -> Tensor:
    """Angle between rotations (n, 3, 3), per sample, 0 to 180 degrees."""
    trace = (found * target).sum((1, 2))
    return torch.rad2deg(((trace - 1) / 2).clamp(-1, 1).acos())


@dataclass
class RotationError:
    """Angle between rotations: mean and spread over pictures."""

    angles: list[float] = field(default_factory=list)

    def add(self, found: Tensor, target: Tensor) -> None:
        """Adds rotations (n, 3, 3)."""
        self.angles += rotation_degrees(found, target).tolist()

    def result(self) -> dict[str, float]:
        """`mean` and `std`, degrees."""
        values = torch.tensor(self.angles, dtype=torch.double)
        deviation = float(values.std()) if len(values) > 1 else 0.0
        return {"mean": float(values.mean()), "std": deviation}


@dataclass
class VarianceLeft:
    """The share of the variance of standardised coefficients that an estimate does not explain.

    Coefficients are standardised by the mean and deviation of training: the training mean gives 1,
    a perfect estimate 0.
    """

    rest: float = 0.0
    total: float = 0.0

    def add(self, found: Tensor, target: Tensor) -> None:
        """Adds standardised coefficients (n, k)."""
        self.rest += float((found - target).double().square().sum())
        self.total += float(target.double().square().sum())

    def result(self) -> float:
        return self.rest / self.total if self.total else 1.0
