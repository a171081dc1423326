"""Baselines for the accuracies of a network's codes, on the same pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from ntensor.faces.configuration import ModelConfiguration
from ntensor.faces.networks.model import Model, build

from .look import encode_pictures
from .pictures import Pictures
from .probes import measure_leakage
from .settings import Evaluation

# The feature that the codes are linear functions of. It is not a code, and has no size to match.
_FEATURE = "z_i"
UNTRAINED = "untrained"
# Principal components of training pictures, and of the measured pictures themselves.
PIXELS, OWN_PIXELS = "pixels", "pixels of the set"
NEAREST = "pixels, nearest picture"

Table = dict[str, dict[str, dict[str, Any]]]


def build_untrained(configuration: ModelConfiguration) -> Model:
    """A network of this configuration with random weights, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(configuration).eval()


class Comparison:
    """Accuracies on some pictures that do not depend on a trained network.

    Everything is computed on first use; several runs share it.

    Args:
        pictures (Pictures)
        settings (Evaluation)
        pixels (dict of array[n, d]): principal components of the pictures by name, the largest
            first.
    """

    def __init__(self, pictures: Pictures, settings: Evaluation, pixels: Mapping[str, Any]) -> None:
        self.pictures, self.settings, self.pixels = pictures, settings, dict(pixels)
        self._kept: dict[str, Table] = {}

    def measure(self, codes: Mapping[str, Any], title: str | None = None, **options: Any) -> Table:
        """Every code against every factor of the pictures."""
        factors = _to_arrays(self.pictures.factors())
        groups = _to_arrays(self.pictures.groups())
        return measure_leakage(codes, factors, self.settings.folds, title, groups, **options)

    def probe(
        self,
        codes: Mapping[str, Any],
        configuration: ModelConfiguration,
        device: torch.device,
        title: str,
    ) -> Table:
        """Every code against every factor, with baselines.

        The baselines are as many principal components as each code has entries, the nearest
        picture by all components, and the codes of an untrained encoder of the same shape.

        Args:
            codes (mapping): array (n, k) by name.
            configuration (ModelConfiguration): of the network.
            device: where the untrained network runs.
            title (str): of the progress bar.
        """
        if not self.pictures.factors():
            return {}
        table = self.measure(codes, title)
        names = [name for name in codes if name != _FEATURE]
        sizes = sorted({codes[name].shape[1] for name in names})
        for name, components in self.pixels.items():
            for k in sizes:
                row = f"{name}, {k} components"
                table |= self._keep(row, lambda c=components, k=k, row=row: {row: c[:, :k]})
        for components in list(self.pixels.values())[:1]:
            table |= self._keep(NEAREST, lambda c=components: {NEAREST: c}, classifier="neighbour")
        untrained = self._keep(
            json.dumps(asdict(configuration)),
            lambda: self._encode_untrained(configuration, device, names),
            title="probes, untrained",
        )
        return table | untrained

    def _keep(self, key: str, make: Any, **options: Any) -> Table:
        if key not in self._kept:
            self._kept[key] = self.measure(make(), **options)
        return self._kept[key]

    def _encode_untrained(
        self, configuration: ModelConfiguration, device: torch.device, names: Sequence[str]
    ) -> dict[str, Any]:
        model = build_untrained(configuration).to(device)
        codes = encode_pictures(
            model, self.pictures, device, self.settings.batch_size, "untrained encoder"
        )
        return {name_untrained(name): codes[name] for name in names if name in codes}


def name_untrained(code: str) -> str:
    """The row of a code of an untrained encoder."""
    return f"{UNTRAINED} {code}"


def _to_arrays(labels: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name: value.numpy() for name, value in labels.items()}
