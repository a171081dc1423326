"""Reads trained networks: from the folder of a run, or a file of ready-made weights."""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from pathlib import Path

import torch

from ntensor.faces.common.errors import CheckpointError
from ntensor.faces.configuration import Configuration, from_file
from ntensor.faces.morphable.face_model import FaceModel
from ntensor.faces.networks.model import Model, build
from ntensor.faces.reading import check_tensors, read_tensors

from . import checkpoint, packed
from .packed import Trained

# The triangles and landmarks of the shape, in the folder of an unpacked run.
SURFACE = "surface.safetensors"


def find_shipped() -> Path:
    """The file of the weights included in the package.

    Raises:
        CheckpointError: it does not exist.
    """
    path = shipped_path()
    if not path.is_file():
        raise CheckpointError(
            f"no run was named, and there are no ready-made weights ({path}); train a run with "
            "python -m ntensor.faces.train --preset tiny --out build/tiny, and name its folder"
        )
    return path


def shipped_path() -> Path:
    """The path of the weights included in the package, whether or not it exists."""
    return Path(str(importlib.resources.files("ntensor.faces") / "weights" / "robust.safetensors"))


def split_run(words: Sequence[str]) -> tuple[Path, list[str]]:
    """Splits off a run named by the first word; without one, the shipped weights are used.

    A run is a folder, or a file with the suffix of weights.
    """
    if words and (Path(words[0]).is_dir() or words[0].endswith(packed.SUFFIX)):
        return Path(words[0]), list(words[1:])
    return find_shipped(), list(words)


def is_packed(run: Path) -> bool:
    """Whether a run is a file of weights instead of a folder."""
    return run.suffix == packed.SUFFIX and not run.is_dir()


def read_configuration(run: Path) -> Configuration:
    """Reads the configuration of a run.

    Raises:
        FacesError: it cannot be read.
    """
    return (
        open_run(run).configuration if is_packed(run) else from_file(run / checkpoint.CONFIGURATION)
    )


def load_run(run: Path, which: str = "best") -> tuple[Model, Configuration, int]:
    """Reads the network of a run, its configuration, and the update of the checkpoint.

    Args:
        run (Path): a run's folder, or a file of weights.
        which (str): `"best"` or `"last"`; ignored for a file.

    Raises:
        CheckpointError: there is no checkpoint, or it is damaged.
    """
    trained = open_run(run, which)
    return trained.model, trained.configuration, trained.step


def open_run(run: Path, which: str = "best") -> Trained:
    """As `load_run`, with the surface of the network's shape if the run stores one.

    Raises:
        CheckpointError: as for `load_run`.
    """
    if is_packed(run):
        try:
            return packed.read_packed(run)
        except ValueError as error:
            raise CheckpointError(f"{run}: not ready-made weights ({error})") from error
    while True:
        steps = checkpoint.saved_steps(run)
        if not steps:
            raise CheckpointError(f"{run}: not the folder of a run, it has no checkpoint")
        marked = checkpoint.best(run)
        step = marked[0] if which == "best" and marked is not None else steps[-1]
        try:
            tensors, _ = checkpoint.load(checkpoint.folder_of(run, step))
            break
        except CheckpointError:
            # Training may have removed it, after another checkpoint became the best.
            if step not in steps or checkpoint.folder_of(run, step).exists():
                raise
    configuration = from_file(run / checkpoint.CONFIGURATION)
    # On "meta", since sizes in a damaged configuration could request too much memory.
    with torch.device("meta"):
        model = build(configuration.model)
    try:
        check_tensors(tensors["model"], model.state_dict())
    except ValueError as error:
        raise CheckpointError(f"{run}: weights and configuration.json differ: {error}") from error
    model.load_state_dict(tensors["model"], assign=True)
    return Trained(model.eval(), configuration, step, _read_surface(run / SURFACE, model))


def _read_surface(path: Path, model: Model) -> FaceModel | None:
    if not path.exists():
        return None
    try:
        tensors, notes = read_tensors(path)
        return packed.read_surface(tensors, model, notes.get("faces", "unknown"))
    except ValueError as error:
        raise CheckpointError(f"{path}: not the surface of the run's shape ({error})") from error
