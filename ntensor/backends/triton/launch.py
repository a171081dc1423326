"""Launching a kernel: device, precision of products, types."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

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
    if device.type == "cuda":
        return _of_device(device)
    return _rehearsed.get() if device.type == "meta" else _INTERPRETED


@functools.cache
def _of_device(device: torch.device) -> Capability:
    return torch.cuda.get_device_capability(device)


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The type to calculate in."""
    return torch.float64 if dtype is torch.float64 else torch.float32


def precision(dtype: torch.dtype, device: torch.device) -> str:
    """How `kernels.matrix.multiply` multiplies.

    float32 is split in three products of TF32, which together have its accuracy, unless
    `torch.backends.cuda.matmul` allows plain TF32. Both round numbers within 2^-12 of the largest
    float32 to infinity.
    """
    if device.type == "cpu":
        return "widened" if dtype is torch.bfloat16 else "ieee"
    if dtype is not torch.float32:
        return "ieee"
    return "tf32" if allows_tf32() else "tf32x3"


def launch(
    kernel: Any, grid: tuple[int, ...], first: Tensor, *others: Tensor | int, warps: int,
    stages: int = 2, **constants: Any,
) -> None:  # fmt: skip
    """Runs a kernel on the device of its first argument, in that device's current stream.

    On tensors without memory nothing runs.
    """
    if first.is_meta:
        return
    constants["ACC"] = _TYPES[constants["ACC"]]
    constants["num_warps"], constants["num_stages"] = warps, stages
    with on_device_of(first):
        kernel[grid](first, *others, **constants)
