"""One pass of a network over pictures: its codes and its errors."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ntensor.faces.datasets.records import get_input
from ntensor.faces.editing import encode, find_nearest_rotation
from ntensor.faces.networks.model import Model

from . import shapes
from .errors import Errors
from .pictures import Pictures

# The network's name among the methods.
NETWORK = "network"
_ESTIMATED = ("image", "normal", "id_3dmm", "exp_3dmm")


@dataclass
class Shown:
    """What the figures of a report are made from.

    Attributes:
        codes: codes (n, k) of the pictures of table 2, by name.
        edits: the network's edits, by edit; see `transfer.edit_by_network`.
        normals: the network's normals for some pictures.
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
        model (Model): on the device.
        pictures (Pictures): with or without ground truth.
        device
        batch_size (int)
        shown (int): number of outputs to keep for figures, of pictures spread evenly over all.

    Returns:
        dict and Shown: as `Errors.results`; the codes and some outputs.
    """
    errors = Errors(copy.deepcopy(model.statistics).cpu())
    codes: dict[str, list[Any]] = {}
    for batch in pictures.batches(batch_size, "network"):
        output = {n: v.float().cpu() for n, v in model(get_input(batch).to(device)).items()}
        estimate = {name: output[name] for name in _ESTIMATED if name in output}
        if "z_p" in output:
            estimate["pose"] = find_nearest_rotation(output["z_p"]).unflatten(1, (3, 3))
        errors.add(NETWORK, batch, estimate)
        for name, value in output.items():
            if name.startswith("z_"):
                codes.setdefault(name, []).append(value.numpy())
    kept = Shown({name: np.concatenate(parts) for name, parts in codes.items()})
    if shown:
        output = model(get_input(shapes.choose(pictures, shown)).to(device))
        kept.images = output["image"].float().cpu()
        kept.normals = output["normal"].float().cpu() if "normal" in output else None
    return errors.results(), kept


@torch.no_grad()
def encode_pictures(
    model: Model, pictures: Pictures, device: torch.device, batch_size: int, title: str
) -> dict[str, Any]:
    """The codes (n, k) of pictures as arrays, by name; nothing is decoded."""
    codes: dict[str, list[Any]] = {}
    for batch in pictures.batches(batch_size, title):
        for name, value in encode(model, get_input(batch).to(device)).codes.items():
            codes.setdefault(name, []).append(value.float().cpu().numpy())
    return {name: np.concatenate(parts) for name, parts in codes.items()}
