"""Evaluates a run on unseen identities: `python -m ntensor.faces.evaluate RUN`.

Reconstruction beside the mean image, normals beside the mean face and a constant, and a linear
classifier of every factor on every code, beside principal components of the pixels of the same
dimension. Writes `RUN/evaluation.json`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import tyro

from .errors import FacesError
from .evaluation.run import Evaluation, evaluate, report


def command(
    run: Annotated[Path, tyro.conf.Positional],
    settings: Annotated[Evaluation, tyro.conf.arg(name="")],
) -> None:
    """Evaluates the run in the folder `run`, prints the measures and writes them there."""
    try:
        found = evaluate(run, settings)
    except FacesError as error:
        raise SystemExit(f"error: {error}") from error
    (run / "evaluation.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(report(found))


if __name__ == "__main__":
    tyro.cli(command, description=__doc__)
