"""Evaluates runs on unseen identities, and writes a report.

Examples:
    python -m ntensor.faces.evaluate runs/faces
    python -m ntensor.faces.evaluate runs/full-s0 runs/full-s1 runs/full-s2 --out report
    python -m ntensor.faces.evaluate runs/full-s0 runs/no-rotation-s0 --plain runs/plain-s0
        --intrinsic runs/intrinsic-s0 --out report
    python -m ntensor.faces.evaluate runs/faces --images photos --labels photos/labels.csv
    python -m ntensor.faces.evaluate runs/faces --data photoface sets/other --identities 12
    python -m ntensor.faces.evaluate runs/faces --images photos --only

The folder OUT gets `report.md`, its pictures and `evaluation.json`. Every run's folder also gets
its own `evaluation.json`; a run may be a file of weights, which gets none. Runs that differ only in
their seeds are shown as mean and spread, other configurations side by side. All RUNS are also
measured on the photographs and data sets, with the same baselines; the table "Worlds" compares the
results with those on generated faces.
"""

from __future__ import annotations

from .common.launch import launch

if __name__ == "__main__":
    launch("ntensor.faces.evaluate")

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from ntensor.faces.evaluation.materials import Shared
from ntensor.faces.evaluation.own import OwnPictures, evaluate_own_pictures, read_own_pictures
from ntensor.faces.evaluation.photographs import open_inputs
from ntensor.faces.evaluation.report import Report
from ntensor.faces.evaluation.run import evaluate, format_report
from ntensor.faces.evaluation.settings import Evaluation
from ntensor.faces.training.processes import choose_device
from ntensor.faces.training.runs import find_shipped, is_packed, load_run

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
    data: tuple[Path, ...] = (),
    only: bool = False,
) -> None:
    """Evaluates the runs in the folders `runs`, prints the measures and writes a report.

    Args:
        runs: folders of runs, or files of weights; default: those included in the package.
        settings: settings of the evaluation.
        out: folder of the report; default: `report` in the first run's folder, or here if the
            first run is a file of weights.
        plain: run of a plain adversarial auto-encoder, for its code z_0.
        intrinsic: run of the network after [30].
        images: a folder of photographs to evaluate on as well.
        labels: a CSV file with the column file and any of identity, expression, pose, light;
            left, top, right, bottom are the face's box in pixels.
        data: data sets with normals to evaluate on as well, in the format of
            `ntensor.faces.datasets.storage`.
        only: evaluate only on the photographs and data sets, not on generated faces.
    """
    written = evaluate_all(runs, settings, out, plain, intrinsic, images, labels, data, only)
    print("wrote " + ", ".join(str(path) for path in written))


def evaluate_all(
    runs: Sequence[Path],
    settings: Evaluation,
    out: Path | None = None,
    plain: Path | None = None,
    intrinsic: Path | None = None,
    images: Path | None = None,
    labels: Path | None = None,
    data: Sequence[Path] = (),
    only: bool = False,
) -> list[Path]:
    """Evaluates the runs; returns the files written.

    Raises:
        FacesError: a run, an option or a file cannot be used.
    """
    runs = runs or [find_shipped()]
    if labels is not None and images is None:
        raise FacesError("--labels are for photographs: expected --images as well, got none")
    baselines = [run for run in (plain, intrinsic) if run is not None]
    if only and (baselines or (images is None and not data)):
        got = f"the baseline {baselines[0]}" if baselines else "neither"
        raise FacesError(f"--only: expected --images or --data, and no baseline, got {got}")
    if out is None:
        out = Path("report") if is_packed(runs[0]) else runs[0] / "report"
    check_runs(runs, plain, intrinsic, settings)
    check_folders([*runs, *baselines], out, only)
    shared = Shared(settings)
    target = Report(out, settings)
    measure_own_pictures(target, runs, shared, images, labels, data)
    if only:
        target.write(None)
        return target.files
    written = []
    for run in [*runs, *baselines]:
        measures, shown = evaluate(run, settings, shared)
        target.add(measures, shown, run in baselines)
        if not is_packed(run):
            path = run / "evaluation.json"
            write_text(path, json.dumps(measures, indent=1) + "\n")
            written.append(path)
        print(format_report(measures), end="\n\n", flush=True)
    target.write(shared.of_run(runs[0]))
    return written + target.files


def check_runs(
    runs: Sequence[Path], plain: Path | None, intrinsic: Path | None, settings: Evaluation
) -> None:
    """Refuses runs that cannot be evaluated, before anything is computed."""
    choose_device(settings.device)
    for run in runs:
        load_run(run, settings.checkpoint)
    for option, baseline in (("plain", plain), ("intrinsic", intrinsic)):
        if baseline is not None:
            network = load_run(baseline, settings.checkpoint)[1].model.network
            if network != option:
                raise FacesError(
                    f'{baseline}: --{option} needs a network "{option}", got "{network}"'
                )


def check_folders(runs: Sequence[Path], out: Path, only: bool) -> None:
    """Refuses folders that are not writable, before anything is computed.

    With `only`, nothing is written to the folders of the runs.
    """
    if out.resolve() in [run.resolve() for run in runs]:
        raise ConfigurationError(
            f"--out {out} is the folder of a run, which has its own evaluation.json; choose "
            "another, or a folder inside it"
        )
    written = [] if only else [run for run in runs if not is_packed(run)]
    for folder in (*written, out):
        check_writable(folder)


def measure_own_pictures(
    target: Report,
    runs: Sequence[Path],
    shared: Shared,
    images: Path | None,
    labels: Path | None,
    data: Sequence[Path],
) -> None:
    """Adds the measures of the runs on a user's photographs and data sets to the report."""
    if images is None and not data:
        return
    settings = shared.settings
    device = choose_device(settings.device)
    read: dict[int, list[OwnPictures]] = {}
    for run in runs:
        model, configuration, step = load_run(run, settings.checkpoint)
        materials = shared.of(configuration)
        if id(materials) not in read:
            inputs = None if images is None else open_inputs(run, settings)
            read[id(materials)] = read_own_pictures(materials, images, labels, list(data), inputs)
        for own in read[id(materials)]:
            measures, sheets = evaluate_own_pictures(
                model.to(device), configuration, (run, step), own, device
            )
            target.add_other(measures, sheets)
            print(format_report(measures), end="\n\n", flush=True)


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    tyro.cli(
        evaluate_runs, prog="python -m ntensor.faces.evaluate", args=arguments, description=__doc__
    )
