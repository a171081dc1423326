"""Before the first update: checks of the settings, placement of the networks."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn

import ntensor
from ntensor.faces.common.errors import CheckpointError, ConfigurationError
from ntensor.faces.configuration import Configuration, find_differences, from_file
from ntensor.faces.reading import check_tensors

from . import checkpoint


def place(module: nn.Module, device: torch.device) -> None:
    """Moves a network to the device, and its convolutions to the channels-last layout.

    `Module.to(memory_format=...)` would permute every four-dimensional tensor, including cores,
    which must be contiguous.
    """
    module.to(device)
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def load_weights(module: nn.Module, tensors: dict[str, Tensor], what: str) -> None:
    """Loads saved tensors into a module.

    Raises:
        CheckpointError: they belong to another network.
    """
    try:
        check_tensors(tensors, module.state_dict())
    except ValueError as error:
        raise CheckpointError(
            f"the {what} of the checkpoint does not match this configuration: {error}"
        ) from error
    module.load_state_dict(tensors)


def check_settings(configuration: Configuration, world: int, device: torch.device) -> None:
    """Refuses incompatible settings.

    Raises:
        ConfigurationError: with the reason.
    """
    settings = configuration.training
    accumulates(configuration, world)
    if settings.batch_size % (world * settings.accumulation):
        raise ConfigurationError(
            f"processes * accumulation ({world} * {settings.accumulation}) must divide "
            f"batch_size ({settings.batch_size})"
        )
    part = settings.batch_size // (world * settings.accumulation)
    if configuration.losses.of_pairs and part % 2:
        raise ConfigurationError(
            "losses.pairs and losses.swap need an even number of samples in every part of a batch, "
            f"so that pairs stay together; processes * accumulation ({world} * "
            f"{settings.accumulation}) leave {part} of batch_size {settings.batch_size}"
        )
    if configuration.losses.swap and settings.compile:
        raise ConfigurationError(
            "losses.swap does not work with compile: the number of swapped pictures differs from "
            "batch to batch"
        )
    try:
        factor = torch.ones(1, 1, device=device)
        ntensor.synthesis(factor, factor, backend=settings.backend)
    except RuntimeError as error:
        raise ConfigurationError(f"training.backend: {error}") from error


def check_name(run: Path) -> None:
    """Refuses a folder that TensorBoard would not find, since it expects names in UTF-8.

    Raises:
        ConfigurationError: the name is not UTF-8, or Python does not decode it as such.
    """
    try:
        readable = str(run).encode() == os.fsencode(run)
    except UnicodeEncodeError:
        readable = False
    if not readable:
        raise ConfigurationError(
            f"{run}: TensorBoard needs a folder whose name is UTF-8; if it is, but Python does "
            "not decode it as such, set the environment variable PYTHONUTF8=1"
        )


def check_standing(run: Path, configuration: Configuration) -> None:
    """Refuses to continue a run with a configuration that would make it learn something else.

    Raises:
        ConfigurationError: entries differ, all of which are named; or the run's own configuration
            cannot be read.
    """
    path = run / checkpoint.CONFIGURATION
    steps = checkpoint.saved_steps(run)
    if not path.exists():
        if steps:
            raise ConfigurationError(
                f"{run}: holds checkpoints without the {path.name} that describes them; "
                "choose another --out"
            )
        return
    wrong = find_differences(from_file(path), configuration)
    if steps and wrong:
        raise ConfigurationError(
            f"{run}: holds a run of another configuration, at update {steps[-1]}: "
            f"{'; '.join(wrong)}; choose another --out, or continue it with its own values by "
            f"--config {path}"
        )


def accumulates(configuration: Configuration, world: int) -> bool:
    """Whether the backward pass adds into the cores' gradients.

    Raises:
        ConfigurationError: it is requested but does not work, with the reason.
    """
    settings = configuration.training
    against = {
        f"{world} processes": world > 1,
        "compile": settings.compile,
        f"precision {settings.precision}": settings.precision != "float32",
    }
    reasons = [reason for reason, holds in against.items() if holds]
    wanted = configuration.model.accumulate_core_grad
    if wanted and reasons:
        raise ConfigurationError(f"accumulate_core_grad does not work with {', '.join(reasons)}")
    return not reasons if wanted is None else wanted
