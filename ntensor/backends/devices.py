"""The GPU that a call runs on."""

from __future__ import annotations

import contextlib
import functools
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

_NOTHING = contextlib.nullcontext()


@functools.cache
def _has_several() -> bool:
    return torch.cuda.device_count() > 1


def on_device_of(tensor: Tensor) -> AbstractContextManager[Any]:
    """Inside, the device of the tensor is the current one; where there is one GPU it always is.

    torch's own guard goes back to a device that was not used without making a context there.
    """
    return torch.cuda.device_of(tensor) if _has_several() else _NOTHING
