"""Errors of facial shapes in 3D."""

from __future__ import annotations

import torch
from torch import Tensor

from ntensor.faces import editing
from ntensor.faces.baselines import fit_landmarks
from ntensor.faces.baselines.landmark_fit import project
from ntensor.faces.datasets.records import get_input
from ntensor.faces.networks.model import Model

from .pictures import Pictures

Result = dict[str, float]


def summarise(errors: Tensor) -> Result:
    """`mean` and `std` over pictures."""
    deviation = float(errors.std()) if len(errors) > 1 else 0.0
    return {"mean": float(errors.mean()), "std": deviation}


def choose(pictures: Pictures, count: int) -> dict[str, Tensor]:
    """`count` pictures, spread evenly over all."""
    count = min(count, len(pictures))
    return pictures[torch.linspace(0, len(pictures) - 1, count).round().long()]


def measure_network_shapes(
    model: Model, pictures: Pictures, count: int, device: torch.device, batch_size: int
) -> dict[str, Result]:
    """Root mean square distance of vertices, in millimetres.

    For the shape stream, and for the face model with the predicted coefficients; either is left out
    if the network does not have it.
    """
    face, batch = pictures.face, choose(pictures, count)
    if face is None or not hasattr(model, "exp_3dmm"):
        return {}
    errors: dict[str, list[Tensor]] = {}
    for first in range(0, len(batch["image"]), batch_size):
        rows = slice(first, first + batch_size)
        output = editing.decode(model, editing.encode(model, get_input(batch)[rows].to(device)))
        vertices = face.vertices(batch["id_3dmm"][rows], batch["exp_3dmm"][rows])
        truth = vertices[:, face.shape_vertices]
        mapped = editing.build_vertices(model, output, face)[:, face.shape_vertices]
        predicted = {"predicted coefficients": mapped}
        if "shape" in output:
            predicted["shape stream"] = editing.restore_vertices(model, output).float().cpu()
        for name, shape in predicted.items():
            errors.setdefault(name, []).append(editing.measure_shape_error(shape, truth))
    return {name: summarise(torch.cat(parts)) for name, parts in errors.items()}


def measure_baseline_shapes(pictures: Pictures, mean: Tensor, count: int) -> dict[str, Result]:
    """Root mean square distance of vertices for the mean training shape and the landmark fit.

    Args:
        pictures (Pictures): with a face model.
        mean (Tensor[3 V_s])
        count (int)
    """
    face, batch = pictures.face, choose(pictures, count)
    if face is None:
        return {}
    identity, expression = batch["id_3dmm"], batch["exp_3dmm"]
    truth = face.vertices(identity, expression)[:, face.shape_vertices]
    landmarks = project(face, identity, expression, batch["pose"], None)
    fit = fit_landmarks(face, landmarks, scale=1.0)
    fitted = fit.vertices(face)[:, face.shape_vertices]
    usual = mean.view(1, -1, 3).expand_as(truth)
    return {
        "mean shape": summarise(editing.measure_shape_error(usual, truth)),
        "landmark fit": summarise(editing.measure_shape_error(fitted, truth)),
    }
