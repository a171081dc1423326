"""Trains a face model: `python -m ntensor.faces.train --preset tiny --out RUN`.

An existing run in RUN is continued with its own configuration. SIGINT and SIGTERM save a checkpoint
and exit with status 130 and 143. For several processes, use
`torchrun --nproc-per-node 2 -m ntensor.faces.train ...`.
"""

from __future__ import annotations

from .common.launch import launch

if __name__ == "__main__":
    launch("ntensor.faces.train")

import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ntensor.faces.training.processes import Processes, choose_device
from ntensor.faces.training.samples import open_sources, read_sizes
from ntensor.faces.training.trainer import Trainer

from . import verification
from .common.command import command
from .common.errors import ConfigurationError
from .configuration import (
    Configuration,
    find_misfits,
    fit_to_data,
    settle_face_model,
    to_json,
)
from .configuration.command_line import read_command_line


def train(configuration: Configuration, run: Path) -> str:
    """Trains or continues a run; returns `"finished"` or the name of the signal that ended it.

    Args:
        configuration (Configuration): extents of 0 are taken from the data.
        run (Path): folder of the run.

    Raises:
        FacesError: the data, the settings or the folder cannot be used.
    """
    data = settle_face_model(configuration.data, chosen=False, named=True)
    configuration = replace(configuration, data=data)
    settings = configuration.training
    device = choose_device(settings.device)
    weights = settings.verification_weights
    with Processes(device) as processes:
        training, validation = open_sources(configuration.data, configuration.model.image_size)
        wrong = find_misfits(configuration, read_sizes(training))
        if configuration.losses.verification and weights is None:
            wrong.append(
                f"losses.verification is {configuration.losses.verification}, which needs "
                "training.verification-weights (a file that python -m ntensor.faces.verification "
                "makes; --losses.verification 0 trains without)"
            )
        if wrong:
            raise ConfigurationError("; ".join(wrong))
        network = None
        if configuration.losses.verification and weights is not None:
            network = verification.load(weights)
        configuration = fit_to_data(configuration, read_sizes(training))
        if processes.leads:
            print(to_json(configuration), end="", flush=True)
        trainer = Trainer(configuration, run, training, validation, processes, network)
        return trainer.train()


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    configuration, run = read_command_line(arguments)
    outcome = train(configuration, run)
    if outcome != "finished":
        print(f"{outcome}: saved; the same command continues", file=sys.stderr)
        raise SystemExit(128 + signal.Signals.__members__.get(outcome, signal.SIGTERM))
