"""The reference backend: each operation's formula in plain torch, on any device.

It is the definition that every other backend is tested against: slow, without cleverness, and free
to hold `(n, K)` arrays. Half types calculate in float32 and round once.
"""

from __future__ import annotations

import torch


def why_not(operation: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """None: it serves whatever the library serves."""
    return None


def narrow(wide: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A fresh contiguous tensor, never a view, with the result rounded to `dtype`."""
    return wide.to(dtype, copy=True, memory_format=torch.contiguous_format)


def widen(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in the type to calculate in: float64 stays, all others become float32."""
    return tensor if tensor.dtype is torch.float64 else tensor.to(torch.float32)
