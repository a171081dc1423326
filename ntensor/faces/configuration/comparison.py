"""A configuration beside the data that it is for, and beside that of a run that stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from ntensor.faces.common.errors import ConfigurationError

from .settings import Configuration


def fit_to_data(configuration: Configuration, sizes: Mapping[str, int]) -> Configuration:
    """The configuration with the data's extents in place of each 0.

    Args:
        configuration (Configuration)
        sizes (mapping): of the data, by name: `k_3d`, `exp_3dmm`, `id_3dmm`, `image_size`.

    Raises:
        ConfigurationError: an extent that the network uses and that is neither 0 nor the data's.
    """
    wrong = find_misfits(configuration, sizes)
    if wrong:
        raise ConfigurationError("; ".join(wrong))
    return replace(configuration, model=replace(configuration.model, **dict[str, Any](sizes)))


def find_misfits(configuration: Configuration, sizes: Mapping[str, int]) -> list[str]:
    """What keeps `configuration` from data of these sizes, a sentence each; see `fit_to_data`."""
    wanted = asdict(configuration.model)
    used = ("image_size", *configuration.model.targets.values())
    sentences = []
    for name, size in sizes.items():
        if name in used and wanted[name] not in (0, size):
            cure = f"--model.{name.replace('_', '-')} 0 takes the data's"
            if name == "image_size":
                cure = "both must be the same"
            elif name == "k_3d" and configuration.data.source == "generated":
                cure += f", --data.vertices {wanted[name] // 3} gives the analytic face as many"
            sentences.append(f"model.{name} is {wanted[name]}, the data has {size} ({cure})")
    return sentences


# Entries that do not decide what a run learns, but how that is computed, told and kept.
FREE = frozenset(
    {
        *("model.accumulate_core_grad", "data.workers", "data.device", "data.skip_damaged"),
        *("training.compile", "training.backend", "training.device"),
        *("training.log_every", "training.picture_every", "training.validate_every"),
        *("training.checkpoint_every", "training.keep"),
    }
)


def find_differences(kept: Configuration, wanted: Configuration) -> list[str]:
    """Entries by which `wanted` learns something else than a run of `kept`, a phrase each.

    Args:
        kept (Configuration): of the run, with the data's extents.
        wanted (Configuration): its extents of 0, and those that its network does not use, may be
            anything.
    """
    old, new = asdict(kept), asdict(wanted)
    extents = {"k_3d", "exp_3dmm", "id_3dmm"}
    used = set(wanted.model.targets.values())
    phrases = []
    for section, entries in new.items():
        for name, value in entries.items():
            loose = section == "model" and name in extents and (name not in used or value == 0)
            kept_value = old[section][name]
            if value == kept_value or loose or f"{section}.{name}" in FREE:
                continue
            phrases.append(f"{section}.{name} is {kept_value!r} there, wanted {value!r}")
    return phrases
