"""NumPy arrays as tensors in the same memory, and where that is worth a call."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ntensor.backends.native.library import limit_threads
from ntensor.ops import MttkrpSweep
from ntensor.ops.mttkrp_all import keepable, state_of

_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))
# Elements that NumPy writes and the kernels do not, from which on they are faster: of a Khatri-Rao
# product, and of one that is multiplied by a tensor at once. Measured.
FORMED, FORMED_FOR_MTTKRP = 10000, 22000
# Multiply-adds up to which a call runs in one thread. NumPy's BLAS has threads of its own, which
# wait for work in a loop after each product, so those of a short call would wait for them.
ALONE = 1 << 26


def is_array(value: Any) -> bool:
    """Whether it is exactly an array of NumPy; subclasses have a behaviour of their own."""
    return type(value) is np.ndarray


def is_plain(value: Any) -> bool:
    """Whether it is an array of float32 or float64 in the machine's byte order that may be written
    to: of others torch warns."""
    return is_array(value) and value.dtype in _DTYPES and value.flags.writeable


def as_tensor(value: Any) -> Any:
    """A tensor in the memory of an array; what is no array, as it is.

    An array that torch cannot describe, of negative strides, is copied.
    """
    if not is_array(value):
        return value
    for stride in value.strides:
        if stride < 0 or stride % value.itemsize:
            return torch.from_numpy(value.copy())
    return torch.from_numpy(value)


def as_array(tensor: Tensor) -> Any:
    return tensor.detach().numpy()


def threads_of(value: Any, multiply_adds: int) -> AbstractContextManager[None]:
    """Those that a call for a tensor or an array of NumPy takes."""
    alone = is_array(value) and multiply_adds < ALONE
    return limit_threads(1) if alone else nullcontext()


def worth_mttkrp(tensor: Any, factor: Any, mode: int) -> bool:
    """Whether TensorLy's product of matrices forms enough to be slower; factor: any other than that
    of the mode.

    It forms the Khatri-Rao product of the other factors, and copies the tensor where its unfolding
    is no view: along a mode in the middle.
    """
    if tensor.ndim < 3 or not tensor.size or not is_array(factor) or factor.ndim != 2:
        return False
    product = tensor.size // tensor.shape[mode] * factor.shape[1]
    copied = tensor.size if 0 < mode < tensor.ndim - 1 else 0
    return bool(product + copied // 16 >= FORMED_FOR_MTTKRP)


def worth_product(matrices: Sequence[Any]) -> bool:
    """Whether a Khatri-Rao product is large enough."""
    elements = 1
    for matrix in matrices:
        if type(matrix) is not np.ndarray or matrix.ndim != 2:
            return False
        elements *= len(matrix)
    return elements * matrices[0].shape[1] >= FORMED


class ArraySweep(MttkrpSweep):
    """`ntensor.MttkrpSweep` over the memory of one array, which each call describes anew.

    That nothing writes to the array between the calls is for the caller to know: nobody counts the
    writes of NumPy.
    """

    def __init__(self, array: Any) -> None:
        super().__init__()
        kept = self._kept
        self.array = weakref.ref(array, lambda _: kept.clear())

    def _may_keep(self, tensor: Tensor, *others: object) -> bool:
        return keepable(tensor, *others)

    def _state(self, tensor: Tensor, backend: str | None) -> tuple[Any, ...]:
        return state_of(tensor, backend)
