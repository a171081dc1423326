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

import torch
from torch import Tensor

from .dispatch import plain
from .mttkrp import checked, mttkrp
from .projection import synthesis_projection
from .synthesis import synthesis

# The longest partial product is at most the tensor's size over this: it is written and read again,
# which must cost little beside a pass over the tensor.
TENSOR_OVER_PARTIAL = 8
# Up to this many columns (a slab of samples) a product with one factor is faster by the kernels
# than by BLAS.
COLUMNS_OF_A_SLAB = 64


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
    A_{N-1}[:, r] \rangle` in all factors at once. Modes share partial products where these are at
    most an eighth of the tensor's size, so fewer passes over the tensor are needed than it has
    modes. For alternating least squares, where a factor changes before the next mode is taken, see
    `ntensor.MttkrpSweep`.

    Args:
        tensor (Tensor[I_0, ..., I_(N-1)]): as in `ntensor.mttkrp`.
        factors (sequence of Tensor[I_m, R]): N of them, none missing, any strides.
        weights, backend: as in `ntensor.mttkrp`.

    Returns:
        list of Tensor[I_m, R]: one a mode, contiguous, in the tensor's dtype. Differentiable, any
        number of times. Equal to `ntensor.mttkrp` but for rounding: the shared products are
        rounded to the tensor's dtype.

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
    tensor, matrices, weights, _ = checked("mttkrp_all", tensor, factors, weights)
    shared = shared_modes(tensor.shape, matrices[0].shape[1])
    results = []
    if shared:
        partial = _partial(tensor, matrices, shared, backend)
        while partial.dim() > 2:
            results.append(_finish(partial, matrices, backend))
            partial = _shorter(partial, matrices)
        results.append(_finish(partial, matrices, backend))
        results.reverse()
    results += [
        mttkrp(tensor, matrices, mode, backend=backend) for mode in range(shared, tensor.dim())
    ]
    return results if weights is None else [result * weights for result in results]


class MttkrpSweep:
    r"""`ntensor.mttkrp` that keeps partial products for the calls that follow.

    For alternating least squares: called for mode 0, 1, ... of one tensor while each factor is
    replaced in between, a sweep needs fewer passes over the tensor than it has modes. A partial
    product is used again only for the same tensor and the same factors: the same objects, unchanged
    since by their version counters, as autograd checks it. Changes through `.data`, which autograd
    does not see, are not seen here either.

    Where anything is differentiated, traced, transformed, in inference mode or shares its memory
    with a numpy array, a call is `ntensor.mttkrp` and nothing is kept.

    The tensor is referred to weakly; what is kept, at most about a seventh of its size, goes with
    it, or by `clear()`. An object is for one thread.

    Example:
        >>> import torch, ntensor
        >>> tensor, sweep = torch.ones(2, 3, 40), ntensor.MttkrpSweep()
        >>> factors = [torch.ones(extent, 1) for extent in tensor.shape]
        >>> for mode in range(3):
        ...     factors[mode] = sweep(tensor, factors, mode) / 100
        >>> factors[2][0]
        tensor([0.0691])
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forgets the tensor and everything that is kept."""
        self._tensor: weakref.ref[Tensor] | None = None
        self._version = -1
        # k: P_k, and what it was made from, the factors k ... N-1 with their versions.
        self._partials: dict[int, tuple[Tensor, list[tuple[Tensor, int]]]] = {}

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
        but that every factor is given, also the one at `mode`, which is not read."""
        if not _keepable(tensor, factors, mode, weights):
            return mttkrp(tensor, factors, mode, weights, backend=backend)
        tensor, matrices, weights, _ = checked("MttkrpSweep", tensor, factors, weights)
        shared = shared_modes(tensor.shape, matrices[0].shape[1])
        mode %= tensor.dim()
        if mode >= shared:
            return mttkrp(tensor, matrices, mode, weights, backend=backend)
        self._attend(tensor, matrices)
        last = mode + 1
        at = min((k for k in self._partials if k >= last), default=shared)
        if at not in self._partials:
            self._keep(_partial(tensor, matrices, shared, backend), matrices)
        while at > last:
            self._keep(_shorter(self._partials[at][0], matrices), matrices)
            at -= 1
        result = _finish(self._partials[last][0], matrices, backend)
        return result if weights is None else result * weights

    def _keep(self, partial: Tensor, factors: list[Tensor]) -> None:
        first = partial.dim() - 1
        made_from = [(factor, factor._version) for factor in factors[first:]]
        self._partials[first] = partial, made_from

    def _attend(self, tensor: Tensor, factors: list[Tensor]) -> None:
        """Drops what was made from another tensor or from other factors."""
        known = None if self._tensor is None else self._tensor()
        if known is not tensor or self._version != tensor._version:
            self.clear()
            own = weakref.ref(self)
            self._tensor = weakref.ref(tensor, lambda gone: _forget(own, gone))
            self._version = tensor._version
        for first, (_, made_from) in list(self._partials.items()):
            if len(made_from) != len(factors) - first or any(
                factor is not was or factor._version != version
                for factor, (was, version) in zip(factors[first:], made_from, strict=False)
            ):
                del self._partials[first]


def _forget(sweep: weakref.ref[MttkrpSweep], gone: weakref.ref[Tensor]) -> None:
    alive = sweep()
    if alive is not None and alive._tensor is gone:
        alive.clear()


def _keepable(tensor: object, factors: object, mode: object, weights: object) -> bool:
    """Whether all are plain tensors whose changes torch counts, and none is differentiated."""
    if torch.compiler.is_compiling() or not isinstance(factors, (list, tuple)):
        return False
    values = [tensor, *factors] if weights is None else [tensor, *factors, weights]
    if not isinstance(mode, int) or not all(isinstance(value, Tensor) for value in values):
        return False
    return (
        -len(factors) <= mode < len(factors)
        and plain(values)
        and not any(value.is_inference() for value in values)
        # Memory that numpy shares, and may change uncounted, cannot be resized by torch.
        and all(value.untyped_storage().resizable() for value in values)
        and not (torch.is_grad_enabled() and any(value.requires_grad for value in values))
    )


def shared_modes(shape: Sequence[int], rank: int) -> int:
    """How many of the leading modes share a partial product; 0 where none is worth it."""
    elements = math.prod(shape)
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


def _shorter(partial: Tensor, factors: list[Tensor]) -> Tensor:
    """`P_(k-1)` out of `P_k`."""
    *leading, extent = partial.shape
    rank = leading[0]
    rows = partial.reshape(rank, math.prod(leading[1:]), extent)
    column = factors[len(leading) - 1].T.unsqueeze(-1)
    return torch.bmm(rows, column).reshape(leading)


def _finish(partial: Tensor, factors: list[Tensor], backend: str | None) -> Tensor:
    """The MTTKRP of mode `k - 1`, `(I_(k-1), R)`, out of `P_k`."""
    rank, *leading, extent = partial.shape
    if not leading:
        return partial.T.contiguous()
    before = synthesis(*(factor.T for factor in factors[: len(leading)]), backend=backend)
    rows = partial.reshape(rank, math.prod(leading), extent)
    return torch.bmm(before.unsqueeze(1), rows).squeeze(1).T.contiguous()
