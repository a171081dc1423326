"""How compression changes a network, on faces of persons outside the training set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ntensor.faces import editing
from ntensor.faces.datasets.records import get_input
from ntensor.faces.evaluation.measures import AngularError, SquaredError
from ntensor.faces.networks.model import Model

Figures = dict[str, dict[str, float]]
_MAPS = ("image", "albedo", "frontal_image")
_NORMALS = ("normal", "frontal_normal")
# Normals of a smaller length are outside the face.
_LENGTH = 0.5


@torch.no_grad()
def measure_change(model: Model, small: Model, pictures: Tensor, batch_size: int = 32) -> Figures:
    """Measures how far the outputs of two networks are apart.

    Args:
        model, small (Model)
        pictures (Tensor[n, 3, S, S])
        batch_size (int)

    Returns:
        dict: by output, the `mean` over pictures and the `largest`. Colour maps: root mean square
        difference; normals: mean angle inside the face, degrees; `shape`: root mean square
        distance, in the unit of the shapes; codes: length of the change relative to the code.
    """
    found: dict[str, list[Tensor]] = {}
    for part in pictures.split(batch_size):
        outputs = []
        for network in (model, small):
            encoded = editing.encode(network, part)
            outputs.append(encoded.codes | editing.decode(network, encoded))
        for name, change in compare(model, *outputs).items():
            found.setdefault(name, []).append(change)
    joined = {name: torch.cat(parts) for name, parts in found.items()}
    return {n: {"mean": float(x.mean()), "largest": float(x.max())} for n, x in joined.items()}


def compare(
    model: Model, first: Mapping[str, Tensor], second: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Differences (n,) of two networks' outputs, per picture; see `measure_change`."""
    changes = {}
    for name, value in first.items():
        other = second[name]
        if name.startswith("z_"):
            length = value.norm(dim=1).clamp_min(1e-12)
            changes[name] = (other - value).norm(dim=1) / length
        elif name in _MAPS:
            changes[name] = (other - value).square().mean((1, 2, 3)).sqrt()
        elif name in _NORMALS:
            inside = value.norm(dim=1) > _LENGTH
            cosine = torch.cosine_similarity(value, other, dim=1).clamp(-1, 1)
            total = (torch.rad2deg(cosine.acos()) * inside).sum((1, 2))
            changes[name] = total / inside.sum((1, 2)).clamp_min(1)
    if "shape" in first:
        shapes = [editing.restore_vertices(model, output) for output in (first, second)]
        changes["shape"] = editing.measure_shape_error(*shapes)
    return changes


@torch.no_grad()
def measure_errors(model: Model, batches: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """A network's errors where the ground truth is known.

    Args:
        model (Model)
        batches (sequence): of faces, with `image`, `mask` and any other known targets.

    Returns:
        dict: mean squared errors `image`, `face` and, for near-frontal faces, `frontal_image`;
        `normals` in degrees; `shape` in the unit of the shapes.
    """
    colour, frontal, angle = SquaredError(), SquaredError(), AngularError()
    shapes: list[Tensor] = []
    for batch in batches:
        output = editing.decode(model, editing.encode(model, get_input(batch)))
        colour.add(output["image"], batch["image"], batch["mask"])
        if "normal" in output and "normal" in batch:
            angle.add(output["normal"], batch["normal"], batch["mask"])
        if "frontal_image" in output and "frontal_image" in batch:
            rows = batch["near_frontal"]
            wanted = batch["frontal_image"][rows]
            frontal.add(output["frontal_image"][rows], wanted, torch.ones_like(wanted[:, :1]))
        truth = batch.get("shape")
        # Shapes of another face model have another length.
        if "shape" in output and truth is not None and truth.shape == output["shape"].shape:
            found = editing.restore_vertices(model, output)
            shapes.append(editing.measure_shape_error(found, truth.unflatten(1, (-1, 3))))
    errors = colour.result()
    if frontal.values:
        errors["frontal_image"] = frontal.result()["image"]
    if angle.images:
        errors["normals"] = angle.result()["mean"]
    if shapes:
        errors["shape"] = float(torch.cat(shapes).mean())
    return errors
