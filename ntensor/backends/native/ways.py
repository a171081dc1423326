"""Every way to a projection or its gradients on a CPU, with its price.

In one pass over the core, as `prices.py` counts it. The mean output may have a core of its own: the
mean over the leading extent, `(k_x, k_2, ..., k_M)`. Its result and its gradients are those of a
projection of one factor less; its own gradient is spread along the leading extent. Or it may have
samples of its own, with 1 / k_1 for z_1, beside the others in a projection without a mean output.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ntensor.backends.native import prices
from ntensor.backends.native.levels import (
    FLOAT32,
    FLOAT64,
    MEAN_APART,
    MEAN_BESIDE,
    TORCH,
    Extents,
    Sizes,
    Split,
    level_of,
)
from ntensor.backends.native.library import MULTIPLY_ADDS_A_THREAD, in_order, kernel_order
from ntensor.backends.native.prices import MOST_CORE_BYTES

# Of what is formed for the mean output, lest the memory of a call grow with its sizes.
MOST_MEAN_BYTES = 2 << 20
# Of a vector of the core, in rows without the leading extent, that torch adds up or adds to, in the
# caches and from memory; and of each row that it adds to.
PASS, PASS_FROM_MEMORY, SHORT_ROW = 6.0, 12.0, 60.0
COPY = 8.0  # of a vector of factors and results that are copied
HOST = 60000.0  # of what torch does for a mean core; for samples of its own it is twice that
# Of a result, and of gradients, that are not made by one direct call then.
NOT_DIRECT, GRADIENTS_NOT_DIRECT = 100000.0, 200000.0


def projection(sizes: Sizes, mean: bool) -> dict[Split, float]:
    def least(of: Sizes) -> float:
        return min(prices.projection(_in_kernel_order(of), False).values())

    found = prices.projection(sizes, mean)
    return found | _with_mean(sizes, True, least, NOT_DIRECT) if mean else found


def factor_grads(
    sizes: Sizes, grad: bool, grad_mean: bool, needs: tuple[bool, ...], apart: bool
) -> dict[Split, float]:
    def least(of: Sizes) -> float:
        needed = needs[len(needs) - len(of.extents) :]
        if True not in needed:
            return 0.0
        needed = tuple(in_order(needed, kernel_order(of.extents)))
        found = prices.factor_grads(_in_kernel_order(of), True, False, needed, apart)
        return min(found.values())

    found = prices.factor_grads(sizes, grad, grad_mean, needs, apart)
    beside = sizes.n * sum(sizes.extents[1:])
    if not grad_mean:
        return found
    return found | _with_mean(sizes, grad, least, GRADIENTS_NOT_DIRECT, beside)


def core_grad(sizes: Sizes, grad: bool, grad_mean: bool) -> dict[Split, float]:
    def least(of: Sizes) -> float:
        return min(prices.core_grad(_in_kernel_order(of), False).values())

    found = prices.core_grad(sizes, grad_mean)
    if not grad_mean:
        return found
    return found | _with_mean(sizes, grad, least, GRADIENTS_NOT_DIRECT, adds=True)


def _with_mean(
    sizes: Sizes,
    of_both: bool,
    least: Callable[[Sizes], float],
    host: float,
    beside: int = 0,
    adds: bool = False,
) -> dict[Split, float]:
    """The ways of the mean output alone, and beside that of x; least: the price of one output.

    None for half types, which round the mean core, or 1 / k_1, on the way, and none that form much.

    Args:
        of_both: x takes part; else the mean output alone.
        host: the price of not being a direct call.
        beside: elements of what is formed beside the mean core.
        adds: the gradient of the mean core is added to that of the core along the leading extent.
    """
    level, dtype, n, extents, k_x, threads, _ = sizes
    if dtype not in (FLOAT32, FLOAT64):
        return {}
    lanes = level_of(level, dtype).lanes
    elements, element = k_x * math.prod(extents), 8 if dtype == FLOAT64 else 4
    found = {}
    host += HOST
    rows = n * (2 if of_both else 1)
    copied = rows * (sum(extents) + k_x)
    if copied * element <= MOST_MEAN_BYTES:
        price = least(_resized(sizes, rows, extents))
        found[MEAN_BESIDE] = price + copied / lanes * COPY + host + HOST
    if (elements // extents[0] + beside) * element > MOST_MEAN_BYTES:
        return found
    rows = k_x * extents[0]
    vectors = rows * -(-elements // (rows * lanes))
    if elements == rows and not adds:  # the leading extent lies in the lanes
        vectors = -(-elements // lanes)
    price = PASS if elements * element <= MOST_CORE_BYTES else PASS_FROM_MEMORY
    passes = (vectors * price + (SHORT_ROW * rows if adds else 0.0)) / threads
    of_mean = _resized(sizes, n, extents[1:])
    if len(extents) == 2:  # of one factor: a product of matrices by torch
        work = n * k_x * extents[1]
        price = TORCH[level].multiply if level in TORCH else 1.0
        price_of_mean = work / lanes * price / of_mean.threads + HOST
    else:
        price_of_mean = least(of_mean)
    found[MEAN_APART] = (least(sizes) if of_both else 0.0) + price_of_mean + passes + host
    return found


def _in_kernel_order(sizes: Sizes) -> Sizes:
    return sizes._replace(extents=tuple(in_order(sizes.extents, kernel_order(sizes.extents))))


def _resized(sizes: Sizes, n: int, extents: Extents) -> Sizes:
    """For other samples and extents, and no more threads than these want."""
    work = n * sizes.k_x * math.prod(extents)
    threads = max(1, min(sizes.threads, work // MULTIPLY_ADDS_A_THREAD))
    return sizes._replace(n=n, extents=extents, threads=threads)
