"""The reference backend: each operation's formula in plain torch, on any device.

It is the definition that every other backend is tested against: slow, without cleverness, and free
to hold `(n, K)` arrays. Half types calculate in float32 and round once.
"""

from __future__ import annotations

import torch

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def why_not(operation: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """The reason why this backend cannot serve, or None."""
    return None if dtype in DTYPES else f"{dtype} is not one of {', '.join(map(str, DTYPES))}"


def narrow(wide: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A fresh contiguous tensor, never a view, with the result rounded to `dtype`."""
    return wide.to(dtype, copy=True, memory_format=torch.contiguous_format)


def widen(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in the type to calculate in: float64 stays, all others become float32."""
    return tensor if tensor.dtype is torch.float64 else tensor.to(torch.float32)
