"""Packs a trained network for shipping, and unpacks it: `python -m ntensor.faces.weights`.

A file of weights can be used wherever a command takes the folder of a run. It holds the network,
its configuration, and the triangles and landmarks of the network's shape, but no face model.

Example: python -m ntensor.faces.weights pack runs/robust --out robust.safetensors --most 12

Example: python -m ntensor.faces.weights unpack robust.safetensors --out runs/unpacked
"""

from __future__ import annotations

from ntensor.faces.common.launch import launch

if __name__ == "__main__":
    launch("ntensor.faces.weights.__main__")

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from ntensor.faces.common.command import command
from ntensor.faces.common.errors import ConfigurationError, OutputError
from ntensor.faces.configuration import to_json
from ntensor.faces.configuration.entries import Positive, Within, check_arguments
from ntensor.faces.reading import read_text
from ntensor.faces.training import checkpoint as checkpoints
from ntensor.faces.training import packed
from ntensor.faces.training.runs import SURFACE, open_run
from ntensor.faces.writing.files import check_writable, replacing, write_text

from .packing import format_figures, pack_run

Named = Annotated[Path, tyro.conf.Positional]
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
_MOST_NOTICE = 100_000


def pack(
    run: Named,
    out: Path,
    most: Annotated[float, Within(0, 2000, above=True)] = 12.0,
    precision: Literal["float16", "bfloat16"] = "float16",
    pictures: Positive = 768,
    data: str | None = None,
    validation: str | None = None,
    checkpoint: Literal["best", "last"] = "best",
    trained_by: str = "",
    notice: Path | None = None,
) -> None:
    """Packs the network of a run into one file, with a JSON file that reports the change.

    Args:
        run: folder of the run.
        out: file to write, with the suffix .safetensors.
        most: size limit, megabytes.
        precision: of the numbers; float16 is more accurate, bfloat16 has a larger range.
        pictures: number of training pictures that decide what is kept, and of validation pictures
            on which the change is measured, if there are as many.
        data: training set to use instead of the run's own; requires validation.
        validation: validation set to use instead of the run's own.
        checkpoint: checkpoint of the run.
        trained_by: the command that trained the run, for the JSON file.
        notice: a text that must accompany the training data, for the JSON file.
    """
    check_arguments(pack, locals())
    beside = out.with_suffix(".json")
    check_names(out, beside)
    notices = [] if notice is None else [read_text(notice, _MOST_NOTICE)]
    trained = open_run(run, checkpoint)
    faces = trained.configuration.data
    if data is not None or validation is not None:
        faces = dataclasses.replace(faces, source=data or "", validation_source=validation)
    figures = pack_run(trained, faces, out, int(1e6 * most), DTYPES[precision], pictures)
    written = open_run(out)
    described = {
        "licence": "MIT",
        "notices": notices,
        "trained_by": trained_by,
        "step": trained.step,
        "packed": {"most": most, "precision": precision, **figures},
        "configuration": dataclasses.asdict(written.configuration),
    }
    write_text(beside, json.dumps(described, indent=1) + "\n")
    print(format_figures(figures))
    print(f"{out}: {figures['bytes'] / 1e6:.2f} MB; {beside} describes it")


def check_names(out: Path, beside: Path) -> None:
    """Refuses a wrong suffix or an existing file, before anything is computed."""
    if out.suffix != packed.SUFFIX:
        raise ConfigurationError(f"{out}: expected a name that ends in {packed.SUFFIX}")
    for path in (out, beside):
        if path.exists():
            raise OutputError(f"{path}: already exists; remove it, or choose another --out")
    check_writable(out.parent)


def unpack(file: Named, out: Path) -> None:
    """Unpacks a file of weights to the folder of a run, in float32.

    Args:
        file: a file written by pack.
        out: folder of the run.
    """
    trained = open_run(file)
    if checkpoints.saved_steps(out):
        raise OutputError(f"{out}: already holds a run; choose another --out")
    check_writable(out)
    write_text(out / checkpoints.CONFIGURATION, to_json(trained.configuration))
    if trained.surface is not None:
        from safetensors.torch import save

        content = save(packed.list_surface(trained.surface), {"faces": trained.surface.source})
        with replacing(out / SURFACE) as unfinished:
            unfinished.write_bytes(content)
    tensors = {"model": trained.model.state_dict()}
    written = checkpoints.save(out, trained.step, tensors, {"step": trained.step})
    print(f"{written}: the network of {file}")


COMMANDS: dict[str, Callable[..., None]] = {"pack": pack, "unpack": unpack}


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    tyro.extras.subcommand_cli_from_dict(
        COMMANDS, prog="python -m ntensor.faces.weights", description=__doc__, args=arguments
    )
