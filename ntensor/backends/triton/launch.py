"""Launching a kernel: device, precision of products, types."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from ntensor.backends._torch import allows_tf32
from ntensor.backends.devices import on_device_of

from .blocks import Capability

# What the sizes of blocks are made for where kernels run in Triton's interpreter.
_INTERPRETED: Capability = (9, 0)

_TYPES = {torch.float32: tl.float32, torch.float64: tl.float64}


# Of the device that a rehearsal on tensors without memory stands for.
_rehearsed: ContextVar[Capability] = ContextVar("rehearsed", default=_INTERPRETED)


@contextmanager
def rehearsal(capability: Capability) -> Iterator[None]:
    """Inside, what is calculated on tensors of the device "meta" is planned for this capability."""
    token = _rehearsed.set(capability)
    try:
        yield
    finally:
        _rehearsed.reset(token)


def capability(device: torch.device) -> Capability:
    found = _of_device(device)
    return _rehearsed.get() if found is None else found


@functools.cache
def _of_device(device: torch.device) -> Capability | None:
    """None where a rehearsal says which."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)
    return None if device.type == "meta" else _INTERPRETED


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The type to calculate in."""
    return torch.float64 if dtype is torch.float64 else torch.float32


def precision(dtype: torch.dtype, device: torch.device) -> str:
    """How `kernels.matrix.multiply` multiplies.

    float32 is split in three products of TF32, which together have its accuracy, unless
    `torch.backends.cuda.matmul` allows plain TF32. Both round numbers within 2^-12 of the largest
    float32 to infinity.
    """
    fixed = _fixed_precision(dtype, device)
    if fixed is not None:
        return fixed
    return "tf32" if allows_tf32() else "tf32x3"


@functools.cache
def _fixed_precision(dtype: torch.dtype, device: torch.device) -> str | None:
    """None where it is PyTorch's switch that decides."""
    if device.type == "cpu":
        return "widened" if dtype is torch.bfloat16 else "ieee"
    return None if dtype is torch.float32 else "ieee"


class Launch(NamedTuple):
    """All of a launch but the kernel's arguments: it can be kept for the next call of its sizes."""

    kernel: Any
    grid: tuple[int, ...]
    constants: dict[str, Any]


def prepared(
    kernel: Any, grid: tuple[int, ...], *, ACC: torch.dtype, warps: int, stages: int = 2,
    **constants: Any,
) -> Launch:  # fmt: skip
    """The constants are the kernel's; ACC is the type to calculate in."""
    options = {"ACC": _TYPES[ACC], "num_warps": warps, "num_stages": stages}
    return Launch(kernel, grid, {**constants, **options})


def launch(made: Launch, first: Tensor, *others: Tensor | int) -> None:
    """Runs a kernel on the device of its first argument, in that device's current stream.

    On tensors without memory nothing runs.
    """
    if first.is_meta:
        return
    kernel, grid, constants = made
    with on_device_of(first):
        kernel.run(first, *others, grid=grid, warmup=False, **constants)
