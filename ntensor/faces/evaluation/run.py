"""Evaluation of a run on unseen identities, compared with estimates without a deep network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ntensor.faces.editing import fit_pose_leak
from ntensor.faces.training.processes import choose_device
from ntensor.faces.training.runs import open_run

from . import shapes
from .errors import KINDS
from .look import Shown, encode_pictures, look
from .materials import Shared
from .settings import Evaluation
from .transfer import measure_network

# The codes of table 3, and the factor that each should encode.
FRONTAL = {"z_id": "identity", "z_exp": "expression", "z_l": "light"}


def evaluate(
    run: Path, settings: Evaluation, shared: Shared | None = None
) -> tuple[dict[str, Any], Shown]:
    """All measures of a run, as written to `evaluation.json`.

    Args:
        run (Path): the run's folder, written by training.
        settings (Evaluation)
        shared (Shared or None): materials shared with other runs.

    Returns:
        dict and Shown: the measures of the network and the baselines, by method; what the figures
        are made from. The measures include `squared_error`, `angular_error`,
        `angular_error_frontal`, `accuracy` of every code for every factor, `table_3`, which is the
        same on frontal faces, `transfer` and `shape`.

    Raises:
        FacesError: the run, the device or the data cannot be used.
    """
    device = choose_device(settings.device)
    trained = open_run(run, settings.checkpoint)
    model, configuration, step = trained.model.to(device), trained.configuration, trained.step
    materials = (shared or Shared(settings)).of(configuration)
    face = materials.transfers.face
    shaped = trained.surface is None or face.shape_size == configuration.model.k_3d
    if trained.surface is not None and not shaped:
        print(
            f"{run}: its shapes are of another face ({trained.surface.source}) than the pictures "
            f"({face.source}); shapes and landmarks are left out"
        )
    baselines = materials.measured
    pictures, frontal = materials.pictures, materials.frontal
    errors, shown = look(model, pictures, device, settings.batch_size, shown=8)
    result: dict[str, Any] = {
        "run": str(run),
        "step": step,
        "network": configuration.model.network,
        "rotation": configuration.model.rotation,
        "faces": pictures.face.source if pictures.face is not None else pictures.source,
        "samples": len(pictures),
        "pictures": pictures.source,
        "configuration": asdict(configuration),
        **merge_errors(errors, baselines),
    }
    result["accuracy"] = materials.compare("pictures").probe(
        shown.codes, configuration.model, device, "probes, pictures"
    )
    result["angular_error_frontal"], result["table_3"] = {}, {}
    if frontal is not None:
        errors, other = look(model, frontal, device, settings.batch_size)
        own = errors["angular_error"]
        result["angular_error_frontal"] = own and {**own, **baselines["angular_error_frontal"]}
        wanted = {n: z for n, z in other.codes.items() if n in FRONTAL or n == "z_0"}
        compared = materials.compare("frontal")
        result["table_3"] = (
            compared.probe(wanted, configuration.model, device, "probes, frontal")
            | baselines["table_3"]
        )
    leak = None
    if {"z_p", "z_id"} <= set(shown.codes):
        seen = encode_pictures(
            model, materials.training, device, settings.batch_size, "training faces"
        )
        leak = fit_pose_leak({name: torch.from_numpy(seen[name]) for name in ("z_p", "z_id")})
    measures, shown.edits = measure_network(
        model, materials.transfers, device, settings.batch_size, leak, shaped
    )
    result["transfer"] = {
        edit: {**measures.get(edit, {}), **methods}
        for edit, methods in baselines["transfer"].items()
    }
    own = {}
    if shaped:
        with torch.no_grad():
            own = shapes.measure_network_shapes(
                model, pictures, settings.shapes, device, settings.batch_size
            )
    result["shape"] = {**own, **baselines["shape"]} if own else {}
    return result, shown


def merge_errors(*found: Mapping[str, Any]) -> dict[str, Any]:
    """Merges errors of several methods; kinds missing from the first, the network's, stay empty."""
    own, *others = found
    merged: dict[str, Any] = {}
    for kind in KINDS:
        merged[kind] = dict(own[kind])
        for other in others if own[kind] else ():
            merged[kind] |= other[kind]
    return merged


def format_report(measures: Mapping[str, Any]) -> str:
    """The measures of one run as text for a terminal."""
    lines = [
        f"{measures['run']}, update {measures['step']}: network {measures['network']}, rotation "
        f"{measures['rotation']}; {measures['samples']} pictures: {measures['pictures']}",
        "",
        f"{'squared error':28}{'image':>10}{'face':>10}",
    ]
    for name, error in measures["squared_error"].items():
        lines.append(f"{name:28}{error['image']:>10.5f}{error['face']:>10.5f}")
    if measures["angular_error"]:
        lines += ["", f"{'normals, degrees':28}{'mean':>8}{'std':>8}  share below 20 25 30 35 40"]
    for name, error in measures["angular_error"].items():
        shares = " ".join(f"{v:.1%}" for k, v in error.items() if k.startswith("below"))
        lines.append(f"{name:28}{error['mean']:>8.2f}{error['std']:>8.2f}  {shares}")
    table = measures["accuracy"]
    if table:
        first = next(iter(table.values()))
        lines += ["", "accuracy: random folds / whole groups held out"]
        lines.append(f"{'':34}" + "".join(f"{factor:>18}" for factor in first))
        for code, row in table.items():
            cells = (f"{_format_probe(row[factor]):>18}" for factor in first)
            lines.append(f"{code:34}" + "".join(cells))
        chances = "".join(f"{row['chance']:>18.1%}" for row in first.values())
        lines.append(f"{'chance':34}{chances}")
    return "\n".join(lines)


def _format_probe(probe: Mapping[str, Any]) -> str:
    grouped = probe["grouped"]
    return f"{probe['random']:.1%}" + ("" if grouped is None else f" / {grouped:.1%}")
