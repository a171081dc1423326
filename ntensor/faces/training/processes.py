"""The processes of a run: one, or several started by `torchrun`."""

from __future__ import annotations

import os
from types import TracebackType

import torch
from torch import Tensor
from torch import distributed as dist

from ntensor.faces.common.errors import ConfigurationError
from ntensor.faces.configuration.entries import Device, check_entry


def choose_device(name: str) -> torch.device:
    """The device of this process: `"auto"` is the GPU of its local rank if there is one.

    Raises:
        ConfigurationError: there is no such device.
    """
    check_entry("device", name, Device)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ConfigurationError(f"device {name}: torch finds no GPU")
        if (device.index or 0) >= torch.cuda.device_count():
            raise ConfigurationError(f"device {name}: torch finds {torch.cuda.device_count()} GPUs")
        if ":" not in name:
            device = torch.device("cuda", _read_number("LOCAL_RANK", 0))
    return device


def _read_number(name: str, default: int) -> int:
    """A number that `torchrun` sets in the environment."""
    value = os.environ.get(name) or str(default)
    if not value.isdecimal():
        raise ConfigurationError(f"{name} in the environment must be a number, got {value!r}")
    return int(value)


class Processes:
    """Joins the process group that `torchrun` describes in the environment, if there is one.

    Attributes:
        rank: of this process.
        world: number of processes.

    Example:
        >>> import torch
        >>> from ntensor.faces.training.processes import Processes
        >>> with Processes(torch.device("cpu")) as processes:
        ...     processes.rank, processes.world
        (0, 1)
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.world = _read_number("WORLD_SIZE", 1)
        self.rank = _read_number("RANK", 0) if self.world > 1 else 0
        self.owner = False

    def __enter__(self) -> Processes:
        if self.world > 1 and not dist.is_initialized():
            if self.device.type == "cuda":
                torch.cuda.set_device(self.device)
            dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
            self.owner = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.owner:
            dist.destroy_process_group()

    @property
    def leads(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def mean(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """The mean of each value over all processes."""
        if self.world == 1 or not values:
            return values
        stacked = torch.stack(list(values.values()))
        dist.all_reduce(stacked)
        return dict(zip(values, (stacked / self.world).unbind(), strict=True))

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.world == 1:
            return flag
        raised = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(raised, op=dist.ReduceOp.MAX)
        return bool(raised)

    def wait(self) -> None:
        """Waits for all processes."""
        if self.world > 1:
            dist.barrier()

    def share(self, model: torch.nn.Module) -> torch.nn.Module:
        """Wraps the model so that gradients are averaged; with one process, it is unchanged."""
        if self.world == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        return torch.nn.parallel.DistributedDataParallel(
            model, device_ids=devices, find_unused_parameters=True, broadcast_buffers=False
        )
