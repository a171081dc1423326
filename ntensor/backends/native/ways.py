"""Every way to a projection or its gradients on a CPU, with its price.

In one pass over the core, as `prices.py` counts it; or the mean output by a core of its own. The
mean over the leading extent is a core `(k_x, k_2, ..., k_M)`. Its result and its gradients
are those of a projection of one factor less; its own gradient is spread along the leading extent.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

from ntensor.backends.native import prices
from ntensor.backends.native.library import MULTIPLY_ADDS_A_THREAD
from ntensor.backends.native.prices import (
    FLOAT32,
    FLOAT64,
    MEAN_APART,
    MOST_CORE_BYTES,
    TORCH,
    Sizes,
    Split,
    level_of,
)

# Of the mean core and of its factors' gradients, lest the memory of a call grow with its sizes.
MOST_MEAN_BYTES = 2 << 20
# Of a vector of the core that torch adds up or adds to, in the caches and from memory.
PASS, PASS_FROM_MEMORY = 16.0, 32.0
HOST = 60000.0  # of each call

_Way = TypeVar("_Way")


def projection(sizes: Sizes, mean: bool) -> dict[Split, float]:
    def least(of: Sizes) -> float:
        return min(prices.projection(of, False).values())

    found = prices.projection(sizes, mean)
    return found | _apart(MEAN_APART, sizes, least(sizes), least) if mean else found


def factor_grads(
    sizes: Sizes, grad: bool, grad_mean: bool, needs: tuple[bool, ...], apart: bool
) -> dict[int, float]:
    """By the number of hoisted factors, or that of `PRODUCT` or `MEAN_APART`."""

    def least(of: Sizes) -> float:
        needed = needs[len(needs) - len(of.extents) :]
        if True not in needed:
            return 0.0
        return min(prices.factor_grads(of, True, False, needed, apart).values())

    found = prices.factor_grads(sizes, grad, grad_mean, needs, apart)
    if not grad_mean:
        return found
    of_x = least(sizes) if grad else 0.0
    beside = sizes.n * sum(sizes.extents[1:])
    return found | _apart(MEAN_APART.hoisted, sizes, of_x, least, beside)


def core_grad(sizes: Sizes, grad: bool, grad_mean: bool) -> dict[Split, float]:
    def least(of: Sizes) -> float:
        return min(prices.core_grad(of, False).values())

    found = prices.core_grad(sizes, grad_mean)
    if not grad_mean:
        return found
    return found | _apart(MEAN_APART, sizes, least(sizes) if grad else 0.0, least)


def mttkrp(sizes: Sizes, mode: int) -> dict[tuple[bool, Split], float]:
    """Of an MTTKRP, the rank in the place of the samples, the shape in that of the extents.

    By whether the mode is the output of a projection, with the modes before it hoisted and those
    behind it in W; else it is a factor's gradient."""
    level, dtype, rank, shape, _, threads = sizes
    at = level_of(level, dtype)
    last = len(shape) - 1
    others = shape[:mode] + shape[mode + 1 :]
    found: dict[tuple[bool, Split], float] = {}
    for h in range(last) if mode == 0 else range(mode, mode + (mode < last)):
        paired = prices.is_paired(level, dtype, others, h)
        split = Split(h, output_inside=int(mode > 0), transposed=1)
        found[True, split] = prices.price_of_samples(
            at, rank, others, shape[mode], h, threads, paired
        )
        if rank <= prices.FEW:
            split = split._replace(few=1)
            found[True, split] = prices.price_of_few(at, rank, others, shape[mode], h, threads)
    for h in range(mode):
        found[False, Split(h)] = prices.price_of_inner_grads(
            at, rank, shape[1:], shape[0], h, 1, threads
        )
    return found


def _apart(
    way: _Way,
    sizes: Sizes,
    price_of_x: float,
    least: Callable[[Sizes], float],
    beside: int = 0,
) -> dict[_Way, float]:
    """Empty for half types, whose mean core would be rounded on the way, and where it is large;
    beside: elements of what is formed beside the mean core."""
    level, dtype, n, extents, k_x, threads = sizes
    lanes = level_of(level, dtype).lanes
    elements = k_x * math.prod(extents)
    element = 8 if dtype == FLOAT64 else 4
    formed = (elements // extents[0] + beside) * element
    if dtype not in (FLOAT32, FLOAT64) or formed > MOST_MEAN_BYTES:
        return {}
    cached = elements * element <= MOST_CORE_BYTES
    passes = elements / lanes * (PASS if cached else PASS_FROM_MEMORY) / threads
    work = n * k_x * math.prod(extents[1:])
    of_mean = sizes._replace(
        extents=extents[1:], threads=max(1, min(threads, work // MULTIPLY_ADDS_A_THREAD))
    )
    if len(extents) == 2:  # of one factor: a product of matrices by torch
        price_of_mean = work / lanes * TORCH.get(level, 1.0) / of_mean.threads + HOST
    else:
        price_of_mean = least(of_mean)
    return {way: price_of_x + price_of_mean + passes + 2 * HOST}
