"""Packs a trained run: collects what accompanies its network, and measures the change."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ntensor.faces.common.errors import ConfigurationError
from ntensor.faces.configuration import Configuration, DataConfiguration, to_json
from ntensor.faces.datasets.records import get_input
from ntensor.faces.media.inputs import Inputs
from ntensor.faces.media.meshes import restrict_to_shape
from ntensor.faces.morphable.analytic_face import make_analytic_face
from ntensor.faces.morphable.face_model import FaceModel
from ntensor.faces.training import packed
from ntensor.faces.training.packed import Trained
from ntensor.faces.training.runs import open_run
from ntensor.faces.training.samples import Samples, open_sources

from . import measures
from .compression import compress

Batch = dict[str, Tensor]
# Limit on the bytes of names and shapes.
_HEADER = 30_000
_BATCH = 32


@dataclass(frozen=True)
class Travelling:
    """What accompanies a packed network.

    Attributes:
        faces: a description of the face model that it was trained with.
        configuration: of the run, without paths; faces are generated with the built-in face.
        surface: of the network's shape; None: that of the built-in face, or none.
    """

    faces: str
    configuration: Configuration
    surface: FaceModel | None


def collect_travelling(trained: Trained) -> Travelling:
    """Collects what accompanies the network of a run.

    A face model that is not built in is not included, except for its mean shape, which the network
    has learnt, its triangles and its landmarks.

    Raises:
        FacesError: the run's face model is missing, or is a different one.
    """
    configuration, surface = trained.configuration, trained.surface
    face = Inputs(configuration).face_model if surface is None else surface
    vertices = len(face.mean) if is_analytic(face) else 0
    if surface is None and not vertices and "shape" in trained.model.statistics.sizes:
        surface = restrict_to_shape(face)
        if 3 * len(surface.mean) != trained.configuration.model.k_3d:
            raise ConfigurationError(
                f"the network's shape has {configuration.model.k_3d} coordinates, that of the "
                f"{face.source} has {3 * len(surface.mean)}"
            )
    data = dataclasses.replace(
        configuration.data,
        source="generated",
        validation_source=None,
        face_model=None,
        vertices=vertices,
    )
    training = dataclasses.replace(configuration.training, verification_weights=None)
    kept = dataclasses.replace(configuration, data=data, training=training)
    return Travelling(face.source, kept, surface)


def is_analytic(face: FaceModel) -> bool:
    """Whether a face model is the built-in one."""
    if not face.source.startswith("analytic face"):
        return False
    return torch.allclose(make_analytic_face(len(face.mean)).mean, face.mean, atol=1e-3)


def read_batches(data: DataConfiguration, size: int, count: int) -> tuple[list[Batch], list[Batch]]:
    """The first `count` faces of training and of validation, or all if there are fewer."""

    def read(samples: Samples) -> list[Batch]:
        most = min(count, samples.size or count)
        return [
            samples[list(range(first, min(most, first + _BATCH)))]
            for first in range(0, most, _BATCH)
        ]

    training, validation = open_sources(data, size)
    return read(training), read(validation)


def pack_run(
    trained: Trained, data: DataConfiguration, out: Path, most: int, dtype: torch.dtype, count: int
) -> dict[str, Any]:
    """Packs a run into one file and measures the change.

    Args:
        trained (Trained)
        data (DataConfiguration): the faces for compression and measurement.
        out (Path): the file.
        most (int): size limit, bytes.
        dtype (torch.dtype): of the half precision.
        count (int): number of faces for each.

    Returns:
        dict: `bytes`, `ranks` of the factored layers, `pictures`, and `change` and `errors` of
        `measures`.

    Raises:
        FacesError: the network does not fit, or the faces cannot be read.
    """
    travelling = collect_travelling(trained)
    size = trained.configuration.model.image_size
    known, unseen = read_batches(data, size, count)
    pictures, inputs = (
        torch.cat([get_input(batch) for batch in batches]) for batches in (known, unseen)
    )
    beside = sum(4 * t.numel() for t in packed.list_surface(travelling.surface).values())
    room = most - _HEADER - 2 * len(to_json(travelling.configuration)) - beside
    tensors = compress(trained.model, pictures, room, dtype)
    packed.write_packed(
        out,
        tensors,
        travelling.configuration,
        trained.step,
        travelling.faces,
        travelling.surface,
    )
    small = open_run(out).model
    names = [name for name in tensors if name.endswith(packed.BASIS)]
    return {
        "bytes": out.stat().st_size,
        "ranks": {name.removesuffix(packed.BASIS): tensors[name].shape[1] for name in names},
        "pictures": len(inputs),
        "change": measures.measure_change(trained.model, small, inputs),
        "errors": {
            "whole": measures.measure_errors(trained.model, unseen),
            "packed": measures.measure_errors(small, unseen),
        },
    }


def format_figures(figures: dict[str, Any]) -> str:
    """Formats the figures of a packed network as text."""
    ranks = ", ".join(f"{name} {rank}" for name, rank in figures["ranks"].items()) or "none"
    title = f"change, {figures['pictures']} pictures"
    lines = [f"directions kept of the layers that are factored: {ranks}", ""]
    lines.append(f"{title:28}{'mean':>10}{'largest':>10}")
    for name, change in figures["change"].items():
        lines.append(f"{name:28}{change['mean']:>10.5f}{change['largest']:>10.5f}")
    lines += ["", f"{'error':28}{'whole':>10}{'packed':>10}"]
    for name, error in figures["errors"]["whole"].items():
        lines.append(f"{name:28}{error:>10.5f}{figures['errors']['packed'][name]:>10.5f}")
    return "\n".join(lines)
