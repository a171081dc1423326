"""How a projection and its gradients are computed on a CPU, chosen by counting.

A core `(k_x, k_1, ..., k_M)` is read as a matrix of `Q = k_x L` rows and `P` columns, `L` the
product of the `h` leading, hoisted extents and `P` that of the others. With `W` the synthesis of
the other factors, `H` that of the hoisted ones and `A = G H` the gradient joined by them,

    forward          x      = core W, its rows folded with H
    factor gradients dW     = A core, folded into the factors of W; dH = core W, folded with G
    core gradient    dcore  = A^T W

Every `h` gives the same result, at another price: few rows, short columns, products that are formed
once too often. Each candidate has its price (`ways.py`), and the cheapest is taken. Plans are
pure functions of sizes, threads and SIMD level, and are kept.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from ntensor.backends.native import mode_prices, prices, ways
from ntensor.backends.native.levels import MEAN_APART, MEAN_BESIDE, PRODUCT, Sizes, Split
from ntensor.backends.override import Overrides

# The level of a GPU, whose kernels choose by themselves how many factors they hoist.
CUDA = "cuda"

forced_plan = Overrides()


class FactorGradsPlan(NamedTuple):
    """`inner`: of the gradients of the factors from `way.hoisted` on; `outer`: of dH, which those
    before are taken from. None: not needed.

    way: `PRODUCT`: dL/dy by a plain product of torch, which all are taken from; `MEAN_APART`: those
    of each output by themselves; `MEAN_BESIDE`: of twice as many samples. A transposed `inner`:
    each gradient by a projection of its own."""

    way: Split
    inner: Split | None
    outer: Split | None


@contextmanager
def force_plan(choice: int) -> Iterator[None]:
    """Takes the candidate `choice` (modulo their number) instead of the cheapest; for tests."""
    override = forced_plan.enter(str(choice))
    try:
        yield
    finally:
        forced_plan.leave(override)


def forced() -> str | None:
    return forced_plan.value


def _cheapest(prices: dict[Any, float], choice: str | None) -> Any:
    if choice is not None:
        return list(prices)[int(choice) % len(prices)]
    return min(prices, key=prices.__getitem__)


@functools.lru_cache(maxsize=4096)
def projection(sizes: Sizes, mean: bool, choice: str | None) -> Split:
    """How the result is computed; `PRODUCT`: by torch; `MEAN_APART`: x and x_mean by themselves;
    `MEAN_BESIDE`: both by twice as many samples."""
    if sizes.level == CUDA:
        return Split(int(mean))
    split: Split = _cheapest(ways.projection(sizes, mean), choice)
    return split


@functools.lru_cache(maxsize=4096)
def mttkrp(
    sizes: Sizes, mode: int, choice: str | None, by_rows: bool = False
) -> tuple[bool, Split]:
    """Whether by a projection; see `mode_prices.mttkrp`."""
    projects, split = _cheapest(mode_prices.mttkrp(sizes, mode, by_rows), choice)
    return projects, split


@functools.lru_cache(maxsize=4096)
def factor_grads(
    sizes: Sizes,
    grad: bool,
    grad_mean: bool,
    needs: tuple[bool, ...],
    apart: bool,
    choice: str | None,
) -> FactorGradsPlan:
    """apart: the gradients are matrices of their own, so dH may be written as it is."""
    if sizes.level == CUDA:
        return FactorGradsPlan(Split(), Split(), None)
    way: Split = _cheapest(ways.factor_grads(sizes, grad, grad_mean, needs, apart), choice)
    if way.hoisted < 0:
        return FactorGradsPlan(way, None, None)
    if way.transposed:
        return FactorGradsPlan(Split(), way, None)
    inner = outer = None
    # Without gradients of the factors before them, these stand with one factor at least.
    if any(needs[way.hoisted :]):
        inner = way
    if any(needs[: way.hoisted]):
        outer = _cheapest(prices.outer_grads(sizes, way.hoisted), choice)
    return FactorGradsPlan(way, inner, outer)


@functools.lru_cache(maxsize=4096)
def mode_gradients(
    sizes: Sizes, mode: int, needs: tuple[bool, ...], choice: str | None
) -> tuple[bool, bool]:
    """Whether the gradients of the matrices, and that of the tensor, are made with the output mode
    in front: see `mode_prices.gradients`."""
    moves, moves_tensor = mode_prices.gradients(sizes, mode, needs)
    return _cheapest(moves, choice), _cheapest(moves_tensor, choice)


@functools.lru_cache(maxsize=4096)
def core_grad(sizes: Sizes, grad: bool, grad_mean: bool, choice: str | None) -> Split:
    """How the core's gradient is computed; the named ways: as in `projection`."""
    if sizes.level == CUDA:
        return Split(int(grad_mean))
    split: Split = _cheapest(ways.core_grad(sizes, grad, grad_mean), choice)
    return split


__all__ = [
    "CUDA",
    "MEAN_APART",
    "MEAN_BESIDE",
    "PRODUCT",
    "FactorGradsPlan",
    "Sizes",
    "Split",
    "core_grad",
    "factor_grads",
    "force_plan",
    "forced",
    "forced_plan",
    "mode_gradients",
    "mttkrp",
    "projection",
]
