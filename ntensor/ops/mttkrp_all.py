"""The MTTKRP of every mode of a tensor, with the partial products that modes share.

With `P_k` the tensor contracted with the factors of the modes `k, ..., N-1`,

    P_k[r, i_0, ..., i_(k-1)] = sum over i_k ... i_(N-1) of X[i] A_k[i_k, r] ... A_(N-1)[i_(N-1), r]

the MTTKRP of mode `m` is `P_(m+1)` contracted with the factors in front of `m`, and `P_k` follows
from `P_(k+1)`. Only the longest, `P_h`, is made from the tensor; the modes from `h` on have their
own pass over it. An update of factor `m` leaves every `P_k` with `k > m` as it was: so a sweep of
alternating least squares, mode 0 first, finds in `P_(m+1)` what it needs, though all factors in
front of `m` have changed.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from ntensor import backends
from ntensor.backends._torch import version_of

from . import checks
from .dispatch import eager
from .mttkrp import checked, mttkrp, operands
from .projection import synthesis_projection
from .synthesis import synthesis

# The longest partial product is at most the tensor's size over this: it is written and read again,
# which must cost little beside a pass over the tensor.
TENSOR_OVER_PARTIAL = 8
# Sharing takes several calls where a mode by itself takes one, and its products of one factor are
# bound by memory: from this rank, and this many multiply-adds a mode on, it is faster.
LEAST_SHARED_RANK = 8
LEAST_SHARED_WORK = 1 << 25
# Up to this many columns (a slab of samples) a product with one factor is faster by the kernels
# than by BLAS.
COLUMNS_OF_A_SLAB = 64
# Bytes an element: the integers of the same bits.
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def mttkrp_all(
    tensor: Tensor,
    factors: Sequence[Tensor],
    weights: Tensor | None = None,
    *,
    backend: str | None = None,
) -> list[Tensor]:
    r"""The MTTKRP of every mode, `[mttkrp(tensor, factors, m, weights) for m in range(N)]`.

    .. math:: M_m[i, r] = w_r \sum_{i_j,\, j \neq m} X[i_0, \dots, i_m = i, \dots, i_{N-1}]
              \prod_{j \neq m} A_j[i_j, r]

    It is the gradient of :math:`\langle X, \sum_r w_r A_0[:, r] \circ \dots \circ
    A_{N-1}[:, r] \rangle` in all factors at once. Modes of a large tensor share partial products
    where these are at most an eighth of its size, so it is read fewer times than it has modes.
    For alternating least squares, where a factor changes before the next mode is taken, see
    `ntensor.MttkrpSweep`.

    Args:
        tensor (Tensor[I_0, ..., I_(N-1)]): as in `ntensor.mttkrp`.
        factors (sequence of Tensor[I_m, R]): N factors, none missing, any strides.
        weights, backend: as in `ntensor.mttkrp`.

    Returns:
        list of Tensor[I_m, R]: one per mode, contiguous, in the tensor's dtype. Differentiable any
        number of times. Equal to `ntensor.mttkrp` up to rounding: the shared products are rounded
        to the tensor's dtype.

    Raises:
        As `ntensor.mttkrp`.

    Example:
        >>> import torch, ntensor
        >>> tensor = torch.arange(6.0).reshape(2, 3)
        >>> ntensor.mttkrp_all(tensor, [torch.ones(2, 1), torch.ones(3, 1)])
        [tensor([[ 3.],
                [12.]]), tensor([[3.],
                [5.],
                [7.]])]
    """
    given = operands(tensor, factors, weights)
    if checks.overridden(given):
        taken: list[Tensor] = handle_torch_function(
            mttkrp_all, given, tensor, factors, weights, backend=backend
        )
        return taken
    tensor, matrices, weights, _ = checked("mttkrp_all", tensor, factors, weights)
    shared = shared_modes(tensor.shape, matrices[0].shape[1])
    results = []
    if shared:
        partial = _partial(tensor, matrices, shared, backend)
        while partial.dim() > 2:
            results.append(_finish(partial, matrices, backend))
            partial = _shorter(partial, matrices[partial.dim() - 2])
        results.append(_finish(partial, matrices, backend))
        results.reverse()
    results += [
        mttkrp(tensor, matrices, mode, backend=backend) for mode in range(shared, tensor.dim())
    ]
    return results if weights is None else [result * weights for result in results]


class MttkrpSweep:
    r"""`ntensor.mttkrp` with the partial products of one tensor kept for the calls that follow.

    For alternating least squares: called for mode 0, 1, ..., with each factor replaced in between,
    a sweep reads the tensor fewer times than it has modes.

    **Factors** are compared by value, bit for bit, with private copies of those that a partial
    product was made from. Whatever wrote to a factor, the result is that of its current values.
    On a GPU the comparison waits for the device.

    **The tensor** is too large to compare, so its constancy has to be stated:
    `MttkrpSweep(tensor)` states that between calls nothing writes to the tensor's values without
    its version counter being raised. Not counted are writes through `.data` or the storage, by an
    optimizer with `fused=True`, by another process, and by any other holder of the memory, such as
    one that got it through DLPack or by its address. A partial product is recomputed wherever torch
    shows a change: of the version counter (so after writes in place, also through views), of the
    storage and the place in it (`.data =`, `set_`), of shape, strides or dtype.
    `torch.utils.swap_tensors` raises for a stated tensor, since the reference to it is weak.

    A call is plain `ntensor.mttkrp` and keeps nothing where nothing was stated (`MttkrpSweep()`) or
    the tensor is another object than the stated one. The same holds for a tensor that requires
    gradients, since an optimizer may write to it; that was made in inference mode; or whose memory
    torch does not own alone: shared with numpy or another process, or passed in from outside. And
    it holds where anything is differentiated, traced, transformed or captured in a CUDA graph.

    What is kept belongs to one backend, stream and precision of matrix products. It takes at most
    about a seventh of the tensor's size, and is freed with the tensor or by `clear()`. Threads may
    share an object; simultaneous calls share no partial products.

    Args:
        tensor (Tensor or None): the tensor that is stated to be constant.

    Raises:
        TypeError: `tensor` is neither a tensor nor None.

    Example:
        >>> import torch, ntensor
        >>> tensor = torch.ones(2, 3, 40)
        >>> sweep = ntensor.MttkrpSweep(tensor)
        >>> factors = [torch.ones(extent, 1) for extent in tensor.shape]
        >>> for mode in range(3):
        ...     factors[mode] = sweep(tensor, factors, mode) / 100
        >>> factors[2][0]
        tensor([0.0691])
    """

    def __init__(self, tensor: Tensor | None = None) -> None:
        # By the state of the tensor: from the longest on, each partial product and the copies of
        # the factors that it was made from, without those of the one before. A call takes the list
        # out while it works with it.
        kept: dict[tuple[Any, ...], list[tuple[Tensor, list[Tensor]]]] = {}
        self._kept = kept
        self._tensor: weakref.ref[Tensor] | None = None
        if tensor is not None:
            checks.tensors("MttkrpSweep", ("tensor",), (tensor,))
            self._tensor = weakref.ref(tensor, lambda _: kept.clear())

    def clear(self) -> None:
        """Frees everything that is kept; the stated tensor stays the same."""
        self._kept.clear()

    def __call__(
        self,
        tensor: Tensor,
        factors: Sequence[Tensor],
        mode: int,
        weights: Tensor | None = None,
        *,
        backend: str | None = None,
    ) -> Tensor:
        """`ntensor.mttkrp(tensor, factors, mode, weights)`: the same arguments, errors and result,
        except that every factor is given, even the one at `mode`, which is not read."""
        if not self._may_keep(tensor, factors, mode, weights):
            return mttkrp(tensor, factors, mode, weights, backend=backend)
        tensor, matrices, weights, _ = checked("MttkrpSweep", tensor, factors, weights)
        shared = shared_modes(tensor.shape, matrices[0].shape[1])
        mode %= tensor.dim()
        if mode >= shared:
            return mttkrp(tensor, matrices, mode, weights, backend=backend)
        state = self._state(tensor, backend)
        partials = self._kept.pop(state, [])
        self._kept.clear()
        del partials[_unchanged(partials, matrices) :]
        if not partials:
            copies = [factor.clone() for factor in matrices[shared:]]
            partial = _partial(tensor, [*matrices[:shared], *copies], shared, backend)
            partials.append((partial, copies))
        while len(partials) < shared - mode:
            copy = matrices[shared - len(partials)].clone()
            partials.append((_shorter(partials[-1][0], copy), [copy]))
        result = _finish(partials[shared - mode - 1][0], matrices, backend)
        self._kept[state] = partials
        return result if weights is None else result * weights

    def _may_keep(self, tensor: Tensor, *others: object) -> bool:
        stated = self._tensor is not None and self._tensor() is tensor
        return stated and keepable(tensor, *others) and _vouched_for(tensor)

    def _state(self, tensor: Tensor, backend: str | None) -> tuple[Any, ...]:
        return _state(tensor, backend)


def keepable(tensor: object, factors: object, mode: object, weights: object) -> bool:
    """Whether all are plain and none is differentiated."""
    if torch.compiler.is_compiling() or not isinstance(factors, (list, tuple)):
        return False
    values = [tensor, *factors] if weights is None else [tensor, *factors, weights]
    if not isinstance(mode, int) or not all(isinstance(value, Tensor) for value in values):
        return False
    return (
        -len(factors) <= mode < len(factors)
        and eager(values)
        and not (values[0].is_cuda and torch.cuda.is_current_stream_capturing())
    )


def _vouched_for(tensor: Tensor) -> bool:
    """Whether torch owns the memory, alone, counts its changes, and no optimizer may write to it.

    Memory from outside, or shown to numpy, cannot be resized by torch. On a GPU all is "shared".
    """
    storage = tensor.untyped_storage()
    return (
        storage.resizable()
        and (tensor.is_cuda or not storage.is_shared())
        and not tensor.is_inference()
        and not tensor.requires_grad
    )


def _state(tensor: Tensor, backend: str | None) -> tuple[Any, ...]:
    """All that torch tells of the tensor's values, and how partial products are computed.

    The storage is compared as an object: another one may lie at the address of one that is gone.
    """
    storage = weakref.ref(tensor.untyped_storage())
    return (storage, version_of(tensor), *state_of(tensor, backend))


def state_of(tensor: Tensor, backend: str | None) -> tuple[Any, ...]:
    """Where the tensor's values lie, and how partial products are computed."""
    device = torch.backends.cuda if tensor.is_cuda else torch.backends.mkldnn
    return (
        tensor.data_ptr(),
        tensor.dtype,
        tensor.shape,
        tensor.stride(),
        backends.requested(backend),
        device.matmul.fp32_precision,
        torch.cuda.current_stream(tensor.device).cuda_stream if tensor.is_cuda else None,
    )


def _unchanged(partials: list[tuple[Tensor, list[Tensor]]], factors: list[Tensor]) -> int:
    """How many of the partial products, from the longest on, follow from these factors."""
    for place, (partial, copies) in enumerate(partials):
        present = factors[partial.dim() - 1 :]
        if not all(_same_bits(*pair) for pair in zip(copies, present, strict=False)):
            return place
    return len(partials)


def _same_bits(first: Tensor, second: Tensor) -> bool:
    """NaN equals itself, and 0 is not -0."""
    return torch.equal(*(each.view(_BITS[each.element_size()]) for each in (first, second)))


def shared_modes(shape: Sequence[int], rank: int) -> int:
    """How many of the leading modes share a partial product; 0 where none is worth it."""
    elements = math.prod(shape)
    if rank < LEAST_SHARED_RANK or rank * elements < LEAST_SHARED_WORK:
        return 0
    for modes in range(len(shape) - 1, 1, -1):
        if 0 < TENSOR_OVER_PARTIAL * rank * math.prod(shape[:modes]) <= elements:
            return modes
    return 0


def _partial(tensor: Tensor, factors: list[Tensor], first: int, backend: str | None) -> Tensor:
    """`P_first`, `(R, I_0, ..., I_(first-1))`."""
    leading, rank = tensor.shape[:first], factors[0].shape[1]
    extents = [*tensor.shape[first:]]
    others = [factor.T for factor in factors[first:]]
    if len(others) == 1 and rank <= COLUMNS_OF_A_SLAB:
        extents.append(1)
        others.append(tensor.new_ones(()).expand(rank, 1))
    core = tensor.reshape(math.prod(leading), *extents)
    return synthesis_projection(core, *others, backend=backend).reshape(rank, *leading)


def _shorter(partial: Tensor, factor: Tensor) -> Tensor:
    """`P_(k-1)` out of `P_k` and the factor of mode `k - 1`."""
    *leading, extent = partial.shape
    rank = leading[0]
    rows = partial.reshape(rank, math.prod(leading[1:]), extent)
    return torch.bmm(rows, factor.T.unsqueeze(-1)).reshape(leading)


def _finish(partial: Tensor, factors: list[Tensor], backend: str | None) -> Tensor:
    """The MTTKRP of mode `k - 1`, `(I_(k-1), R)`, out of `P_k`."""
    rank, *leading, extent = partial.shape
    if not leading:
        # A copy at rank 1 too, where the transpose is contiguous: the partial product may be kept.
        return partial.T.clone(memory_format=torch.contiguous_format)
    before = synthesis(*(factor.T for factor in factors[: len(leading)]), backend=backend)
    rows = partial.reshape(rank, math.prod(leading), extent)
    return torch.bmm(before.unsqueeze(1), rows).squeeze(1).T.contiguous()
