"""Figures 14 and 15: t-SNE embeddings of codes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ntensor.faces import editing
from ntensor.faces.datasets import scenes
from ntensor.faces.datasets.grids import make_grid
from ntensor.faces.datasets.rendered import SPLITS
from ntensor.faces.runs.opened import OpenedRun

from .material import Figure, Material

_PERSONS = 12


def draw_codes(material: Material, code: str, label: str) -> Figure:
    """Figures 14 and 15: the t-SNE embedding of a code, coloured by a label."""
    opened, notes = material.main, []
    face = opened.inputs.face_model
    faces = make_grid(list(SPLITS["test"])[:_PERSONS], lights=[6], face_model=face,
                 size=opened.inputs.size)  # fmt: skip
    batches = list(faces.batches(64))
    images = torch.cat([batch["image"] for batch in batches])
    labels = torch.cat([batch[label] for batch in batches])
    names = face.basic_names if label == "expression" else [f"{y:g}" for y in scenes.YAW_BINS]
    panels = {code: _encode(opened, images, code)}
    other = material.others["plain"]
    if other is None:
        notes.append("without z_0 of a plain adversarial auto-encoder: --plain was not given")
    else:
        panels["z_0"] = _encode(other, images, "z_0")
    drawn = _plot_scatter(panels, labels, names)
    what = "expression" if label == "expression" else "yaw, degrees"
    title = f"{code} by t-SNE, coloured by {what}; {len(images)} pictures of {_PERSONS} persons"
    return Figure(title, plot=drawn, notes=tuple(notes))


def _encode(opened: OpenedRun, images: Tensor, code: str) -> Tensor:
    parts = images.split(64)
    return torch.cat(
        [editing.encode(opened.model, part.to(opened.device)).codes[code].cpu() for part in parts]
    )


def _plot_scatter(panels: dict[str, Tensor], labels: Tensor, names: Any) -> Any:
    from matplotlib.figure import Figure as Canvas
    from sklearn.manifold import TSNE

    canvas = Canvas(figsize=(4.6 * len(panels), 4.4), layout="constrained")
    for axes, (title, code) in zip(canvas.subplots(1, len(panels), squeeze=False)[0],
                                   panels.items(), strict=True):  # fmt: skip
        perplexity = min(30.0, (len(code) - 1) / 3)
        points = TSNE(2, perplexity=perplexity, init="pca", random_state=0).fit_transform(
            code.numpy()
        )
        for value in labels.unique().tolist():
            chosen = (labels == value).numpy()
            axes.scatter(*points[chosen].T, s=8, label=str(names[value]))
        axes.set(title=title, xticks=[], yticks=[])
    axes.legend(markerscale=2, fontsize=8)
    return canvas
