"""Settings of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ntensor.faces.common.errors import ConfigurationError
from ntensor.faces.configuration.entries import Count, Device, Positive, Within
from ntensor.faces.datasets.scenes import FIXED_LIGHTS
from ntensor.faces.media.inputs import Cropping

Lights = Annotated[tuple[int, ...], Within(0, FIXED_LIGHTS - 1)]


@dataclass(frozen=True)
class Evaluation(Cropping):
    """Settings.

    Attributes:
        identities: number of test identities, 2 to 54.
        lights: indices of the fixed lights of table 2, 0 to 15.
        frontal_lights: indices of the fixed lights of table 3.
        fitted: number of training pictures for the baselines: mean image, mean face, principal
            components, multilinear model.
        als: extents of light, expression and identity in the multilinear model after [37]; their
            product is at most `fitted`.
        folds: cross-validation folds of the classifiers.
        transfers: number of pairs for the transfers.
        shapes: number of pictures for the 3D reconstruction.
        embedded: number of pictures in the t-SNE plots; 0: no plots.
        batch_size: pictures per forward pass.
        device: auto, cpu or cuda.
        checkpoint: which checkpoint of each run is read.
    """

    identities: Annotated[int, Within(2)] = 54
    lights: Lights = (0, 15)
    frontal_lights: Lights = tuple(range(16))
    fitted: Annotated[int, Within(2)] = 1500
    als: Annotated[tuple[int, int, int], Within(1)] = (6, 6, 12)
    folds: Annotated[int, Within(2)] = 10
    transfers: Positive = 240
    shapes: Positive = 400
    embedded: Count = 800
    batch_size: Positive = 64
    device: Device = "auto"
    checkpoint: Literal["best", "last"] = "best"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("lights", "frontal_lights"):
            if not getattr(self, name):
                raise ConfigurationError(
                    f"{name} must list lights from 0 to {FIXED_LIGHTS - 1}, got none"
                )
