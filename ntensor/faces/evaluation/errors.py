"""Errors of several methods on the same pictures, accumulated over batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ntensor.faces.networks.statistics import Statistics

from .measures import AngularError, RotationError, SquaredError, VarianceLeft
from .pictures import find_known

# Vectors whose remaining variance is reported, and their names in a report.
COEFFICIENTS = {"id_3dmm": "identity", "exp_3dmm": "expression"}
# Entries of `Errors.results`.
KINDS = ("squared_error", "angular_error", "pose_error", "variance_left")


class Errors:
    """Errors of colours, normals, rotations and coefficients, by method.

    Args:
        statistics (Statistics or None): statistics of the training coefficients; None:
            coefficients are not compared.
    """

    def __init__(self, statistics: Statistics | None = None) -> None:
        self.statistics = statistics
        self._colour: dict[str, SquaredError] = {}
        self._angle: dict[str, AngularError] = {}
        self._rotation: dict[str, RotationError] = {}
        self._left: dict[str, dict[str, VarianceLeft]] = {}

    def add(self, method: str, batch: Mapping[str, Tensor], estimate: Mapping[str, Tensor]) -> None:
        """Compares the entries that both the batch and the estimate have.

        Args:
            method (str)
            batch (mapping): of `Pictures`.
            estimate (mapping): any of `image` and `normal` (n, 3, S, S), `pose` (n, 3, 3), and
                standardised `id_3dmm` and `exp_3dmm`.
        """
        image = batch["image"]
        mask = batch.get("mask", torch.ones_like(image[:, :1]))
        if "image" in estimate:
            self._colour.setdefault(method, SquaredError()).add(estimate["image"], image, mask)
        if "normal" in estimate and "normal" in batch:
            angle = self._angle.setdefault(method, AngularError())
            angle.add(estimate["normal"], batch["normal"], mask)
        if "pose" in estimate:
            known = find_known(batch, "pose")
            if bool(known.any()):
                rotation = self._rotation.setdefault(method, RotationError())
                rotation.add(estimate["pose"][known], batch["pose"][known])
        for name, title in COEFFICIENTS.items():
            known = find_known(batch, name)
            if self.statistics is None or name not in estimate or not bool(known.any()):
                continue
            found, truth = estimate[name][known], batch[name][known]
            if found.shape != truth.shape:
                continue  # coefficients of another face model
            left = self._left.setdefault(method, {}).setdefault(title, VarianceLeft())
            left.add(found, self.statistics.standardise(name, truth))

    def results(self) -> dict[str, Any]:
        """`squared_error`, `angular_error`, `pose_error` and `variance_left`, each by method."""
        plain: dict[str, Any] = {
            "squared_error": self._colour,
            "angular_error": self._angle,
            "pose_error": self._rotation,
        }
        found: dict[str, Any] = {
            name: {method: error.result() for method, error in kind.items()}
            for name, kind in plain.items()
        }
        found["variance_left"] = {
            method: {title: left.result() for title, left in kinds.items()}
            for method, kinds in self._left.items()
        }
        return found
