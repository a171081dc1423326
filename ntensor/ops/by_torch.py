"""What products of torch do better than the kernels.

The projection to one output of two factors, recorded by autograd:

    x[n] = sum_j t[n, j] z_2[n, j],   t = z_1 C,   dz_2 = dx t

The kernels keep no array of the batch for backward, so they form `t` once more there: four products
of matrices in a step instead of three. Keeping `t`, which is no larger than a factor, saves one.

The synthesis of two factors of which one has a single column: it scales the rows of the other.

Which calls these are says `csrc/cpu/direct_by_torch.cpp`. Code under `torch.compile` must not come
here.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from . import direct


def scaled_rows(first: Any, second: Any) -> Tensor | None:
    """The synthesis of plain matrices `(n, 1)` and `(n, k)`, or the other way round, on a CPU; None
    where something looks on or anything does not fit."""
    if not direct.scales_rows(first, second):
        return None
    y: Tensor = (first * second).contiguous()
    return y


def one_output(core: Any, first: Any, second: Any, most_dimensions: int = 64) -> Tensor | None:
    """`(..., 1)` for a core `(1, k_1, k_2)` and factors `(..., k_1)` and `(..., k_2)` that autograd
    records all three, in float32 or float64 on a CPU; None where the kernels are the better way,
    something looks on or anything does not fit.

    The derivatives of every order are torch's own.
    """
    if not direct.is_one_output(core, first, second, most_dimensions):
        return None
    matrix: Tensor = core.squeeze(0)
    if core.shape[1] < core.shape[2]:
        first, second, matrix = second, first, matrix.T
    x: Tensor = ((first @ matrix) * second).sum(-1, keepdim=True)
    return x
