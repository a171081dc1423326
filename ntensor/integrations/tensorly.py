"""TensorLy's MTTKRP and Khatri-Rao product by `ntensor`, behind TensorLy's own dispatch.

    import tensorly
    from ntensor.integrations import tensorly as by_ntensor

    tensorly.set_backend("pytorch")  # or "numpy"
    by_ntensor.register()
    tensorly.decomposition.parafac(tensor, rank=32)     # any CP, unchanged
    by_ntensor.unregister()

or, for one block, `with by_ntensor.register(): ...`. Everything in TensorLy that calls
`tensorly.tenalg.unfolding_dot_khatri_rao` or `khatri_rao` follows: CP, non-negative CP,
constrained and randomised CP, CP regression, PARAFAC2.
"""

from __future__ import annotations

import functools
import math
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from types import FrameType, TracebackType
from typing import Any

import tensorly
import torch
from torch import Tensor

from ntensor.backends import DTYPES
from ntensor.ops import MttkrpSweep, mttkrp, synthesis
from ntensor.ops.dispatch import PLAIN_TYPES
from ntensor.ops.mttkrp import directly as mttkrp_directly
from ntensor.ops.mttkrp_all import shared_modes

from . import arrays
from .arrays import ArraySweep, as_array, as_tensor, is_array

# Marks the functions of this module among those that TensorLy dispatches to.
_MARK = "_of_ntensor"


class Registration:
    """What `register` returns; as a context manager it ends the registration with its block."""

    def __init__(self, began: bool) -> None:
        self._began = began

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._began:
            unregister()


def register(*, share_partials: bool = True) -> Registration:
    """Registers `ntensor` for `unfolding_dot_khatri_rao` and `khatri_rao` of TensorLy.

    Served are plain torch tensors on a CPU or CUDA device, of one supported dtype and of fitting
    shapes; the tensor in any dense layout, without a copy of an unfolding. So are NumPy arrays of
    float32 and float64, in their own memory, where that is faster than TensorLy's products by
    BLAS. The rest (masks, sparse or complex tensors, one remaining matrix, read-only arrays, other
    backends, wrong arguments) goes to the function that TensorLy had, so that its errors stay as
    they are. All of TensorLy's tenalg backends are registered, for all threads. Where it is
    registered already, nothing changes.

    Results of tensors are differentiable. A Khatri-Rao product `(K, R)` comes as the transpose of a
    contiguous `(R, K)`.

    Args:
        share_partials (bool): calls for the modes of one contiguous tensor share partial products
            (`ntensor.MttkrpSweep`) where a running function of `tensorly.decomposition` makes
            them, one sweep over the modes, in rising order. No code but TensorLy's runs between
            these calls. So whatever was written to the tensor, and however, before a
            decomposition, after it or in its callback, is seen; only another thread or process
            must not write to the tensor meanwhile. Factors are compared by value. Nothing is
            shared between calls of `tensorly.tenalg.unfolding_dot_khatri_rao` by other code.

    Returns:
        Registration: a context manager that unregisters at the end of its block, if this call has
        registered.

    Example:
        >>> import tensorly, torch
        >>> from ntensor.integrations.tensorly import register
        >>> tensorly.set_backend("pytorch")
        >>> factors = [torch.ones(k, 1) for k in (2, 3, 4)]
        >>> with register():
        ...     tensorly.tenalg.unfolding_dot_khatri_rao(torch.ones(2, 3, 4), (None, factors), 0)
        tensor([[12.],
                [12.]])
    """
    began = False
    sweeps = _Sweeps() if share_partials else None
    for backend in _tenalg_backends():
        for name, make in (("unfolding_dot_khatri_rao", _mttkrp_of), ("khatri_rao", _product_of)):
            theirs = getattr(backend, name)
            if hasattr(theirs, _MARK):
                continue
            ours = make(theirs, sweeps)
            setattr(ours, _MARK, True)
            backend.register_method(name, ours)
            began = True
    return Registration(began)


def unregister() -> None:
    """Puts back TensorLy's own functions; without effect where `ntensor` is not registered."""
    for backend in _tenalg_backends():
        for name in ("unfolding_dot_khatri_rao", "khatri_rao"):
            current = getattr(backend, name)
            if hasattr(current, _MARK):
                backend.register_method(name, current.__wrapped__)


def _tenalg_backends() -> Iterator[Any]:
    """An instance of each; its methods belong to its class, and so to every instance."""
    current = tensorly.tenalg.current_backend()
    for name in tensorly.tenalg.available_backend_names:
        same = name == current.backend_name
        yield current if same else tensorly.tenalg.load_backend(name)


class _Sweeps(threading.local):
    """For each thread, the sweep over the modes that a decomposition is at, between two calls."""

    def __init__(self) -> None:
        # The result of the last call, held by its caller alone, the mode, and what is kept.
        self._last: tuple[weakref.ref[Any], int, MttkrpSweep] | None = None

    def mttkrp(self, given: Any, factors: Sequence[Any], mode: int, weights: Any) -> Any:
        caller = _decomposition()
        shared = shared_modes(given.shape, factors[mode - 1].shape[1])
        # Whether a later mode of this sweep shares a product with this one.
        more = caller is not None and mode < shared - 1
        sweep = self._begun_by(caller, mode)
        if isinstance(sweep, ArraySweep) and sweep.array() is not given:
            sweep = None
        if sweep is None and more and is_array(given):
            sweep = ArraySweep(given)
        elif sweep is None:
            sweep = MttkrpSweep(given if more else None)
        tensor, *matrices = map(as_tensor, (given, *factors))
        result = sweep(tensor, matrices, mode, as_tensor(weights))
        result = as_array(result) if is_array(given) else result
        self._last = (weakref.ref(result), mode, sweep) if more else None
        return result

    def _begun_by(self, caller: FrameType | None, mode: int) -> MttkrpSweep | None:
        """The sweep, if its last call was of an earlier mode and made by this running function.

        Of that the proof is the result of the call, which only its caller has among its variables.
        """
        if caller is None or self._last is None:
            return None
        held, before, sweep = self._last
        result = held()
        if result is None or mode <= before:
            return None
        return sweep if any(value is result for value in caller.f_locals.values()) else None


def _decomposition() -> FrameType | None:
    """The running function of `tensorly.decomposition` that asks; None where other code does."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") in (__name__, "tensorly.backend"):
        frame = frame.f_back
    if frame is None:
        return None
    name = str(frame.f_globals.get("__name__"))
    return frame if name.startswith("tensorly.decomposition.") else None


def _mttkrp_of(theirs: Callable[..., Any], sweeps: _Sweeps | None) -> Callable[..., Any]:
    @functools.wraps(theirs)
    def unfolding_dot_khatri_rao(tensor: Any, cp_tensor: Any, mode: Any) -> Any:
        weights, factors = cp_tensor
        # The commonest reason first: a small call costs no more than this question.
        if is_array(tensor) and not arrays.worth_mttkrp(tensor, factors, mode):
            return theirs(tensor, cp_tensor, mode)
        found = _directly(tensor, factors, mode, weights, sweeps is not None)
        if found is not None:
            return found
        if not _is_mttkrp(tensor, weights, factors, mode):
            return theirs(tensor, cp_tensor, mode)
        with arrays.threads_of(tensor, math.prod(tensor.shape) * factors[mode - 1].shape[1]):
            if (
                sweeps is not None
                and shared_modes(tensor.shape, factors[mode - 1].shape[1])
                and not torch.compiler.is_compiling()
                and _is_contiguous(tensor)
                and _fits(tensor, factors, mode)
            ):
                return sweeps.mttkrp(tensor, factors, mode, weights)
            # The modes in the order in which they lie in memory, the slowest first.
            order = _memory_order(tensor)
            others = [None if place == mode else as_tensor(factors[place]) for place in order]
            permuted = as_tensor(tensor).permute(order)
            result = mttkrp(permuted, others, order.index(mode), as_tensor(weights))
            return as_array(result) if is_array(tensor) else result

    return unfolding_dot_khatri_rao


def _directly(tensor: Any, factors: Any, mode: Any, weights: Any, shares: bool) -> Any:
    """The shortest way, of plain operands whose modes share nothing; None where it is not open."""
    if type(factors) not in (list, tuple) or type(mode) is not int or not 0 <= mode < len(factors):
        return None
    if len(factors) == 2 and weights is not None:
        return None  # TensorLy's own does not apply the weights to a single matrix.
    factor = factors[mode - 1]
    if is_array(tensor):
        alike, serve = is_array(factor), arrays.mttkrp_directly
    else:
        alike, serve = type(tensor) in PLAIN_TYPES and type(factor) in PLAIN_TYPES, mttkrp_directly
    if not alike or factor.ndim != 2 or torch.compiler.is_compiling():
        return None
    if shares and shared_modes(tensor.shape, factor.shape[1]):
        return None
    return serve(tensor, factors, mode, weights)


def _product_of(theirs: Callable[..., Any], _: _Sweeps | None) -> Callable[..., Any]:
    @functools.wraps(theirs)
    def khatri_rao(
        matrices: Any, weights: Any = None, skip_matrix: Any = None, mask: Any = None
    ) -> Any:
        left = _left(matrices, skip_matrix)
        if mask is not None or not _is_product(left, weights):
            return theirs(matrices, weights=weights, skip_matrix=skip_matrix, mask=mask)
        factors = [as_tensor(matrix).T for matrix in left]
        if weights is not None:
            factors.insert(0, as_tensor(weights).unsqueeze(1))
        elements = math.prod(factor.shape[1] for factor in factors) * len(factors[0])
        with arrays.threads_of(left[0], elements):
            result = synthesis(*factors).T
        return as_array(result) if is_array(left[0]) else result

    return khatri_rao


def _left(matrices: Any, skip_matrix: Any) -> list[Any]:
    """The matrices without the one to skip; none where the arguments are of other types."""
    if not isinstance(matrices, (list, tuple)):
        return []
    if skip_matrix is not None and not isinstance(skip_matrix, int):
        return []
    return [matrix for place, matrix in enumerate(matrices) if place != skip_matrix]


def _is_mttkrp(tensor: Any, weights: Any, factors: Any, mode: Any) -> bool:
    """Whether `ntensor.mttkrp` gives what TensorLy's own function would."""
    if not isinstance(factors, (list, tuple)) or type(mode) is not int:
        return False
    if not _is_plain(tensor) or tensor.ndim < 2 or len(factors) != tensor.ndim:
        return False
    if not 0 <= mode < tensor.ndim:
        return False
    if not _is_dense(tensor):
        return False
    others = [place for place in range(tensor.ndim) if place != mode]
    if weights is not None and len(others) == 1:
        return False  # TensorLy's own does not apply the weights to a single matrix.
    given = [tensor, *(factors[place] for place in others)]
    if not _alike(given if weights is None else [*given, weights]):
        return False
    rank = given[1].shape[-1] if given[1].ndim else 0
    if weights is not None and tuple(weights.shape) != (rank,):
        return False
    return all(tuple(factors[place].shape) == (tensor.shape[place], rank) for place in others)


def _fits(tensor: Tensor, factors: Sequence[Any], mode: int) -> bool:
    """Whether the factor at the mode, which is not read, is one: then a sweep may note it."""
    rank = factors[mode - 1].shape[1]
    factor = factors[mode]
    return _alike([tensor, factor]) and tuple(factor.shape) == (tensor.shape[mode], rank)


def _is_product(matrices: Sequence[Any], weights: Any) -> bool:
    """Whether `ntensor.synthesis` gives what TensorLy's own Khatri-Rao product would."""
    if len(matrices) < 2:
        return False
    if is_array(matrices[0]) and not arrays.worth_product(matrices):
        return False
    if not _alike(matrices if weights is None else [*matrices, weights]):
        return False
    if any(matrix.ndim != 2 for matrix in matrices):
        return False
    rank = matrices[0].shape[1]
    return all(matrix.shape[1] == rank for matrix in matrices) and (
        weights is None or tuple(weights.shape) == (rank,)
    )


def _is_plain(value: Any) -> bool:
    return arrays.is_plain(value) or (
        type(value) in PLAIN_TYPES
        and value.layout is torch.strided
        and value.dtype in DTYPES
        and value.device.type in ("cpu", "cuda")
    )


def _alike(values: Sequence[Any]) -> bool:
    """Plain tensors of one dtype on one device, or arrays of one dtype."""
    if is_array(values[0]):
        return all(arrays.is_plain(value) and value.dtype == values[0].dtype for value in values)
    return all(map(_is_plain, values)) and all(
        value.dtype is values[0].dtype and value.device == values[0].device for value in values
    )


def _is_contiguous(tensor: Any) -> bool:
    return bool(tensor.flags.c_contiguous if is_array(tensor) else tensor.is_contiguous())


def _is_dense(tensor: Any) -> bool:
    if _is_contiguous(tensor):
        return True
    order = _memory_order(tensor)
    return _is_contiguous(tensor.transpose(order) if is_array(tensor) else tensor.permute(order))


def _memory_order(tensor: Any) -> list[int]:
    """The dimensions by falling stride; of equal ones the order stays."""
    places = range(tensor.ndim)
    if _is_contiguous(tensor):
        return list(places)
    strides = tensor.strides if is_array(tensor) else tensor.stride()
    return sorted(places, key=strides.__getitem__, reverse=True)
