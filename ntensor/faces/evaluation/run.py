"""Evaluation of a run on unseen identities, compared with estimates without a deep network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ntensor.faces.editing import fit_pose_leak
from ntensor.faces.networks.model import Model
from ntensor.faces.training.processes import choose_device
from ntensor.faces.training.runs import load_run, open_run

from . import shapes
from .materials import Materials, Shared, to_arrays
from .measures import AngularError, SquaredError
from .pictures import Pictures
from .probes import measure_leakage
from .settings import Evaluation
from .transfer import measure_network

# Codes of table 3, and what they should tell.
FRONTAL = {"z_id": "identity", "z_exp": "expression", "z_l": "light"}


@dataclass
class Shown:
    """The material for the pictures of a report.

    Attributes:
        codes: arrays (n, k) of the pictures of table 2, by name.
        edits: pictures of the network's edits, by edit; see `transfer.edit_by_network`.
        normals: some pictures' normals as the network finds them.
        images: its reconstructions of the same pictures.
    """

    codes: dict[str, Any] = field(default_factory=dict)
    edits: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    normals: Tensor | None = None
    images: Tensor | None = None


@torch.no_grad()
def look(
    model: Model, pictures: Pictures, device: torch.device, batch_size: int, shown: int = 0
) -> tuple[dict[str, Any], Shown]:
    """One pass of a network over pictures.

    Args:
        model (Model), device: where the model is.
        pictures (Pictures): with normals and masks, or without.
        batch_size (int)
        shown (int): so many outputs are kept for a picture, of pictures spread over all.

    Returns:
        dict and Shown: `squared_error` and, where normals are known and predicted,
        `angular_error`; the codes and some outputs.
    """
    colour, angle = SquaredError(), AngularError()
    codes: dict[str, list[Any]] = {}
    for batch in pictures.batches(batch_size, "network"):
        image = batch["image"]
        output = {name: v.float().cpu() for name, v in model(image.to(device)).items()}
        mask = batch.get("mask", torch.ones_like(image[:, :1]))
        colour.add(output["image"], image, mask)
        if "normal" in output and "normal" in batch:
            angle.add(output["normal"], batch["normal"], mask)
        for name, value in output.items():
            if name.startswith("z_"):
                codes.setdefault(name, []).append(value.numpy())
    errors: dict[str, Any] = {"squared_error": {"network": colour.result()}}
    errors["angular_error"] = {"network": angle.result()} if angle.images else {}
    kept = Shown({name: np.concatenate(parts) for name, parts in codes.items()})
    if shown:
        output = model(shapes.choose(pictures, shown)["image"].to(device))
        kept.images = output["image"].float().cpu()
        kept.normals = output["normal"].float().cpu() if "normal" in output else None
    return errors, kept


def evaluate(
    run: Path, settings: Evaluation, shared: Shared | None = None
) -> tuple[dict[str, Any], Shown]:
    """All measures of a run, as they are written to `evaluation.json`.

    Args:
        run (Path): folder that training wrote.
        settings (Evaluation)
        shared (Shared or None): materials of other runs.

    Returns:
        dict and Shown: `squared_error`, `angular_error`, `angular_error_frontal`, `accuracy` (every
        code against every factor, all poses), `table_3` (the same, frontal), `transfer`, `shape`;
        by method, the network's and those of the baselines. What the run's pictures are made of.

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
        "squared_error": {**errors["squared_error"], **baselines["squared_error"]},
    }
    result["angular_error"] = _add_baselines(errors["angular_error"], baselines["angular_error"])
    result["accuracy"] = probe(shown.codes, materials, "pictures", shown.codes)
    result["angular_error_frontal"], result["table_3"] = {}, {}
    if frontal is not None:
        errors, other = look(model, frontal, device, settings.batch_size)
        result["angular_error_frontal"] = _add_baselines(
            errors["angular_error"], baselines["angular_error_frontal"]
        )
        wanted = {n: z for n, z in other.codes.items() if n in FRONTAL or n == "z_0"}
        result["table_3"] = probe(wanted, materials, "frontal", wanted) | baselines["table_3"]
    leak = None
    if {"z_p", "z_id"} <= set(shown.codes):
        _, seen = look(model, materials.training, device, settings.batch_size)
        leak = fit_pose_leak({name: torch.from_numpy(seen.codes[name]) for name in ("z_p", "z_id")})
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


def evaluate_pictures(
    run: Path, pictures: Pictures, settings: Evaluation
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Measures of a run on any pictures, and a sheet's columns.

    Args:
        run (Path)
        pictures (Pictures): of the network's size.
        settings (Evaluation)

    Returns:
        dict, dict: `squared_error`, `angular_error` (with the constant beside) where normals are
        known, `accuracy` of what labels there are; pictures and reconstructions by title.

    Raises:
        FacesError: the run or the device cannot be used.
    """
    device = choose_device(settings.device)
    model, configuration, step = load_run(run, settings.checkpoint)
    measures, kept = look(model.to(device), pictures, device, settings.batch_size, shown=6)
    if measures["angular_error"]:
        constant = AngularError()
        for batch in pictures.batches(settings.batch_size, "constant"):
            forward = torch.zeros_like(batch["normal"])
            forward[:, 2] = 1
            constant.add(forward, batch["normal"], batch["mask"])
        measures["angular_error"]["constant"] = constant.result()
    factors = to_arrays(pictures.factors())
    accuracy = measure_leakage(kept.codes, factors, settings.folds, "probes") if factors else {}
    result = {
        "run": str(run),
        "step": step,
        "samples": len(pictures),
        "pictures": pictures.source,
        "configuration": asdict(configuration),
        **measures,
        "accuracy": accuracy,
    }
    batch = shapes.choose(pictures, 6)
    columns = {"input": batch["image"]}
    if kept.images is not None:
        columns["reconstr."] = kept.images
    if kept.normals is not None:
        columns["normals"] = (kept.normals + 1) / 2
        if "normal" in batch:
            columns["true norm."] = (batch["normal"] + 1) / 2
    return result, columns


def probe(
    codes: Mapping[str, Any], materials: Materials, which: str, sizes: Mapping[str, Any]
) -> dict[str, Any]:
    """Every code, as many principal components of pixels, and the nearest picture, against every
    factor."""
    pictures = materials.pictures if which == "pictures" else materials.frontal
    assert pictures is not None
    factors = to_arrays(pictures.factors())
    table = measure_leakage(codes, factors, materials.settings.folds, f"probes, {which}")
    for k in sorted({value.shape[1] for name, value in sizes.items() if name != "z_i"}):
        table[f"pixels, {k} components"] = materials.probe_pixels(which, k)
    table["pixels, nearest picture"] = materials.probe_neighbours(which)
    return table


def _add_baselines(own: dict[str, Any], baselines: dict[str, Any]) -> dict[str, Any]:
    """The baselines of normals, where the network has normals."""
    return {**own, **baselines} if own else {}


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
    factors = list(next(iter(table.values()))) if table else []
    lines += ["", "accuracy: random folds / whole groups held out"]
    lines.append(f"{'':28}" + "".join(f"{factor:>18}" for factor in factors))
    for code, row in table.items():
        lines.append(
            f"{code:28}" + "".join(f"{_format_probe(row[factor]):>18}" for factor in factors)
        )
    if table:
        chances = "".join(f"{row['chance']:>18.1%}" for row in next(iter(table.values())).values())
        lines.append(f"{'chance':28}{chances}")
    return "\n".join(lines)


def _format_probe(probe: Mapping[str, Any]) -> str:
    grouped = probe["grouped"]
    return f"{probe['random']:.1%}" + ("" if grouped is None else f" / {grouped:.1%}")
