"""Measures runs on a user's own pictures: photographs and stored data sets."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ntensor.faces.common.errors import ConfigurationError
from ntensor.faces.configuration import Configuration
from ntensor.faces.datasets.records import get_input
from ntensor.faces.datasets.storage import Meta, read_meta
from ntensor.faces.media.inputs import Inputs
from ntensor.faces.morphable.face_model import FaceModel
from ntensor.faces.morphable.face_models import find_face_model
from ntensor.faces.networks.model import Model

from . import shapes
from .comparison import OWN_PIXELS, PIXELS, Comparison
from .errors import COEFFICIENTS
from .estimates import measure_references, measure_without_training
from .look import look
from .materials import Materials
from .pairs import find_pairs
from .photographs import read_photographs
from .pictures import Pictures, read_stored
from .references import References, fit_components
from .run import merge_errors
from .settings import Evaluation
from .transfer import measure_pairs

# The column of a set drawn by another generator than training's, and the split of such a set.
OTHER, OTHER_SPLIT = "another world", "other-world"
_SHEET = 6


class OwnPictures:
    """A user's pictures, and the baselines on them, computed on first use.

    Args:
        name (str): of their column and files.
        pictures (Pictures)
        materials (Materials): of the runs that are measured on the pictures.

    Attributes:
        left_out (str): why the baselines fitted to training pictures are missing; empty if they
            are not.
    """

    def __init__(self, name: str, pictures: Pictures, materials: Materials) -> None:
        self.name, self.pictures, self.materials = name, pictures, materials
        self.settings: Evaluation = materials.settings
        self.left_out = ""

    @functools.cached_property
    def references(self) -> References | None:
        """Baselines fitted to the runs' training world; None if it cannot be read."""
        try:
            return self.materials.training_references
        except ConfigurationError as error:
            self.left_out = str(error)
            return None

    @functools.cached_property
    def face(self) -> FaceModel | None:
        """The face model whose coefficients the runs learnt; None if it cannot be read."""
        try:
            return find_face_model(self.materials.configuration.data)
        except ConfigurationError:
            return None

    @functools.cached_property
    def measured(self) -> dict[str, Any]:
        """Errors of the baselines; as `Errors.results`."""
        rest = measure_without_training(self.pictures)
        if self.references is None:
            return rest
        found, self._pixels = measure_references(self.pictures, self.references, "baselines")
        return merge_errors(found, rest)

    @functools.cached_property
    def comparison(self) -> Comparison:
        """The baselines for accuracies."""
        pixels: dict[str, Any] = {}
        if self.pictures.factors():
            if self.references is not None and self.measured:
                pixels[PIXELS] = self._pixels
            batches = self.pictures.batches(256, "components of pixels")
            images = torch.cat([get_input(batch) for batch in batches])
            c = self.materials.configuration.model
            _, own = fit_components(images, max(9, c.k_id, c.k_exp, c.k_i))
            pixels[OWN_PIXELS] = own.numpy()
        return Comparison(self.pictures, self.settings, pixels)


def read_own_pictures(
    materials: Materials,
    images: Path | None,
    labels: Path | None,
    data: list[Path],
    inputs: Inputs | None = None,
) -> list[OwnPictures]:
    """Reads a user's pictures, photographs first.

    Args:
        materials (Materials): of the runs.
        images (Path or None), labels (Path or None): see `read_photographs`.
        data (list of Path): data sets.
        inputs (Inputs or None): crops photographs; see `read_photographs`.

    Raises:
        FacesError: something cannot be read, or does not have the network's image size.
    """
    model, settings = materials.configuration.model, materials.settings
    found: list[tuple[str, Path, Pictures]] = []
    if images is not None:
        pictures, _ = read_photographs(images, labels, model.image_size, inputs)
        found.append(("photographs", images.resolve(), pictures))
    for folder in data:
        meta = read_meta(folder)
        pictures = read_stored(str(folder), settings.batch_size, model.image_size)
        extents = (model.id_3dmm, model.exp_3dmm, model.k_3d)
        if (meta.id_3dmm, meta.exp_3dmm, 3 * meta.vertices) != extents:
            for name in COEFFICIENTS:  # of another face model
                pictures.packed.pop(name, None)
        found.append((name_set(folder, meta), folder.resolve(), pictures))
    titles = [name for name, _, _ in found]
    folders = [folder.name for _, folder, _ in found]
    return [
        OwnPictures(
            name
            if titles.count(name) == 1
            else f"{name} ({folder.name if folders.count(folder.name) == 1 else folder})",
            pictures,
            materials,
        )
        for name, folder, pictures in found
    ]


def name_set(folder: Path, meta: Meta) -> str:
    """The name of a data set's column."""
    name = folder.resolve().name
    other = meta.split == OTHER_SPLIT or "other" in (name, meta.extra.get("world"))
    return OTHER if other else name


def evaluate_own_pictures(
    model: Model,
    configuration: Configuration,
    run: tuple[Path, int],
    own: OwnPictures,
    device: torch.device,
) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """Measures a network on a user's pictures.

    Args:
        model (Model): on the device.
        configuration (Configuration)
        run (tuple): the run's folder and update.
        own (OwnPictures)
        device: where the network runs.

    Returns:
        dict, dict: as `run.evaluate`, where the ground truth is known; the columns of picture
        sheets by sheet and title.
    """
    pictures, settings = own.pictures, own.settings
    errors, kept = look(model, pictures, device, settings.batch_size, shown=_SHEET)
    pairs = find_pairs(pictures, settings.transfers, own.face)
    transfer, edits = measure_pairs(model, pairs, device, settings.batch_size)
    result = {
        "run": str(run[0]),
        "step": run[1],
        "network": configuration.model.network,
        "rotation": configuration.model.rotation,
        "samples": len(pictures),
        "pictures": pictures.source,
        "name": own.name,
        "configuration": asdict(configuration),
        **merge_errors(errors, own.measured),
        "accuracy": own.comparison.probe(kept.codes, configuration.model, device, "probes"),
        "transfer": transfer,
        "references": "" if own.references is None else own.references.source,
        "left_out": own.left_out,
        "degraded": "input" in pictures,
    }
    return result, {"": _make_columns(pictures, kept.images, kept.normals), **edits}


def _make_columns(
    pictures: Pictures, images: Tensor | None, normals: Tensor | None
) -> dict[str, Tensor]:
    batch: Mapping[str, Tensor] = shapes.choose(pictures, _SHEET)
    columns = {"input": get_input(batch)}
    if "input" in batch:
        columns["target"] = batch["image"]
    if images is not None:
        columns["reconstr."] = images
    if normals is not None:
        columns["normals"] = (normals + 1) / 2
        if "normal" in batch:
            columns["true norm."] = (batch["normal"] + 1) / 2
    return columns
