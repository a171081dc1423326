"""Compares a configuration with its data and with the configuration of an existing run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from ntensor.faces.common.errors import ConfigurationError

from .face_source import identify_face_model
from .settings import Configuration


def fit_to_data(configuration: Configuration, sizes: Mapping[str, int]) -> Configuration:
    """Replaces each extent of 0 by the extent of the data.

    Args:
        configuration (Configuration)
        sizes (mapping): of the data, by name: `k_3d`, `exp_3dmm`, `id_3dmm`, `image_size`.

    Raises:
        ConfigurationError: the network uses an extent that is neither 0 nor the data's.
    """
    wrong = find_misfits(configuration, sizes)
    if wrong:
        raise ConfigurationError("; ".join(wrong))
    return replace(configuration, model=replace(configuration.model, **dict[str, Any](sizes)))


def find_misfits(configuration: Configuration, sizes: Mapping[str, int]) -> list[str]:
    """One sentence for each extent that does not match data of these sizes; see `fit_to_data`."""
    wanted = asdict(configuration.model)
    used = ("image_size", *configuration.model.targets.values())
    sentences = []
    for name, size in sizes.items():
        if name in used and wanted[name] not in (0, size):
            cure = f"--model.{name.replace('_', '-')} 0 uses the data's"
            if name == "image_size":
                cure = "both must be the same"
            elif name == "k_3d" and configuration.data.source == "generated":
                cure += f", --data.vertices {wanted[name] // 3} gives the analytic face as many"
            sentences.append(f"model.{name} is {wanted[name]}, the data has {size} ({cure})")
    return sentences


# Entries that do not affect what a run learns, only how it is computed, logged and saved.
FREE = frozenset(
    {
        *("model.accumulate_core_grad", "data.workers", "data.device", "data.skip_damaged"),
        *("training.compile", "training.backend", "training.device"),
        *("training.log_every", "training.picture_every", "training.validate_every"),
        *("training.checkpoint_every", "training.keep"),
    }
)


def find_differences(kept: Configuration, wanted: Configuration) -> list[str]:
    """One phrase for each entry that makes `wanted` learn something different from `kept`.

    Args:
        kept (Configuration): of the existing run, with the extents of its data.
        wanted (Configuration): extents of 0, and those that its network does not use, are not
            compared; nor is the face model, if `kept` does not record its own.
    """
    old, new = asdict(kept), asdict(wanted)
    for entries, given in ((old, kept), (new, wanted)):
        face_model, vertices = identify_face_model(given.data)
        entries["data"] |= {"face_model": face_model, "vertices": vertices}
    if identify_face_model(kept.data) == (None, 0) and kept.data.source == "generated":
        old["data"]["face_model"] = new["data"]["face_model"]
    extents = {"k_3d", "exp_3dmm", "id_3dmm"}
    used = set(wanted.model.targets.values())
    phrases = []
    for section, entries in new.items():
        for name, value in entries.items():
            loose = section == "model" and name in extents and (name not in used or value == 0)
            kept_value = old[section][name]
            if value == kept_value or loose or f"{section}.{name}" in FREE:
                continue
            phrases.append(f"{section}.{name} is {kept_value!r} there, not {value!r}")
    return phrases
