"""Shared by the evaluations of several runs: pictures, baselines and their measures."""

from __future__ import annotations

import functools
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ntensor.faces.configuration import Configuration
from ntensor.faces.training.runs import read_configuration
from ntensor.faces.training.samples import make_generated

from . import shapes
from .measures import AngularError, SquaredError
from .pictures import Pictures, draw_table_2, draw_table_3, draw_training
from .probes import measure_leakage
from .references import References
from .settings import Evaluation
from .transfer import Transfers, measure_baselines


class Materials:
    """Pictures of unseen identities, baselines fitted to training pictures, and their measures.

    Everything is computed on first use. It depends on the data and the image size of a
    configuration, not on its network.

    Args:
        configuration (Configuration): of the first run.
        settings (Evaluation)
    """

    def __init__(self, configuration: Configuration, settings: Evaluation) -> None:
        self.configuration, self.settings = configuration, settings

    @functools.cached_property
    def pictures(self) -> Pictures:
        """Of table 2: all poses."""
        return draw_table_2(self.configuration, self.settings)

    @functools.cached_property
    def frontal(self) -> Pictures | None:
        """Of table 3: frontal, many lights."""
        return draw_table_3(self.configuration, self.settings)

    @functools.cached_property
    def training(self) -> Pictures:
        """Of training identities."""
        return draw_training(self.configuration, self.settings.fitted)

    @functools.cached_property
    def references(self) -> References:
        """The baselines that are fitted."""
        c, count = self.configuration.model, self.settings.fitted
        frontal = None
        if self.frontal is not None:
            frontal = draw_training(self.configuration, count, "frontal")
        dimensions = max(9, c.k_exp, c.k_id, c.k_i)
        return References(self.training, frontal, self.settings, dimensions)

    @functools.cached_property
    def transfers(self) -> Transfers:
        """Pairs of pictures with the truth of every edit."""
        return Transfers(self.configuration, self.settings.transfers)

    @functools.cached_property
    def measured(self) -> dict[str, Any]:
        """Entries of `run.evaluate` that do not depend on a network."""
        references = self.references
        colour, angle, pixels = self._measure_without_network(self.pictures, frontal=False)
        entries: dict[str, Any] = {"squared_error": colour, "angular_error": angle}
        self._pixels = {"pictures": pixels}
        if self.frontal is not None and references.frontal is not None:
            _, entries["angular_error_frontal"], pixels = self._measure_without_network(
                self.frontal, True
            )
            self._pixels["frontal"] = pixels
            batch = self.frontal[slice(None)]
            codes = references.frontal.codes(batch["image"], batch["mask"])
            named = {f"multilinear, {name}": z.numpy() for name, z in codes.items()}
            entries["table_3"] = measure_leakage(
                named, to_arrays(self.frontal.factors()), self.settings.folds, "multilinear codes"
            )
        entries["transfer"], self.shown = measure_baselines(self.transfers, references.unaligned)
        mean = make_generated(
            self.configuration.data, "train", self.configuration.model.image_size
        ).statistics["shape"][0]
        entries["shape"] = shapes.measure_baseline_shapes(self.pictures, mean, self.settings.shapes)
        return entries

    def probe_pixels(self, which: str, k: int) -> dict[str, dict[str, Any]]:
        """Probes of the first `k` principal components of `pictures` or `frontal`, by factor."""
        assert self.measured
        key = (which, k)
        if key not in self._probes:
            pictures = self.pictures if which == "pictures" else self.frontal
            assert pictures is not None
            self._probes[key] = measure_leakage(
                {"": self._pixels[which][:, :k]}, to_arrays(pictures.factors()), self.settings.folds
            )[""]
        return self._probes[key]

    def probe_neighbours(self, which: str) -> dict[str, dict[str, Any]]:
        """Probes by the nearest picture, in as many principal components as there are."""
        assert self.measured
        key = (which, 0)
        if key not in self._probes:
            pictures = self.pictures if which == "pictures" else self.frontal
            assert pictures is not None
            self._probes[key] = measure_leakage(
                {"": self._pixels[which]},
                to_arrays(pictures.factors()),
                self.settings.folds,
                classifier="neighbour",
            )[""]
        return self._probes[key]

    @functools.cached_property
    def _probes(self) -> dict[tuple[str, int], dict[str, dict[str, Any]]]:
        return {}

    def _measure_without_network(
        self, pictures: Pictures, frontal: bool
    ) -> tuple[dict[str, Any], dict[str, Any], Any]:
        """Squared and angular errors of what needs no network, and principal components."""
        references = self.references
        multilinear = references.frontal if frontal else references.unaligned
        colour = SquaredError()
        names = ("mean face", "constant", "linear from pixels", "multilinear")
        angle = {name: AngularError() for name in names}
        pixels = []
        title = "baselines, frontal" if frontal else "baselines, all poses"
        for batch in pictures.batches(256, title):
            image, mask, normal = batch["image"], batch["mask"], batch["normal"]
            colour.add(references.image.expand_as(image), image, mask)
            projected = references.project(image)
            pixels.append(projected.numpy())
            assert multilinear is not None
            codes = multilinear.codes(image, mask)
            estimates: dict[str, Tensor] = {
                "mean face": references.normal.expand_as(normal),
                "constant": references.make_constant().expand_as(normal),
                "linear from pixels": references.regress_normals(projected),
                "multilinear": multilinear.normals(codes, image.shape[-1]),
            }
            for name, value in estimates.items():
                angle[name].add(value, normal, mask)
        return (
            {"mean image": colour.result()},
            {name: error.result() for name, error in angle.items()},
            np.concatenate(pixels),
        )


class Shared:
    """Materials by data and image size; runs on the same data share them."""

    def __init__(self, settings: Evaluation) -> None:
        self.settings = settings
        self._kept: dict[tuple[Any, ...], Materials] = {}

    def of_run(self, run: Path) -> Materials:
        """The materials for a run."""
        return self.of(read_configuration(run))

    def of(self, configuration: Configuration) -> Materials:
        """The materials for a run of this configuration."""
        data = asdict(configuration.data)
        key = (
            *(data[name] for name in ("face_model", "vertices", "variation")),
            configuration.model.image_size,
        )
        if key not in self._kept:
            self._kept[key] = Materials(configuration, self.settings)
        return self._kept[key]


def to_arrays(labels: dict[str, Tensor]) -> dict[str, Any]:
    """Tensors as arrays."""
    return {name: value.numpy() for name, value in labels.items()}
