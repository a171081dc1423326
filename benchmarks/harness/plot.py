"""The picture of a run: speed of every method, the GEMM limit (or the best torch way) being 1."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import Patch

from harness.runner import Result, Row

OURS = ("#c1121f", "#e85d04", "#f48c06")
OTHERS = {
    "GEMM limit, torch": "#212529",
    "GEMM limit, numpy": "#868e96",
    "Function over torch.mm": "#1864ab",
    "Function over torch.bmm": "#1864ab",
    "rotate z_exp (Function)": "#1864ab",
    "rotate z_exp": "#1864ab",
    "broadcast + matmul": "#4dabf7",
    "hoisted matmul": "#0b7285",
    "torch.compile(broadcast)": "#9775fa",
    "torch.compile(broadcast), max-autotune": "#5f3dc4",
    "torch.compile(two matmuls)": "#9775fa",
    "torch.compile(two matmuls), max-autotune": "#5f3dc4",
    "einsum, opt_einsum": "#2b8a3e",
    "einsum, left to right": "#8ce99a",
    "TensorLy": "#a98467",
    "F.bilinear": "#f783ac",
    "matrix a sample": "#66a80f",
    "as published": "#1864ab",
    "outer product by bmm": "#5c7cfa",
    "torch.compile(as published)": "#5f3dc4",
    "two matmuls": "#4dabf7",
    "one concatenated matmul": "#5c7cfa",
    "matmul + mean core": "#b197fc",
}
HATCH = {"fresh": "////", "overwrites": "..", "adds": "", "": ""}
GRADIENT = {
    "adds": "adds to an existing .grad",
    "overwrites": "overwrites an existing .grad",
    "fresh": "makes a fresh gradient",
}
COLUMNS = 3


def write_plot(result: Result, path: Path) -> None:
    """Grouped bars, one panel a shape, dtype and pass, one group an n. Tiny cases are left out."""
    rows = [row for row in result.rows if row.right and not row.case.shape.name.startswith("tiny")]
    by_title: dict[str, list[Row]] = {}
    for row in rows:
        by_title.setdefault(_panel_title(row), []).append(row)
    panels = [
        (title, sorted(group, key=lambda row: row.case.n)) for title, group in by_title.items()
    ]
    if not panels:
        return
    colours = _colours(rows)
    columns = min(COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        lines,
        columns,
        figsize=(6.4 * columns, 3.2 * lines + 1.6),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (title, group) in zip(axes.flat, panels, strict=False):
        _draw(axis, title, group, colours)
    gradients = {row.method.gradient for row in rows}
    handles = [Patch(color=colour, label=name) for name, colour in colours.items()]
    handles += [
        Patch(facecolor="white", edgecolor="black", hatch=HATCH[gradient], label=meaning)
        for gradient, meaning in GRADIENT.items()
        if gradient in gradients
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=2 * columns, fontsize=9, frameon=False
    )
    machine = result.machine
    where = (
        f"{machine['processor']}, {machine['threads']} threads, torch {machine['torch']} "
        f"({machine['blas_of_torch']}), numpy {machine['numpy']} ({machine['blas_of_numpy']})\n"
        f"ntensor {machine['ntensor']} at {machine['commit']}, huge pages: {machine['huge_pages']}"
    )
    if result.on_gpu:
        where = (
            f"{machine['device']}, driver {machine['driver']}, CUDA {machine['cuda']}, "
            f"torch {machine['torch']}, triton {machine['triton']}\n"
            f"ntensor {machine['ntensor']} at {machine['commit']}, inputs not in the cache"
        )
    figure.suptitle(where, fontsize=9)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _panel_title(row: Row) -> str:
    before, _, after = row.case.title.partition(f"n = {row.case.n}, ")
    return before + after


def _colours(rows: list[Row]) -> dict[str, str]:
    """A colour a method, the library's first."""
    names = dict.fromkeys(row.method.name for row in rows)
    ours = [name for name in names if name.startswith("ntensor")]
    colours = {name: OURS[i % len(OURS)] for i, name in enumerate(ours)}
    return colours | {name: OTHERS.get(name, "#ced4da") for name in names if name not in ours}


def _draw(axis: plt.Axes, title: str, rows: list[Row], colours: dict[str, str]) -> None:
    by_limit = any(row.versus_limit is not None for row in rows)
    rotation = 90 if len(rows) > 20 else 0
    position, ticks = 0.0, []
    for n, group in groupby(rows, key=lambda row: row.case.n):
        present = sorted(group, key=lambda row: (row.method.kind != "ours", row.median))
        for offset, row in enumerate(present):
            height = row.versus_limit if by_limit else row.versus_torch
            if height is None:
                continue
            axis.bar(
                position + offset,
                height,
                width=0.9,
                color=colours[row.method.name],
                hatch=HATCH[row.method.gradient],
                edgecolor="white",
                linewidth=0,
            )
            if row.method.kind == "ours":
                spot = position + offset, height
                axis.annotate(
                    f" {height:.2f}",
                    spot,
                    ha="center",
                    va="bottom",
                    fontsize=8,
                    rotation=rotation,
                )
        ticks.append((position + (len(present) - 1) / 2, f"n = {n}"))
        position += len(present) + 1.5
    axis.axhline(1, color="black", linewidth=1, linestyle="--")
    axis.set_xticks([tick for tick, _ in ticks], [text for _, text in ticks])
    axis.set_ylabel(f"times as fast as the {'GEMM limit' if by_limit else 'best torch way'}")
    axis.set_title(title, fontsize=10)
    axis.margins(y=0.12)
    axis.spines[["top", "right"]].set_visible(False)
