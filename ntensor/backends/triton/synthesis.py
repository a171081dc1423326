"""Synthesis and its gradients, as products of two groups of factors."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from . import blocks
from .kernels import synthesis as kernels
from .launch import Launch, accumulator, capability, launch, prepared


def synthesis(factors: list[Tensor]) -> Tensor:
    if len(factors) == 1:
        return factors[0].clone(memory_format=torch.contiguous_format)
    return features(factors, factors[0].dtype)


def synthesis_grads(grad: Tensor, factors: list[Tensor], needs: list[bool]) -> Tensor:
    out, parts = joined(factors, needs)
    if grad.numel() == 0:
        return out.zero_()
    write_feature_grads(grad, factors, parts)
    return out


def joined(factors: list[Tensor], needs: list[bool]) -> tuple[Tensor, list[Tensor | None]]:
    """An empty matrix for the needed gradients side by side, and the columns of each."""
    widths = [factor.shape[1] if need else 0 for factor, need in zip(factors, needs, strict=True)]
    out = factors[0].new_empty((factors[0].shape[0], sum(widths)))
    columns = out.split_with_sizes(widths, 1)
    return out, [part if need else None for part, need in zip(columns, needs, strict=True)]


def features(factors: list[Tensor], dtype: torch.dtype | None = None) -> Tensor:
    """The synthesis `(n, K)` in `dtype`, None: in the type to calculate in.

    A single factor is returned as it is.
    """
    if len(factors) == 1:
        return factors[0]
    if len(factors) == 2:
        left, right = factors
    else:
        first = blocks.pair(tuple([factor.shape[1] for factor in factors]))
        left, right = features(factors[:first]), features(factors[first:])
    (n, U), V = left.shape, right.shape[1]
    device, wide = left.device, accumulator(left.dtype)
    out = torch.empty(n, U * V, dtype=wide if dtype is None else dtype, device=device)
    if n * U * V == 0:
        return out
    made = _product_launch(n, U, V, wide, capability(device))
    launch(made, left, right, out, n, U, V, *left.stride(), *right.stride())
    return out


@functools.lru_cache(maxsize=1024)
def _product_launch(n: int, U: int, V: int, wide: torch.dtype, card: blocks.Capability) -> Launch:
    block = blocks.product(n, U, V, card)
    grid = blocks.ceil_div(n, block.s) * blocks.ceil_div(U, block.u) * blocks.ceil_div(V, block.v)
    return prepared(
        kernels.product, (grid,),
        ACC=wide, BS=block.s, BU=block.u, BV=block.v, warps=block.warps,
    )  # fmt: skip


def write_feature_grads(grad: Tensor, factors: list[Tensor], outs: list[Tensor | None]) -> None:
    """Writes the gradients of the synthesis at `grad` `(n, K)`, which is not empty, to `outs`.

    Gradients whose place is None are not calculated.
    """
    if all(out is None for out in outs):
        return
    if len(factors) == 1:
        assert outs[0] is not None
        outs[0].copy_(grad)
        return
    first = blocks.pair(tuple(factor.shape[1] for factor in factors))
    groups = (slice(0, first), slice(first, None))
    left, right = (features(factors[group]) for group in groups)
    need_left, need_right = (any(out is not None for out in outs[group]) for group in groups)
    d_left, d_right = _pair_grads(grad, left, right, need_left, need_right)
    for group, part in zip(groups, (d_left, d_right), strict=True):
        if part is not None:
            write_feature_grads(part, factors[group], outs[group])


def _pair_grads(
    grad: Tensor, left: Tensor, right: Tensor, need_left: bool, need_right: bool
) -> tuple[Tensor | None, Tensor | None]:
    """`(n, U)` and `(n, V)`, in the type to calculate in."""
    (n, U), V = left.shape, right.shape[1]
    wide = accumulator(grad.dtype)
    block = blocks.product_grads(n, U, V, capability(left.device))
    v_blocks = blocks.ceil_div(V, block.v)
    steps = blocks.ceil_div(blocks.ceil_div(U, block.u), block.splits)
    splits = blocks.ceil_div(blocks.ceil_div(U, block.u), steps)
    d_left = grad.new_empty((v_blocks, n, U) if need_left else (0, 0, 0), dtype=wide)
    d_right = grad.new_empty((splits, n, V) if need_right else (0, 0, 0), dtype=wide)
    made = prepared(
        kernels.product_grads, (blocks.ceil_div(n, block.s) * v_blocks, splits),
        LEFT=need_left, RIGHT=need_right, ACC=wide,
        BS=block.s, BU=block.u, BV=block.v, warps=block.warps,
    )  # fmt: skip
    launch(
        made, grad, left, right, d_left, d_right, n, U, V,
        *grad.stride(), *left.stride(), *right.stride(), steps,
    )  # fmt: skip
    return add_parts(d_left) if need_left else None, add_parts(d_right) if need_right else None


def add_parts(parts: Tensor) -> Tensor:
    """The sum over the first dimension, in a fixed order."""
    return parts[0] if parts.shape[0] == 1 else parts.sum(0)
