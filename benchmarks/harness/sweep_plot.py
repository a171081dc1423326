"""The picture of a sweep: the ratio of every case against its sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import NullFormatter

from harness.sizes import WITH_K_X

COLOURS = {False: "#1864ab", True: "#c1121f"}


def write_plot(
    rows: list[dict], machine: dict, is_lost: Callable[[dict], bool], path: Path
) -> None:
    """A row of two panels a kind: over `k_x`, or `K` where there is none, and over `n`."""
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    figure, axes = plt.subplots(
        len(kinds),
        2,
        figsize=(11, 1 + 2.4 * len(kinds)),
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    for kind, pair in zip(kinds, axes, strict=True):
        group = [row for row in rows if row["kind"] == kind]
        first = "k_x" if kind in WITH_K_X else "K"
        for axis, name in zip(pair, (first, "n"), strict=True):
            _draw(axis, name, group, is_lost)
        lost = sum(map(is_lost, group))
        title = f"{kind}: {len(group)} cases" + (f", {lost} lost (red)" if lost else "")
        pair[0].set_title(title, fontsize=10, loc="left")
        pair[0].set_ylabel("times as fast")
        pair[1].set_xlabel("rank" if kind.startswith("mttkrp") else "n")
    commits = list(dict.fromkeys(row["commit"] for row in rows))
    figure.suptitle(
        "ntensor beside the fastest plain form of torch, "
        f"{rows[0]['dtype']}, {machine['processor']},\n{machine['threads']} threads, "
        f"torch {machine['torch']}, ntensor at {', '.join(commits)}",
        fontsize=9,
    )
    figure.savefig(path, dpi=100, format="png")
    plt.close(figure)


def _draw(axis: plt.Axes, name: str, rows: list[dict], is_lost: Callable[[dict], bool]) -> None:
    for lost, colour in COLOURS.items():
        group = [row for row in rows if is_lost(row) == lost]
        across = [_size(row, name) for row in group]
        ratios = [row["ratio"] for row in group]
        axis.scatter(across, ratios, s=12, color=colour, alpha=0.6, linewidths=0)
    axis.axhline(1, color="black", linewidth=1, linestyle="--")
    base = 2 if max(_size(row, name) for row in rows) <= 100 else 10
    axis.set_xscale("log", base=base)
    axis.xaxis.set_minor_formatter(NullFormatter())
    if base == 2:
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_yscale("log", base=2)
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_xlabel(name)
    axis.spines[["top", "right"]].set_visible(False)


def _size(row: dict, name: str) -> int:
    if name == "K":
        return math.prod(map(int, row["extents"].split("x")))
    return row[name]
