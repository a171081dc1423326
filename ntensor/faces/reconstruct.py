"""3D faces from pictures: `python -m ntensor.faces.reconstruct [RUN] FACE ... --out DIR`.

For each face, as files and in one figure: the mesh of the decoder's shape (equation 3), the mesh of
the face model with the predicted coefficients (sections 4.1.2 and 5.3), texture and normals of the
frontal face, and normals of the picture (section 5.4). Faces are given as for
`python -m ntensor.faces.edit`. For generated faces and data sets with shapes, errors are written to
errors.json, with those of the mean face for comparison.

Example: python -m ntensor.faces.reconstruct runs/faces generated:test:3:happy:20 --out faces3d

Example: python -m ntensor.faces.reconstruct runs/faces photo.jpg --landmarks photo.txt
--out faces3d
"""

from __future__ import annotations

from .common.launch import launch

if __name__ == "__main__":
    launch("ntensor.faces.reconstruct")

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ntensor.faces.runs.reconstruction import Reconstruction
from ntensor.faces.training.runs import split_run
from ntensor.faces.writing import grids

from .common.command import command
from .runs.opened import OpenedRun, Options
from .writing.files import check_writable, write_text

_DEFAULT = Options()
_DRAWN = 128


def reconstruct(
    faces: Annotated[list[str], tyro.conf.Positional],
    out: Path,
    format: Literal["ply", "obj"] = "ply",
    options: Annotated[Options, tyro.conf.arg(name="")] = _DEFAULT,
) -> None:
    """Reconstructs 3D faces from pictures.

    Args:
        faces: first, optionally, the folder of the run or a file of weights; default: those
            included in the package. Then pictures, records FOLDER:INDEX, or
            generated:SPLIT:PERSON:EXPRESSION:POSE:LIGHT.
        out: folder for meshes and pictures.
        format: of the meshes.
    """
    run, words = split_run(faces)
    opened = OpenedRun(run, options)
    given = opened.read(words)
    folders = [out / f"{number:03d}" for number in range(len(given))]
    for folder in (out, *folders):
        check_writable(folder)
    made = Reconstruction(opened, given)
    for number, folder in enumerate(folders):
        made.write(folder, number, format)
    grids.save_grid(opened.check_output(out / "figure.png"), made.make_columns(), 1)
    if made.left_out:
        print(made.left_out)
    known = made.measure_errors()
    if known:
        write_text(out / "errors.json", json.dumps(known, indent=1) + "\n")
        print(format_errors(known))
    names = ", ".join(f"{name}.{format}" for name in made.shapes)
    print(
        f"{out}: figure.png{', errors.json' if known else ''}; in 000 to {len(given) - 1:03d}: "
        f"{names}, {', '.join(f'{name}.png' for name in made.maps)}"
    )


def format_errors(known: dict[str, Any]) -> str:
    """Formats errors as text."""
    unit, rms = known["unit"], known["rms"]
    lines = [f"root mean square distance of vertices, {unit}; {known['face_model']}"]
    lines.append(f"{'':44}" + "".join(f"{name:>14}" for name in rms))
    for number, face in enumerate(known["faces"]):
        lines.append(f"{face[-43:]:44}" + "".join(f"{row[number]:>14.2f}" for row in rms.values()))
    if len(known["faces"]) > 1:
        means = "".join(f"{sum(row) / len(row):>14.2f}" for row in rms.values())
        lines.append(f"{'mean':44}{means}")
    return "\n".join(lines)


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    tyro.cli(
        reconstruct, prog="python -m ntensor.faces.reconstruct", description=__doc__, args=arguments
    )
