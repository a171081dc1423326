"""NumPy arrays as tensors in the same memory, and where that is worth a call."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ntensor.backends.native.library import MULTIPLY_ADDS_A_THREAD, limit_threads
from ntensor.ops import MttkrpSweep
from ntensor.ops.mttkrp import directly
from ntensor.ops.mttkrp_all import keepable, state_of

_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))
# Elements that NumPy writes and the kernels do not, from which on they are faster: of a Khatri-Rao
# product, and of one that is multiplied by a tensor at once. Measured in whole decompositions:
# between NumPy's functions a call of another library takes three times as long as in a row of them.
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


def mttkrp_directly(tensor: Any, factors: Sequence[Any], mode: int, weights: Any) -> Any:
    """`ntensor.ops.mttkrp.directly` of arrays."""
    given = [*factors[:mode], tensor if weights is None else weights, *factors[mode + 1 :]]
    for value in (tensor, *given):
        if not is_array(value) or not value.flags.writeable:
            return None
    try:
        whole, *tensors = map(torch.from_numpy, (tensor, *given))
    except (TypeError, ValueError):  # a dtype, or strides, that torch does not have
        return None
    by = None if weights is None else tensors[mode]
    multiply_adds = tensor.size * factors[mode - 1].shape[1]
    if multiply_adds < MULTIPLY_ADDS_A_THREAD:  # in one thread
        result = directly(whole, tensors, mode, by)
    else:
        with threads_of(tensor, multiply_adds):
            result = directly(whole, tensors, mode, by)
    return None if result is None else as_array(result)


def worth_mttkrp(tensor: Any, factors: Any, mode: Any) -> bool:
    """Whether TensorLy's product of matrices forms enough to be slower, for an array of any factors
    and mode.

    It forms the Khatri-Rao product of the other factors, and copies the tensor where its unfolding
    is no view: along a mode in the middle.
    """
    ndim = tensor.ndim
    if ndim < 3 or type(mode) is not int or not 0 <= mode < ndim:
        return False
    if type(factors) not in (list, tuple) or len(factors) != ndim or not tensor.size:
        return False
    factor = factors[mode - 1]
    if not is_array(factor) or factor.ndim != 2:
        return False
    product = tensor.size // tensor.shape[mode] * factor.shape[1]
    copied = tensor.size if 0 < mode < ndim - 1 else 0
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
