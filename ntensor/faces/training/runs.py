"""Reading the folder that training wrote."""

from __future__ import annotations

from pathlib import Path

import torch

from ntensor.faces.common.errors import CheckpointError
from ntensor.faces.configuration import Configuration, from_file
from ntensor.faces.networks.model import Model, build
from ntensor.faces.reading import check_tensors

from . import checkpoint


def load_run(run: Path, which: str = "best") -> tuple[Model, Configuration, int]:
    """The network of a run, its configuration, and the update of the checkpoint.

    Args:
        run (Path): folder that training wrote.
        which (str): `"best"` or `"last"`.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    while True:
        steps = checkpoint.saved_steps(run)
        if not steps:
            raise CheckpointError(f"{run}: wanted the folder of a run, got no checkpoint in it")
        marked = checkpoint.best(run)
        step = marked[0] if which == "best" and marked is not None else steps[-1]
        try:
            tensors, _ = checkpoint.load(checkpoint.folder_of(run, step))
            break
        except CheckpointError:
            # Training removes old checkpoints, and names another one the best before.
            if step not in steps or checkpoint.folder_of(run, step).exists():
                raise
    configuration = from_file(run / checkpoint.CONFIGURATION)
    # Without memory, which sizes in a damaged configuration could ask too much of.
    with torch.device("meta"):
        model = build(configuration.model)
    try:
        check_tensors(tensors["model"], model.state_dict())
    except ValueError as error:
        raise CheckpointError(f"{run}: weights and configuration.json differ: {error}") from error
    model.load_state_dict(tensors["model"], assign=True)
    return model.eval(), configuration, step
