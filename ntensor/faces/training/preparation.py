"""What comes before the first update: settings that go together, networks in their place."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import ntensor
from ntensor.faces.configuration import Configuration
from ntensor.faces.errors import CheckpointError, ConfigurationError
from ntensor.faces.reading import check_tensors


def place(module: nn.Module, device: torch.device, layout: torch.memory_format) -> None:
    """Moves a network to the device, and its convolutions to the layout.

    `Module.to(memory_format=...)` would permute every tensor of four dimensions, a core among them,
    which must be contiguous.
    """
    module.to(device)
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            part.to(memory_format=layout)  # type: ignore[call-overload]


def load_weights(module: nn.Module, tensors: dict[str, Tensor], what: str) -> None:
    """Puts saved tensors into a module.

    Raises:
        CheckpointError: they are of another network.
    """
    try:
        check_tensors(tensors, module.state_dict())
    except ValueError as error:
        raise CheckpointError(
            f"the {what} of the checkpoint is not of this configuration: {error}"
        ) from error
    module.load_state_dict(tensors)


def check(configuration: Configuration, world: int, device: torch.device) -> None:
    """Refuses settings that do not go together.

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
    try:
        factor = torch.ones(1, 1, device=device)
        ntensor.synthesis(factor, factor, backend=settings.backend)
    except RuntimeError as error:
        raise ConfigurationError(f"training.backend: {error}") from error


def accumulates(configuration: Configuration, world: int) -> bool:
    """Whether backward adds into the cores' gradients.

    Raises:
        ConfigurationError: it is asked for and does not work, with the reason.
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
