"""Sizes of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ntensor.faces.datasets.scenes import FIXED_LIGHTS
from ntensor.faces.errors import ConfigurationError


@dataclass(frozen=True)
class Evaluation:
    """Settings.

    Attributes:
        identities: of the test split, 2 to 54.
        lights: numbers of the fixed lights of table 2, 0 to 15.
        frontal_lights: those of table 3.
        fitted: training pictures for the baselines: mean image, mean face, principal components,
            multilinear model.
        als: extents of light, expression and identity in the multilinear model after [37]; their
            product is at most `fitted`.
        folds: of the classifiers.
        transfers: pairs of pictures for the transfers.
        shapes: pictures for the 3D reconstruction.
        embedded: pictures in the t-SNE plots; 0: none are made.
        batch_size: pictures that the network takes at once.
        device: auto, cpu or cuda.
        checkpoint: of the runs.
    """

    identities: int = 54
    lights: tuple[int, ...] = (0, 15)
    frontal_lights: tuple[int, ...] = tuple(range(16))
    fitted: int = 1500
    als: tuple[int, int, int] = (6, 6, 12)
    folds: int = 10
    transfers: int = 240
    shapes: int = 400
    embedded: int = 800
    batch_size: int = 64
    device: str = "auto"
    checkpoint: Literal["best", "last"] = "best"

    def __post_init__(self) -> None:
        least = {"identities": 2, "fitted": 2, "folds": 2, "transfers": 1, "shapes": 1}
        least |= {"embedded": 0, "batch_size": 1}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise ConfigurationError(
                    f"{name} must be at least {smallest}, got {getattr(self, name)}"
                )
        for name in ("lights", "frontal_lights"):
            chosen = getattr(self, name)
            if not chosen or not set(chosen) <= set(range(FIXED_LIGHTS)):
                raise ConfigurationError(
                    f"{name} must be of 0 to {FIXED_LIGHTS - 1}, got {chosen or 'none'}"
                )
