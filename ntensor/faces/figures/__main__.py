"""Reproduces the paper's figures 1 and 4 to 21 from runs: `python -m ntensor.faces.figures`.

The figures show generated faces of persons outside the training set, with the rendered ground
truth. Figures and columns that need a run that is not given are left out and reported. Writes
figure_NN.png and figures.md into the folder.

Example: python -m ntensor.faces.figures runs/faces --out figures --poc-expression runs/poc
--intrinsic runs/intrinsic --plain runs/plain
"""

from __future__ import annotations

from ntensor.faces.common.launch import launch

if __name__ == "__main__":
    launch("ntensor.faces.figures.__main__")

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from ntensor.faces.common.command import command
from ntensor.faces.common.errors import ConfigurationError
from ntensor.faces.runs.opened import Options
from ntensor.faces.writing import grids
from ntensor.faces.writing.files import check_writable, write_text

from . import codes, shapes, transfers
from .material import Figure, LeftOut, Maker, Material, Runs

FIGURES: dict[int, Maker] = {
    1: transfers.draw_overview,
    4: partial(transfers.draw_concept, edit="expression"),
    5: partial(shapes.draw_shapes, other="poc_expression", first=0),
    6: shapes.draw_textures,
    7: partial(transfers.draw_concept, edit="pose"),
    8: partial(transfers.draw_fitted, edit="expression"),
    9: partial(transfers.draw_multilinear, first=6, turned=True),
    10: partial(transfers.draw_fitted, edit="pose"),
    11: partial(transfers.draw_lights, first=1),
    12: partial(shapes.draw_shapes, other=None, first=9),
    13: shapes.draw_normals,
    14: partial(codes.draw_codes, code="z_exp", label="expression"),
    15: partial(codes.draw_codes, code="z_p", label="pose_bin"),
    16: partial(transfers.draw_every_pair, edit="expression", first=40),
    17: partial(transfers.draw_every_pair, edit="pose", first=46),
    18: partial(transfers.draw_interpolation, edit="expression", first=24),
    19: partial(transfers.draw_interpolation, edit="identity", first=36),
    20: partial(transfers.draw_lights, first=15),
    21: partial(transfers.draw_multilinear, first=12, turned=False),
}

_NO_RUNS = Runs()
_DEFAULT = Options()


def make_figures(
    run: Annotated[Path, tyro.conf.Positional],
    out: Path,
    only: tuple[int, ...] = (),
    rows: int = 4,
    fitted: int = 800,
    runs: Annotated[Runs, tyro.conf.arg(name="")] = _NO_RUNS,
    options: Annotated[Options, tyro.conf.arg(name="")] = _DEFAULT,
) -> None:
    """Makes the figures of a run.

    Args:
        run: folder of a run of the paper's network.
        out: folder for the figures.
        only: numbers of the figures to make; default: all.
        rows: faces per figure.
        fitted: training pictures for the multilinear baseline and the mean face.
    """
    unknown = [number for number in only if number not in FIGURES]
    if unknown:
        known = ", ".join(map(str, FIGURES))
        raise ConfigurationError(f"figures are {known}, got {', '.join(map(str, unknown))}")
    check_writable(out)
    material = Material(run, runs, options, rows, fitted)
    source = material.main.inputs.face_model.source
    lines = [f"# Figures of {run}, update {material.main.step}", "", f"Faces: {source}.", ""]
    made = 0
    for number in only or FIGURES:
        try:
            figure = FIGURES[number](material)
        except LeftOut as reason:
            print(f"figure {number}: left out, {reason}")
            lines.append(f"- Figure {number}: left out, {reason}.")
            continue
        name = f"figure_{number:02d}.png"
        save(figure, out / name, options.scale)
        notes = "".join(f"; {note}" for note in figure.notes)
        print(f"figure {number}: {name}, {figure.title}{notes}")
        lines.append(f"- [Figure {number}]({name}): {figure.title}{notes}.")
        made += 1
    write_text(out / "figures.md", "\n".join(lines) + "\n")
    print(f"{out}: {made} figures, figures.md")


def save(figure: Figure, path: Path, scale: int) -> None:
    """Writes one figure."""
    if figure.plot is not None:
        grids.save_figure(path, figure.plot, 110)
    if figure.columns is not None:
        shown = {title: maps.clamp(0, 1) for title, maps in figure.columns.items()}
        size = next(iter(shown.values())).shape[-1]
        grids.save_grid(path, shown, 1 if size > 64 else scale)


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    tyro.cli(
        make_figures, prog="python -m ntensor.faces.figures", description=__doc__, args=arguments
    )
