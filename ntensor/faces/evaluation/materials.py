"""What the evaluations of several runs share: pictures, baselines and their measures."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from ntensor.faces.configuration import Configuration
from ntensor.faces.networks.statistics import Statistics
from ntensor.faces.training.runs import read_configuration
from ntensor.faces.training.samples import make_generated

from . import shapes
from .comparison import PIXELS, Comparison
from .errors import COEFFICIENTS
from .estimates import measure_references
from .pairs import Transfers
from .pictures import (
    Pictures,
    draw_table_2,
    draw_table_3,
    draw_training,
    draw_training_world,
)
from .references import Multilinear, References
from .settings import Evaluation
from .transfer import measure_baselines


class Materials:
    """Pictures of unseen identities, baselines fitted to training pictures, and their measures.

    Everything is computed on first use. It depends on the data and the image size of the
    configuration, not on its network.

    Args:
        configuration (Configuration): of the first run.
        settings (Evaluation)
    """

    def __init__(self, configuration: Configuration, settings: Evaluation) -> None:
        self.configuration, self.settings = configuration, settings

    @functools.cached_property
    def pictures(self) -> Pictures:
        """The pictures of table 2: all poses."""
        return draw_table_2(self.configuration, self.settings)

    @functools.cached_property
    def frontal(self) -> Pictures | None:
        """The pictures of table 3: frontal, many lights."""
        return draw_table_3(self.configuration, self.settings)

    @functools.cached_property
    def training(self) -> Pictures:
        """Pictures of training identities."""
        return draw_training(self.configuration, self.settings.fitted)

    @functools.cached_property
    def references(self) -> References:
        """Baselines fitted to generated training pictures."""
        return self._fit(self.training, self._statistics)

    @functools.cached_property
    def _statistics(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        c = self.configuration
        return make_generated(c.data, "train", c.model.image_size).statistics

    @functools.cached_property
    def multilinear(self) -> Multilinear:
        """The multilinear model of faces in all poses."""
        return Multilinear(self.training, self.settings.als)

    @functools.cached_property
    def frontal_multilinear(self) -> Multilinear:
        """The multilinear model of frontal faces."""
        pictures = draw_training(self.configuration, self.settings.fitted, "frontal")
        return Multilinear(pictures, self.settings.als)

    @functools.cached_property
    def training_references(self) -> References:
        """Baselines fitted to pictures like those that the run was trained on.

        Raises:
            ConfigurationError: the pictures or the face model no longer exist.
        """
        data = self.configuration.data
        if data.source == "generated" and data.variation != "wild":
            return self.references
        return self._fit(*draw_training_world(self.configuration, self.settings.fitted))

    def _fit(self, pictures: Pictures, values: Mapping[str, tuple[Tensor, Tensor]]) -> References:
        c = self.configuration.model
        statistics = Statistics({name: values[name][0].numel() for name in COEFFICIENTS})
        statistics.set(values)
        dimensions = max(9, c.k_exp, c.k_id, c.k_i)
        return References(pictures, dimensions, statistics)

    @functools.cached_property
    def transfers(self) -> Transfers:
        """Pairs of pictures with the ground truth of every edit."""
        return Transfers(self.configuration, self.settings.transfers)

    @functools.cached_property
    def measured(self) -> dict[str, Any]:
        """Entries of `run.evaluate` that do not depend on a network."""
        entries, pixels = measure_references(
            self.pictures, self.references, "baselines, all poses", self.multilinear
        )
        self._pixels = {"pictures": pixels}
        if self.frontal is not None:
            found, pixels = measure_references(
                self.frontal, self.references, "baselines, frontal", self.frontal_multilinear
            )
            entries["angular_error_frontal"] = found["angular_error"]
            self._pixels["frontal"] = pixels
            batch = self.frontal[slice(None)]
            codes = self.frontal_multilinear.codes(batch["image"], batch["mask"])
            named = {f"multilinear, {name}": z.numpy() for name, z in codes.items()}
            entries["table_3"] = self.compare("frontal").measure(named, "multilinear codes")
        entries["transfer"], self.shown = measure_baselines(self.transfers, self.multilinear)
        mean = self._statistics["shape"][0]
        entries["shape"] = shapes.measure_baseline_shapes(self.pictures, mean, self.settings.shapes)
        return entries

    def compare(self, which: str) -> Comparison:
        """The baselines for accuracies on `pictures` or `frontal`."""
        if which not in self._comparisons:
            pictures = self.pictures if which == "pictures" else self.frontal
            assert pictures is not None and self._pixels
            self._comparisons[which] = Comparison(
                pictures, self.settings, {PIXELS: self._pixels[which]}
            )
        return self._comparisons[which]

    @functools.cached_property
    def _comparisons(self) -> dict[str, Comparison]:
        return {}


class Shared:
    """Materials by data and image size, shared by runs on the same data."""

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
            *(data[name] for name in ("face_model", "vertices", "variation", "source")),
            configuration.model.image_size,
        )
        if key not in self._kept:
            self._kept[key] = Materials(configuration, self.settings)
        return self._kept[key]
