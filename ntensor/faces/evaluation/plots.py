"""The figures of a report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ntensor.faces.writing import grids
from ntensor.faces.writing.sheet import to_colours

_DOTS = 150


def plot_heat_map(path: Path, title: str, table: Mapping[str, Mapping[str, Any]]) -> None:
    """Accuracy of every code (rows) for every factor (columns), with the chance levels below.

    Args:
        path (Path): PNG.
        title (str)
        table (mapping): `[code][factor]`, with `random` and `chance`.
    """
    figure, axis = _make_figure(
        0.9 + 1.35 * len(next(iter(table.values()))), 1.1 + 0.34 * len(table)
    )
    factors = list(next(iter(table.values())))
    values = np.array([[row[factor]["random"] for factor in factors] for row in table.values()])
    axis.imshow(values, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    axis.set_xticks(range(len(factors)), factors)
    axis.set_yticks(range(len(table)), list(table))
    for row, column in np.ndindex(values.shape):
        value = values[row, column]
        colour = "white" if value < 0.6 else "black"
        axis.text(column, row, f"{value:.0%}", ha="center", va="center", color=colour, fontsize=8)
    chances = next(iter(table.values()))
    chance = ", ".join(f"{factor} {chances[factor]['chance']:.0%}" for factor in factors)
    axis.set_title(title, fontsize=9)
    axis.set_xlabel(f"accuracy, random folds; chance: {chance}", fontsize=7)
    axis.tick_params(labelsize=8)
    grids.save_figure(path, figure, _DOTS)


def plot_embeddings(
    path: Path, panels: Mapping[str, tuple[Any, Any]], names: Mapping[str, list[str]], seed: int = 0
) -> None:
    """t-SNE of codes, as in figures 14 and 15 of the paper.

    Args:
        path (Path): PNG.
        panels (mapping): a code (array[n, k]) and its labels (array[n]) by title.
        names (mapping): the names of the labels by title.
        seed (int)
    """
    from sklearn.manifold import TSNE

    figure, axes = _make_figure(3.6 * len(panels), 3.9, len(panels))
    for axis, (title, (code, labels)) in zip(np.atleast_1d(axes), panels.items(), strict=True):
        standard = (code - code.mean(0)) / np.maximum(code.std(0), 1e-6)
        perplexity = min(30.0, max(2.0, (len(code) - 1) / 4))
        machine = TSNE(2, perplexity=perplexity, init="pca", random_state=seed)
        places = machine.fit_transform(standard)
        for number in np.unique(labels):
            chosen = labels == number
            axis.scatter(
                *places[chosen].T, s=6, color=f"C{number % 10}", label=names[title][int(number)]
            )
        axis.set_title(title, fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.legend(fontsize=6, loc="best", markerscale=1.5)
    grids.save_figure(path, figure, _DOTS)


def save_sheet(path: Path, columns: Mapping[str, Tensor], rows: int = 6) -> None:
    """Saves the first rows of several titled columns of pictures (n, 3, S, S), 0 to 1."""
    shown = {
        title: value[:rows].clamp(0, 1).expand(-1, 3, -1, -1) for title, value in columns.items()
    }
    size = next(iter(shown.values())).shape[-1]
    grids.save_grid(path, shown, scale=max(1, 96 // size))


def colour_normals(normal: Tensor, mask: Tensor) -> Tensor:
    """Normals as colours, black outside the mask."""
    unit = torch.nn.functional.normalize(normal, dim=1)
    return to_colours("normal", unit) * (mask > 0.5)


def _make_figure(width: float, height: float, panels: int = 1) -> tuple[Any, Any]:
    """A figure that needs no window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, panels)
