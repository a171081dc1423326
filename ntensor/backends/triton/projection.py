"""Projection, with and without the mean output, and its gradients.

The factors form a pair of products, `outer` `(n, L)` and `inner` `(n, P)` with `L P = K`. In the
mean output the constant `1/k_1` takes the place of the leading factor, so only `outer` is another
one. A single factor is the inner product beside an outer one of extent 1.

Several cores, the groups, lie behind one another, as do the samples of each; one launch serves them
all.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import blocks
from .kernels import projection as kernels
from .kernels.projection_core_grad import core_grad
from .kernels.projection_factor_grads import factor_grads
from .launch import Launch, accumulator, capability, launch, precision, prepared
from .synthesis import add_parts, features, joined, write_feature_grads

# The factors of one output: the outer product, in the type to calculate in or the factors' own,
# and the inner one.
Pair = tuple[Tensor, Tensor]


def synthesis_projection(core: Tensor, factors: list[Tensor]) -> Tensor:
    return _project(core, factors, False)[0]


def synthesis_projection_with_mean(core: Tensor, factors: list[Tensor]) -> tuple[Tensor, Tensor]:
    x, x_mean = _project(core, factors, True)
    assert x_mean is not None
    return x, x_mean


def projection_factor_grads(
    core: Tensor,
    grad: Tensor | None,
    grad_mean: Tensor | None,
    factors: list[Tensor],
    needs: list[bool],
    groups: int = 1,
) -> Tensor:
    out, parts = joined(factors, needs)
    if out.numel() * core.numel() == 0:
        return out.zero_()
    if len(factors) == 1:
        if grad is None:
            return out.zero_()
        pair = _alone(factors[0])
        d_inner = _pair_factor_grads(core, grad, None, pair, None, False, True, groups)[2]
        assert d_inner is not None
        return out.copy_(d_inner)
    split = blocks.modes(_extents(factors)).outer
    need_outer, need_inner = any(needs[:split]), any(needs[split:])
    d_outer, d_outer_mean, d_inner = _pair_factor_grads(
        core,
        grad,
        grad_mean,
        (features(factors[:split]), features(factors[split:], core.dtype)),
        None if grad_mean is None else _mean_outer(factors[:split]),
        need_outer,
        need_inner,
        groups,
    )
    if d_inner is not None:
        write_feature_grads(d_inner, factors[split:], parts[split:])
    if need_outer:
        _write_outer_grads(d_outer, d_outer_mean, factors[:split], parts[:split])
    return out


def projection_core_grad(
    grad: Tensor | None, grad_mean: Tensor | None, factors: list[Tensor]
) -> Tensor:
    given: Any = grad_mean if grad is None else grad
    out = given.new_empty((given.shape[1], *_extents(factors)))
    _write_core_grad(out, grad, grad_mean, factors, False)
    return out


def projection_core_grad_(
    core_grad: Tensor, grad: Tensor | None, grad_mean: Tensor | None, factors: list[Tensor]
) -> None:
    _write_core_grad(core_grad, grad, grad_mean, factors, True)


def grouped_projection(core: Tensor, factors: list[Tensor], groups: int) -> Tensor:
    return _project(core, factors, False, groups)[0]


def grouped_projection_core_grad(grad: Tensor, factors: list[Tensor], groups: int) -> Tensor:
    out = grad.new_empty((groups * grad.shape[1], *_extents(factors)))
    _write_core_grad(out, grad, None, factors, False, groups)
    return out


def grouped_projection_factor_grads(
    core: Tensor, grad: Tensor, factors: list[Tensor], groups: int, needs: list[bool]
) -> Tensor:
    return projection_factor_grads(core, grad, None, factors, needs, groups)


def _project(
    core: Tensor, factors: list[Tensor], mean: bool, groups: int = 1
) -> tuple[Tensor, Tensor | None]:
    (k_x, *extents), rows = core.shape, factors[0].shape[0]
    if rows * core.numel() == 0:
        shape = rows, k_x // groups
        return core.new_zeros(shape), core.new_zeros(shape) if mean else None
    if len(factors) == 1:
        x, _ = _project_pair(core, _alone(factors[0]), None, True, groups)
        if not mean:
            return x, None
        return x, _project_pair(core, _mean_alone(factors[0]), None, True, groups)[0]
    split, hoisted = blocks.modes(tuple(extents))
    inner = features(factors[split:], core.dtype if hoisted else None)
    mean_outer = _mean_outer(factors[:split]) if mean else None
    return _project_pair(core, (features(factors[:split]), inner), mean_outer, hoisted, groups)


def _project_pair(
    core: Tensor, pair: Pair, mean_outer: Tensor | None, hoisted: bool, groups: int
) -> tuple[Tensor, Tensor | None]:
    outer, inner = pair
    (rows, L), P = outer.shape, inner.shape[1]
    n, k_x = rows // groups, core.shape[0] // groups
    mean, dtype, device = mean_outer is not None, core.dtype, core.device
    products, card = precision(dtype, device), capability(device)
    plan = _plan(n, k_x, L, P, hoisted, mean, dtype, products, card, groups)
    x = torch.empty(*plan.shape, dtype=plan.dtype, device=device)
    x_mean = torch.empty_like(x) if mean else x
    other = outer if mean_outer is None else mean_outer
    launch(
        plan.launch, core, outer, other, inner, x, x_mean, n, k_x, L, P,
        *outer.stride(), *other.stride(), *inner.stride(), plan.steps_a_split,
    )  # fmt: skip
    if plan.splits == 1:
        return x, x_mean if mean else None
    total, total_mean = add_parts(x), add_parts(x_mean) if mean else None
    if plan.dtype is dtype:
        return total, total_mean
    return total.to(dtype), None if total_mean is None else total_mean.to(dtype)


class Plan(NamedTuple):
    """Of a projection: the parts of its sum and their steps; shape and type of each output, a part
    a split, of which a single one is the result itself."""

    launch: Launch
    splits: int
    steps_a_split: int
    shape: tuple[int, ...]
    dtype: torch.dtype


@functools.lru_cache(maxsize=1024)
def _plan(
    n: int,
    k_x: int,
    L: int,
    P: int,
    hoisted: bool,
    mean: bool,
    dtype: torch.dtype,
    products: str,
    card: blocks.Capability,
    groups: int,
) -> Plan:
    """Of sums of `L` times as many steps as `P` takes, where the outer product is hoisted."""
    rounds, extent = (L, P) if hoisted else (1, L * P)
    block = blocks.projection(n, k_x, rounds, extent, not hoisted, mean, dtype, card, groups)
    steps = rounds * blocks.ceil_div(extent, block.k)
    steps_a_split = blocks.ceil_div(steps, block.splits)
    splits = blocks.ceil_div(steps, steps_a_split)
    wide = accumulator(dtype)
    programs = groups * blocks.ceil_div(k_x, block.m) * blocks.ceil_div(n, block.n)
    made = prepared(
        kernels.hoisted if hoisted else kernels.formed, (programs, splits),
        WIDE=L * P >= 2**31, PRECISION=products, ACC=wide, MEAN=mean, GROUPED=groups > 1,
        BM=block.m, BN=block.n, BK=block.k, warps=block.warps, stages=block.stages,
    )  # fmt: skip
    if splits == 1:
        return Plan(made, splits, steps_a_split, (groups * n, k_x), dtype)
    return Plan(made, splits, steps_a_split, (splits, groups * n, k_x), wide)


def _pair_factor_grads(
    core: Tensor,
    grad: Tensor | None,
    grad_mean: Tensor | None,
    pair: Pair,
    mean_outer: Tensor | None,
    need_outer: bool,
    need_inner: bool,
    groups: int,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of the outer product, of that of the mean output, and of the inner product, in
    the type to calculate in; None where they are zero or not needed."""
    outer, inner = pair
    main, main_outer, other, other_outer = _in_order(grad, grad_mean, outer, mean_outer)
    mean = grad is not None and grad_mean is not None
    (rows, k_x), L, P = main.shape, main_outer.shape[1], inner.shape[1]
    n = rows // groups
    dtype, wide = core.dtype, accumulator(core.dtype)
    block = blocks.factor_grads(n, k_x, L, P, mean, dtype, capability(core.device), groups)
    p_blocks, m_steps = blocks.ceil_div(P, block.p), blocks.ceil_div(k_x, block.m)
    l_a_split = blocks.ceil_div(L, block.l_splits)
    l_splits = blocks.ceil_div(L, l_a_split)
    m_steps_a_split = blocks.ceil_div(m_steps, block.m_splits)
    m_splits = blocks.ceil_div(m_steps, m_steps_a_split)
    empty = core.new_empty(0, dtype=wide)
    d_outer = core.new_empty((m_splits * p_blocks, rows, L), dtype=wide) if need_outer else empty
    d_other = torch.empty_like(d_outer) if mean else d_outer
    d_inner = core.new_empty((m_splits * l_splits, rows, P), dtype=wide) if need_inner else empty
    made = prepared(
        factor_grads, (groups * p_blocks * blocks.ceil_div(n, block.n), l_splits, m_splits),
        MEAN=mean, GROUPED=groups > 1, OUTER=need_outer, INNER=need_inner,
        PRECISION=precision(dtype, core.device), ACC=wide,
        BP=block.p, BN=block.n, BM=block.m, warps=block.warps, stages=block.stages,
    )  # fmt: skip
    launch(
        made, core, main, other, main_outer, other_outer, inner, d_outer, d_other, d_inner,
        n, k_x, L, P, *main.stride(), *other.stride(),
        *main_outer.stride(), *other_outer.stride(), *inner.stride(), l_a_split, m_steps_a_split,
    )  # fmt: skip
    inner_grad = add_parts(d_inner) if need_inner else None
    if not need_outer:
        return None, None, inner_grad
    if grad is None:
        return None, add_parts(d_outer), inner_grad
    return add_parts(d_outer), add_parts(d_other) if mean else None, inner_grad


def _write_outer_grads(
    d_outer: Tensor | None,
    d_mean_outer: Tensor | None,
    factors: list[Tensor],
    outs: list[Tensor | None],
) -> None:
    """The gradients of the outer factors from those of both outputs' products of them."""
    if d_outer is not None:
        write_feature_grads(d_outer, factors, outs)
    if outs[0] is not None and d_outer is None:
        outs[0].zero_()
    if d_mean_outer is None or all(out is None for out in outs[1:]):
        return
    wide = d_mean_outer.dtype
    others = [
        None,
        *(out if out is None else torch.empty_like(out, dtype=wide) for out in outs[1:]),
    ]
    write_feature_grads(d_mean_outer, [_mean_lead(factors[0]), *factors[1:]], others)
    for out, other in zip(outs, others, strict=True):
        if out is not None and other is not None:
            out.copy_(other if d_outer is None else out + other)


def _write_core_grad(
    out: Tensor,
    grad: Tensor | None,
    grad_mean: Tensor | None,
    factors: list[Tensor],
    accumulate: bool,
    groups: int = 1,
) -> None:
    extents = _extents(factors)
    if factors[0].shape[0] * out.numel() == 0:
        if not accumulate:
            out.zero_()
        return
    if len(factors) == 1:
        if grad is not None:
            _write_pair_core_grad(out, grad, None, _alone(factors[0]), None, accumulate, groups)
        if grad_mean is not None:
            added = accumulate or grad is not None
            lead = _mean_alone(factors[0])
            _write_pair_core_grad(out, grad_mean, None, lead, None, added, groups)
        return
    split = blocks.modes(extents).outer
    pair = features(factors[:split]), features(factors[split:], out.dtype)
    mean_outer = None if grad_mean is None else _mean_outer(factors[:split])
    _write_pair_core_grad(out, grad, grad_mean, pair, mean_outer, accumulate, groups)


def _write_pair_core_grad(
    out: Tensor,
    grad: Tensor | None,
    grad_mean: Tensor | None,
    pair: Pair,
    mean_outer: Tensor | None,
    accumulate: bool,
    groups: int,
) -> None:
    outer, inner = pair
    main, main_outer, other, other_outer = _in_order(grad, grad_mean, outer, mean_outer)
    mean = grad is not None and grad_mean is not None
    (rows, k_x), L, P, dtype = main.shape, main_outer.shape[1], inner.shape[1], out.dtype
    n = rows // groups
    block = blocks.core_grad(n, k_x, L, P, mean, dtype, capability(out.device), groups)
    l_a_split = blocks.ceil_div(L, block.l_splits)
    grid = groups * blocks.ceil_div(k_x, block.m) * blocks.ceil_div(P, block.p)
    made = prepared(
        core_grad, (grid, blocks.ceil_div(L, l_a_split)),
        MEAN=mean, GROUPED=groups > 1, ACCUMULATE=accumulate, RESIDENT=n <= block.n,
        PRECISION=precision(dtype, out.device), ACC=accumulator(dtype),
        BM=block.m, BP=block.p, BN=block.n, warps=block.warps, stages=block.stages,
    )  # fmt: skip
    launch(
        made, main, other, main_outer, other_outer, inner, out, n, k_x, L, P,
        *main.stride(), *other.stride(),
        *main_outer.stride(), *other_outer.stride(), *inner.stride(), l_a_split,
    )  # fmt: skip


def _in_order(
    grad: Tensor | None, grad_mean: Tensor | None, outer: Tensor, mean_outer: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A given gradient and its scale, then those of the other output, or the same again."""
    if grad is None:
        assert grad_mean is not None and mean_outer is not None
        return grad_mean, mean_outer, grad_mean, mean_outer
    if grad_mean is None:
        return grad, outer, grad, outer
    assert mean_outer is not None
    return grad, outer, grad_mean, mean_outer


def _extents(factors: list[Tensor]) -> tuple[int, ...]:
    return tuple([factor.shape[1] for factor in factors])  # faster than a generator


def _mean_lead(factor: Tensor) -> Tensor:
    """The constant `1/k_1` in the shape of the leading factor."""
    constant = factor.new_full((), 1 / factor.shape[1], dtype=accumulator(factor.dtype))
    return constant.expand(factor.shape)


def _mean_outer(factors: list[Tensor]) -> Tensor:
    return features([_mean_lead(factors[0]), *factors[1:]])


def _alone(factor: Tensor) -> Pair:
    return factor.new_ones(()).expand(factor.shape[0], 1), factor


def _mean_alone(factor: Tensor) -> Pair:
    return _mean_lead(factor)[:, :1], factor.new_ones(()).expand(factor.shape)
