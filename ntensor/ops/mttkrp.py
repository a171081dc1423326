"""The matricised tensor times Khatri-Rao product of tensor decompositions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from ntensor import backends

from . import checks, direct
from .dispatch import PLAIN_TYPES, differentiated, eager
from .mode_gradients import rows_of
from .projection import PROJECTION_FACTOR_GRADS, SYNTHESIS_PROJECTION


def mttkrp(
    tensor: Tensor,
    factors: Sequence[Tensor | None],
    mode: int,
    weights: Tensor | None = None,
    *,
    backend: str | None = None,
) -> Tensor:
    r"""The unfolding of a tensor along one mode times the Khatri-Rao product of the other factors.

    .. math:: M[i, r] = w_r \sum_{i_j,\, j \neq mode} X[i_0, \dots, i_{mode} = i, \dots]
              \prod_{j \neq mode} A_j[i_j, r]

    The convention is that of TensorLy's `unfolding_dot_khatri_rao`. Mode 0 is the projection by a
    core (equation 4 of the paper), any other mode the gradient of one of its factors (equations 16
    and 25), so no unfolding is copied. Where autograd records the call, a kernel may make a copy
    with the mode in front, of at most 32 MiB, if that is cheaper.

    Args:
        tensor (Tensor[I_0, ..., I_(N-1)]): contiguous, N at least 1; float32, float64, bfloat16 or
            float16.
        factors (sequence of Tensor[I_m, R]): N entries, any strides, of the tensor's dtype. The one
            at `mode` is ignored and may be None. With N = 1 no factor is left: `R` is then that of
            `weights`, else that of the ignored factor, else 1.
        mode (int): from -N to N - 1.
        weights (Tensor[R] or None): scales the columns of the result.
        backend (str or None): `"native"`, `"triton"`, `"reference"`; None: as in
            `ntensor.use_backend`, or automatic.

    Returns:
        Tensor[I_mode, R]: contiguous, in the tensor's dtype. Differentiable in the tensor, the
        other factors and the weights any number of times.

    Raises:
        TypeError: no tensor or mode, or a dtype that is unsupported or differs between operands.
        ValueError: a wrong number of factors, a mode out of range, a wrong rank or extent, two
            devices, a tensor that is not contiguous.
        RuntimeError: the requested backend cannot serve; the message gives the reason.

    Example:
        >>> import torch, ntensor
        >>> tensor = torch.arange(6.0).reshape(2, 3)
        >>> ntensor.mttkrp(tensor, [None, torch.ones(3, 1)], mode=0)
        tensor([[ 3.],
                [12.]])
    """
    if mode is None:
        raise TypeError("mttkrp: mode must be an int, got NoneType")
    if backend is None and not torch.compiler.is_compiling():
        found = directly(tensor, factors, mode, weights)
        if found is not None:
            return found
    given = operands(tensor, factors, weights)
    if checks.overridden(given):
        taken: Tensor = handle_torch_function(
            mttkrp, given, tensor, factors, mode, weights, backend=backend
        )
        return taken
    tensor, others, weights, place = checked("mttkrp", tensor, factors, weights, mode)
    assert place is not None
    backend = backends.requested(backend)
    checks.factor_count("mttkrp", max(1, len(others)))
    result = at_once(tensor, others, place, backend)
    if result is None:
        if not others:
            # The missing factor is one of extent 1: the weights or ones.
            ignored = factors[place]
            if weights is None:
                weights = tensor.new_ones(1 if ignored is None else ignored.shape[1])
            tensor, others, weights = tensor.unsqueeze(-1), [weights[None]], None
        rows = rows_of_mode(tensor, [factor.T for factor in others], place, backend)
        result = rows.T.contiguous()
    return result if weights is None else result * weights


def operands(tensor: Any, factors: Any, weights: Any) -> tuple[Any, ...]:
    """All that may be tensors among the arguments."""
    listed = factors if isinstance(factors, (list, tuple)) else ()
    return (tensor, *listed, weights)


def directly(
    tensor: Tensor, factors: Sequence[Tensor | None], mode: int, weights: Tensor | None
) -> Tensor | None:
    """The shortest way; None where it is not open."""
    if type(mode) is not int or type(factors) not in (list, tuple):
        return None
    place = mode if mode >= 0 else mode + len(factors)
    if not 0 <= place < len(factors):
        return None
    found = direct.mttkrp(tensor, [*factors[:place], *factors[place + 1 :]], place)
    if found is None or weights is None:
        return found
    return found * weights if _fit(weights, factors[place - 1]) else None


def _fit(weights: Tensor, factor: Tensor | None) -> bool:
    """Whether the weights are plain and of the factor's rank, dtype and device."""
    return (
        type(weights) in PLAIN_TYPES
        and isinstance(factor, Tensor)
        and weights.dtype is factor.dtype
        and weights.device == factor.device
        and factor.dim() == 2
        and weights.shape == factor.shape[1:]
    )


def at_once(tensor: Tensor, others: list[Tensor], mode: int, backend: str | None) -> Tensor | None:
    """By a backend that has the MTTKRP as it is, for plain tensors that nobody differentiates."""
    if len(others) < 2 or torch.compiler.is_compiling() or not eager((tensor, *others)):
        return None
    serve = backends.shortcut(
        "projection", "mttkrp", "synthesis_projection", tensor.device, tensor.dtype, backend
    )
    return None if serve is None else serve(tensor, others, mode)


def rows_of_mode(tensor: Tensor, others: list[Tensor], mode: int, backend: str | None) -> Tensor:
    """`(R, I_mode)`, for matrices `(R, I_m)` of the other modes."""
    shape = tensor.shape
    if mode and (shape[mode] == 1 or math.prod(shape[:mode]) == 1):
        tensor, mode = tensor.movedim(mode, 0), 0  # as it lies in memory
    elif mode and shape[0] == 1:
        # The leading factor is the upstream gradient, and better a longer one.
        longer = next(place for place, extent in enumerate(shape) if extent != 1)
        tensor = tensor.movedim(longer, 0)
        others = [others[longer], *others[:longer], *others[longer + 1 :]]
    if mode == 0:
        result: Tensor = SYNTHESIS_PROJECTION((tensor, *others), backend)
        return result
    if not torch.compiler.is_compiling() and not differentiated((tensor, *others)):
        found = rows_of(tensor, others, mode, backend)
        if found is not None:
            return found
    # The slot of `mode` is not read.
    upstream, before, after = others[0], others[1:mode], others[mode:]
    unread = tensor.new_zeros(()).expand(upstream.shape[0], tensor.shape[mode])
    inner = [*before, unread, *after]
    needs = [place == mode - 1 for place in range(len(inner))]
    joined: Tensor = PROJECTION_FACTOR_GRADS((tensor, upstream, None, *inner), needs, backend)
    return joined


def in_memory_order(tensor: Tensor) -> tuple[Tensor, list[int]]:
    """The tensor, contiguous, and which of its modes its own are: a dense one with its modes in
    the order of memory; another one copied."""
    places = list(range(tensor.dim()))
    if tensor.is_contiguous():
        return tensor, places
    strides = tensor.stride()
    turned: list[int] = []
    for place in places:  # sorted by hand: torch.compile sorts no strides that it does not know
        behind = len(turned)
        while behind and strides[turned[behind - 1]] < strides[place]:
            behind -= 1
        turned.insert(behind, place)
    permuted = tensor.permute(turned)
    return (permuted, turned) if permuted.is_contiguous() else (tensor.contiguous(), places)


def checked(
    operation: str,
    tensor: Tensor,
    factors: Sequence[Tensor | None],
    weights: Tensor | None,
    mode: int | None = None,
) -> tuple[Tensor, list[Tensor], Tensor | None, int | None]:
    """Tensor, factors, weights, and the mode counted from 0, cast where autocast says so.

    The factors are all, or all but the one at `mode`.
    """
    checks.tensors(operation, ("tensor",), (tensor,))
    order = tensor.dim()
    if order == 0:
        checks.shape(operation, "tensor", "at least 1 dimension", tensor)
    if not hasattr(factors, "__len__"):
        raise TypeError(f"{operation}: factors must be a sequence, got {type(factors).__name__}")
    if len(factors) != order:
        raise ValueError(
            f"{operation}: factors must have {order} entries, one a mode, got {len(factors)}"
        )
    if mode is not None:
        if not isinstance(mode, int):
            raise TypeError(f"{operation}: mode must be an int, got {type(mode).__name__}")
        if not -order <= mode < order:
            raise ValueError(f"{operation}: mode must be from {-order} to {order - 1}, got {mode}")
        mode %= order

    places = [place for place in range(order) if place != mode]
    names = ["tensor", *(f"factors[{place}]" for place in places)]
    values = [tensor, *(factors[place] for place in places)]
    if weights is not None:
        names.append("weights")
        values.append(weights)
    checks.tensors(operation, names, values)
    cast: list[Tensor] = list(checks.autocast(values))  # type: ignore[arg-type]
    checks.alike(operation, names, cast)
    tensor = cast[0]
    others = cast[1 : 1 + len(places)]
    for place, factor in zip(places, others, strict=True):
        if factor.dim() != 2 or factor.shape[0] != tensor.shape[place]:
            wanted = f"shape ({tensor.shape[place]}, R), (I_{place}, R)"
            checks.shape(operation, f"factors[{place}]", wanted, factor)
        if factor.shape[1] != others[0].shape[1]:
            wanted = f"the rank of {names[1]}, R = {others[0].shape[1]}"
            checks.shape(operation, f"factors[{place}]", wanted, factor)
    checks.contiguous(operation, "tensor", tensor)
    if weights is not None:
        weights = cast[-1]
        rank = others[0].shape[1] if others else weights.numel()
        if tuple(weights.shape) != (rank,):
            checks.shape(operation, "weights", f"shape ({rank},), (R,)", weights)
    return tensor, others, weights, mode
