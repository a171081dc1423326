"""Estimates without a deep network, measured on pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ntensor.faces.datasets.records import get_input

from .errors import Errors
from .pictures import Pictures
from .references import Multilinear, References

_BATCH = 256
PERSONS_MEAN = "the persons' own mean"
CONSTANT = "constant"
LINEAR = "linear from pixels"
SHOWN = "the picture as it is shown"


def measure_references(
    pictures: Pictures, references: References, title: str, multilinear: Multilinear | None = None
) -> tuple[dict[str, Any], Any]:
    """Errors of the baselines that are fitted to training pictures.

    Args:
        pictures (Pictures)
        references (References)
        title (str): of the progress bar.
        multilinear (Multilinear or None): measured as well.

    Returns:
        dict, array[n, d]: as `Errors.results`; principal components of the pictures.
    """
    errors, pixels = Errors(references.statistics), []
    for batch in pictures.batches(_BATCH, title):
        shown = get_input(batch)
        projected = references.project(shown)
        pixels.append(projected.numpy())
        n = len(shown)
        mean = {
            "image": references.image.expand_as(shown),
            "normal": references.normal.expand_as(shown),
        }
        errors.add("mean face", batch, mean)
        errors.add(CONSTANT, batch, make_constant(n, shown.shape[-1]))
        errors.add(LINEAR, batch, references.estimate(projected))
        if multilinear is not None:
            normals = multilinear.normals(multilinear.codes(shown, batch["mask"]), shown.shape[-1])
            errors.add("multilinear", batch, {"normal": normals})
    results = errors.results()
    results["squared_error"] = {"mean image": results["squared_error"]["mean face"]}
    return results, np.concatenate(pixels)


def measure_without_training(pictures: Pictures) -> dict[str, Any]:
    """Errors of the baselines that need no training pictures.

    These are a normal and a pose that face the camera, the persons' own mean, and, for degraded
    inputs, the input itself.

    Returns:
        dict: as `Errors.results`.
    """
    errors = Errors()
    mean = PersonsMean(pictures)
    for batch in pictures.batches(_BATCH, "without training"):
        shown = get_input(batch)
        errors.add(CONSTANT, batch, make_constant(len(shown), shown.shape[-1]))
        if "input" in batch:
            errors.add(SHOWN, batch, {"image": shown})
        if mean.persons:
            known = batch["identity"] >= 0
            rows = {name: value[known] for name, value in batch.items()}
            if bool(known.any()):
                errors.add(PERSONS_MEAN, rows, {"normal": mean.leave_out(rows["identity"])})
    return errors.results()


def make_constant(count: int, size: int) -> dict[str, Tensor]:
    """Normals that all face the camera, and the frontal pose."""
    forward = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1)
    return {
        "normal": forward.expand(count, 3, size, size),
        "pose": torch.eye(3).expand(count, 3, 3),
    }


class PersonsMean:
    """For each person, the mean normals of all others.

    Args:
        pictures (Pictures)

    Attributes:
        persons (int): those with a label and normals; 0 if there are fewer than two.
    """

    def __init__(self, pictures: Pictures) -> None:
        self.persons = 0
        if "normal" not in pictures or "identity" not in pictures:
            return
        labels = pictures.packed["identity"]
        self._labels = labels[labels >= 0].unique()
        if len(self._labels) < 2:
            return
        self.persons = len(self._labels)
        size = pictures.packed["normal"].shape[-1]
        self._sums = torch.zeros(self.persons, 3, size, size)
        for batch in pictures.batches(_BATCH, "the persons' mean"):
            known = batch["identity"] >= 0
            places = torch.searchsorted(self._labels, batch["identity"][known])
            self._sums.index_add_(0, places, (batch["normal"] * batch["mask"])[known])
        self._total = self._sums.sum(0)

    def leave_out(self, identity: Tensor) -> Tensor:
        """For each person (n,), the mean normals (n, 3, S, S) of all others, not normalised."""
        places = torch.searchsorted(self._labels, identity)
        return self._total - self._sums[places]
