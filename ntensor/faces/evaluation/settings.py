"""Sizes of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Evaluation:
    """Settings.

    Attributes:
        identities: of the test split (54).
        lights: numbers of the fixed lights of table 2, 0 to 15.
        frontal_lights: those of table 3.
        fitted: training pictures for the baselines: mean image, mean face, principal components,
            multilinear model.
        als: extents of light, expression and identity in the multilinear model after [37]; their
            product is at most `fitted`.
        folds: of the classifiers.
        transfers: pairs of pictures for the transfers.
        shapes: pictures for the 3D reconstruction.
        embedded: pictures in the t-SNE plots; 0: no plots of them.
        batch_size, device
        checkpoint: `best` or `last`.
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
    checkpoint: str = "best"
