"""What products of torch do better than the kernels.

The projection to one output of two factors, recorded by autograd:

    x[n] = sum_j t[n, j] z_2[n, j],   t = z_1 C,   dz_2 = dx t

The kernels keep no array of the batch for backward, so they form `t` once more there: four products
of matrices in a step instead of three. Keeping `t`, which is no larger than a factor, saves one.

The synthesis of two factors of which one has a single column: it scales the rows of the other.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ntensor import backends
from ntensor.backends._torch import (
    count_dispatch_modes,
    count_function_modes,
    is_transformed,
    tracing_state,
)
from ntensor.backends.native import plans

from .dispatch import PLAIN_TYPES, differentiated, plain

# Fewer samples and multiply-adds are faster by the kernels in spite of that.
LEAST_SAMPLES, LEAST_MULTIPLY_ADDS = 48, 1 << 18


def _is_watched() -> bool:
    """Whether a mode or a tracer would see what is asked of the operands."""
    return bool(count_function_modes() or count_dispatch_modes() or tracing_state())


def _are_forced() -> bool:
    return backends.forced.value is not None or plans.forced() is not None


def scaled_rows(first: Any, second: Any) -> Tensor | None:
    """The synthesis of matrices `(n, 1)` and `(n, k)`, or the other way round, on a CPU; None where
    something looks on or anything does not fit.

    Half types are rounded once, as by the kernels, so they are not recorded: their gradients would
    be rounded before they are added up. Code under `torch.compile` must not come here.
    """
    if _is_watched() or type(first) not in PLAIN_TYPES or type(second) not in PLAIN_TYPES:
        return None
    if first.dim() != 2 or second.dim() != 2 or 1 not in (first.shape[1], second.shape[1]):
        return None
    dtype = first.dtype
    if second.dtype is not dtype or first.shape[0] != second.shape[0]:
        return None
    if dtype not in backends.DTYPES or not (first.is_cpu and second.is_cpu) or _are_forced():
        return None
    operands = (first, second)
    if is_transformed() or not plain(operands):
        return None
    if dtype not in (torch.float32, torch.float64) and differentiated(operands):
        return None
    return (first * second).contiguous()


def one_output(core: Any, first: Any, second: Any, most_dimensions: int = 64) -> Tensor | None:
    """`(..., 1)` for a core `(1, k_1, k_2)` and factors `(..., k_1)` and `(..., k_2)` that autograd
    records all three, in float32 or float64 on a CPU; None where the kernels are the better way,
    something looks on or anything does not fit.

    The derivatives of every order are torch's own. Code under `torch.compile` must not come here.
    """
    if _is_watched():
        return None
    if type(core) not in PLAIN_TYPES:
        return None
    shape, dtype = core.shape, core.dtype
    if len(shape) != 3 or shape[0] != 1:
        return None
    if type(first) not in PLAIN_TYPES or type(second) not in PLAIN_TYPES:
        return None
    if not 0 < first.dim() <= most_dimensions:
        return None
    if not (torch.is_grad_enabled() and core.requires_grad):
        return None
    if not (first.requires_grad and second.requires_grad):
        return None
    leading = first.shape[:-1]
    if (*leading, shape[1]) != first.shape or (*leading, shape[2]) != second.shape:
        return None
    n = leading.numel()
    if n < LEAST_SAMPLES or n * core.numel() < LEAST_MULTIPLY_ADDS:
        return None
    if dtype not in (torch.float32, torch.float64) or not core.is_cpu:
        return None
    if not (first.dtype is second.dtype is dtype and first.is_cpu and second.is_cpu):
        return None
    if _are_forced() or is_transformed() or not plain((core, first, second)):
        return None
    matrix: Tensor = core[0]
    if shape[1] < shape[2]:
        first, second, matrix = second, first, matrix.T
    x: Tensor = ((first @ matrix) * second).sum(-1, keepdim=True)
    return x
