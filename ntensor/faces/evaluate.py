"""Evaluates runs on identities that training never showed, and writes a report.

Examples:
    python -m ntensor.faces.evaluate runs/faces
    python -m ntensor.faces.evaluate runs/full-s0 runs/full-s1 runs/full-s2 --out report
    python -m ntensor.faces.evaluate runs/full-s0 runs/no-rotation-s0 --plain runs/plain-s0
        --intrinsic runs/intrinsic-s0 --out report
    python -m ntensor.faces.evaluate runs/faces --images photos --labels photos/labels.csv
    python -m ntensor.faces.evaluate runs/faces --data photoface --identities 12 --fitted 600

The folder OUT gets `report.md`, its pictures and `evaluation.json`; every run's folder gets its own
`evaluation.json`, a file of weights, which stands for a run, none. Runs of one configuration that
differ in their seeds are shown as mean and spread, runs of different configurations beside each
other.
"""

from __future__ import annotations

from .common.launch import launch

if __name__ == "__main__":
    launch("ntensor.faces.evaluate")

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from ntensor.faces.evaluation.materials import Shared
from ntensor.faces.evaluation.photographs import read_photographs
from ntensor.faces.evaluation.pictures import read_stored
from ntensor.faces.evaluation.report import Report
from ntensor.faces.evaluation.run import evaluate, evaluate_pictures, format_report
from ntensor.faces.evaluation.settings import Evaluation
from ntensor.faces.training.processes import choose_device
from ntensor.faces.training.runs import find_shipped, is_packed, load_run, read_configuration

from .common.command import command
from .common.errors import ConfigurationError, FacesError
from .writing.files import check_writable, write_text


def evaluate_runs(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = (),
    *,
    settings: Annotated[Evaluation, tyro.conf.arg(name="")],
    out: Path | None = None,
    plain: Path | None = None,
    intrinsic: Path | None = None,
    images: Path | None = None,
    labels: Path | None = None,
    data: Path | None = None,
) -> None:
    """Evaluates the runs in the folders `runs`, prints the measures and writes a report.

    Args:
        runs: folders that training wrote, or files of weights; default: those that come with the
            package.
        settings: sizes of the evaluation.
        out: folder of the report; default: the folder `report` in the first run, of a file of
            weights the folder `report` here.
        plain: run of a plain adversarial auto-encoder, for its code z_0.
        intrinsic: run of the network after [30].
        images: a folder of photographs that the first run is tried on too.
        labels: a CSV file with the columns file and any of identity, expression, pose, light.
        data: a data set in the format of `ntensor.faces.datasets.storage` with real normals, too.
    """
    written = evaluate_all(runs, settings, out, plain, intrinsic, images, labels, data)
    print("wrote " + ", ".join(str(path) for path in written))


def evaluate_all(
    runs: Sequence[Path],
    settings: Evaluation,
    out: Path | None = None,
    plain: Path | None = None,
    intrinsic: Path | None = None,
    images: Path | None = None,
    labels: Path | None = None,
    data: Path | None = None,
) -> list[Path]:
    """Evaluates the runs; returns the files that it wrote.

    Raises:
        FacesError: a run, an option or a file cannot be used.
    """
    runs = runs or [find_shipped()]
    if labels is not None and images is None:
        raise FacesError("labels are of photographs: wanted --images beside --labels, got none")
    if out is None:
        out = Path("report") if is_packed(runs[0]) else runs[0] / "report"
    check_runs(runs, plain, intrinsic, settings)
    baselines = [run for run in (plain, intrinsic) if run is not None]
    check_folders([*runs, *baselines], out)
    own = evaluate_own_pictures(runs[0], settings, images, labels, data)
    shared = Shared(settings)
    target = Report(out, settings)
    written = []
    for run in [*runs, *baselines]:
        measures, shown = evaluate(run, settings, shared)
        target.add(measures, shown, run in baselines)
        if not is_packed(run):
            path = run / "evaluation.json"
            write_text(path, json.dumps(measures, indent=1) + "\n")
            written.append(path)
        print(format_report(measures), end="\n\n", flush=True)
    for of_pictures, columns, name in own:
        target.add_other(of_pictures, columns, name)
    target.write(shared.of_run(runs[0]))
    return written + target.files


def check_runs(
    runs: Sequence[Path], plain: Path | None, intrinsic: Path | None, settings: Evaluation
) -> None:
    """Refuses what cannot be evaluated before anything is computed."""
    choose_device(settings.device)
    for run in runs:
        load_run(run, settings.checkpoint)
    for option, baseline in (("plain", plain), ("intrinsic", intrinsic)):
        if baseline is not None:
            network = load_run(baseline, settings.checkpoint)[1].model.network
            if network != option:
                raise FacesError(
                    f'{baseline}: --{option} wants a network "{option}", got "{network}"'
                )


def check_folders(runs: Sequence[Path], out: Path) -> None:
    """Refuses folders that the measures cannot be written into, before they are computed."""
    if out.resolve() in [run.resolve() for run in runs]:
        raise ConfigurationError(
            f"--out {out} is a run's own folder, where evaluation.json is of that run; choose "
            "another, or a folder in it"
        )
    for folder in (*(run for run in runs if not is_packed(run)), out):
        check_writable(folder)


def evaluate_own_pictures(
    run: Path, settings: Evaluation, images: Path | None, labels: Path | None, data: Path | None
) -> list[tuple[dict[str, Any], dict[str, Any], str]]:
    """Measures, sheets and their names for a user's photographs and data set."""
    evaluated = []
    size = read_configuration(run).model.image_size
    if images is not None:
        pictures, _ = read_photographs(images, labels, size)
        evaluated.append((*evaluate_pictures(run, pictures, settings), "photographs.png"))
    if data is not None:
        pictures = read_stored(str(data), settings.batch_size, size)
        evaluated.append((*evaluate_pictures(run, pictures, settings), "data.png"))
    return evaluated


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    tyro.cli(
        evaluate_runs, prog="python -m ntensor.faces.evaluate", args=arguments, description=__doc__
    )
