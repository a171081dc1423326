"""How a projection and its gradients are computed on a CPU, chosen by counting.

A core `(k_x, k_1, ..., k_M)` is read as a matrix of `Q = k_x L` rows and `P` columns, `L` the product
of the `h` leading, hoisted extents and `P` that of the others. With `W` the synthesis of the other
factors, `H` that of the hoisted ones and `A = G H` the gradient joined by them,

    forward          x      = core W, its rows folded with H
    factor gradients dW     = A core, folded into the factors of W; dH = core W, folded with G
    core gradient    dcore  = A^T W

Every `h` gives the same result, at another price: few rows, short columns, products that are formed
once too often. Each candidate is priced in vector operations, and the cheapest is taken. Plans are
pure functions of sizes, threads and SIMD level, and are kept.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from ntensor.backends.native.library import NO_MATRIX, cpu_module, describe_sizes
from ntensor.backends.override import Overrides

Extents = tuple[int, ...]

# Of every SIMD level: bytes of a vector, vectors of the widest tile, and of a square one.
_VECTORS = {
    "avx512bf16": (64, 4, 3),
    "avx512": (64, 4, 3),
    "emulated": (64, 4, 3),
    "avx2": (32, 2, 2),
    "portable": (16, 2, 2),
}
_OF_ARM = (16, 4, 3)
# Levels that multiply bfloat16 pair by pair, where the last factor stands alone and is this long.
PAIRED_LEVELS = ("avx512bf16", "emulated")
LEAST_EXTENT_OF_PAIRS = 32

SLAB = 64  # most samples that are taken together
FEW = 8  # most samples that are taken one by one
SHARED_CORE_BYTES = 1 << 18

FLOAT64, BFLOAT16, FLOAT16 = 1, 2, 3

# Prices, in vector multiply-adds at full speed. `benchmarks/plan_prices.py` measures them.
LATENCY = 8.0  # the least of a step of a tile: its sums depend on those of the step before
FOLD, TILE = 3.0, 15.0  # of a vector of sums, and of a tile
FORM, GATHER = 3.0, 10.0  # of a vector of W or H, and of one of a factor's columns
SUM = 6.0  # of the lanes of a vector
OUT = 6.0  # of a vector of results
JOIN = 1.0  # of an element of A
PACK = 1.5  # of an element of A in the order of a tile
SPREAD, SEGMENT = 6.0, 40.0  # of a vector of dW folded into factors, and of a segment
STORE = 2.0  # of a vector of the core's gradient
SYNTHESISE = 2.0  # of a vector of one sample's synthesis

forced_plan = Overrides()


class Split(NamedTuple):
    """`Split` of csrc/cpu/api.h."""

    hoisted: int = 0
    output_inside: int = 0
    few: int = 0
    transposed: int = 0


class Plan(NamedTuple):
    split: Split
    threads: int
    scratch: int


class FactorGradsPlan(NamedTuple):
    """`inner`: the gradients of the factors from `hoisted` on. `outer`: dH, of those before, and
    `spread`, the scratch that takes it apart where these are several. None: not needed."""

    hoisted: int
    inner: Plan | None
    outer: Plan | None
    spread: int


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


def _chosen(candidates: list, price: Callable, choice: str | None):
    if choice is not None:
        return candidates[int(choice) % len(candidates)]
    return min(candidates, key=price) if len(candidates) > 1 else candidates[0]


class _Level(NamedTuple):
    lanes: int
    wide: int
    square: int
    widen: float  # price of widening a vector of stored elements


@functools.cache
def _level(name: str, dtype: int) -> _Level:
    size, wide, square = _VECTORS.get(name, _OF_ARM)
    widen = 2.0 if dtype in (BFLOAT16, FLOAT16) else 0.0
    return _Level(size // (8 if dtype == FLOAT64 else 4), wide, square, widen)


def _tile_rows(vectors: int, wide: int) -> int:
    return 6 if vectors == wide else 8


def _tile(rows: int, vectors: int, depth: float) -> float:
    step = max(rows * vectors, rows + vectors, LATENCY)
    return depth * step + FOLD * rows * vectors + TILE


def _tiles(count: int, most: int, vectors: int, depth: float) -> float:
    """Of `count` rows in tiles of at most `most`, what is left over in powers of two."""
    full, left = divmod(count, most)
    price = full * _tile(most, vectors, depth)
    while left:
        rows = 1 << (left.bit_length() - 1)
        price += _tile(rows, vectors, depth)
        left -= rows
    return price


def _price_of_samples(
    level: _Level, n: int, extents: Extents, k_x: int, hoisted: int, threads: int, paired: bool
) -> float:
    """Of a projection with the samples in the lanes."""
    outer, inner = extents[:hoisted], extents[hoisted:]
    L, P = math.prod(outer), math.prod(inner)
    slabs = -(-n // SLAB)
    even = -(-slabs // threads) * threads
    small = k_x * L * P * 4 <= SHARED_CORE_BYTES or k_x < 8 * threads
    if small and n >= even * 2 * level.lanes:
        slabs = even
    vectors = -(-(-(-n // slabs)) // level.lanes)
    wide = min(vectors, level.wide)
    rows = _tile_rows(wide, level.wide)
    along = min(_tiles(k_x, rows, wide, P) / k_x, _tiles(min(L, 64), rows, wide, P) / min(L, 64))
    core = k_x * L * along * (vectors / wide) * (0.55 if paired else 1.0)
    core += k_x * L * P / level.lanes * level.widen * (not paired)
    formed = vectors * (
        FORM * (P + (L if outer else 0)) + GATHER * (sum(inner) + sum(outer)) + 2.0 * P * paired
    )
    out = vectors * k_x * OUT
    if slabs % threads == 0:
        return slabs / threads * (core + formed + out)
    divided = threads if k_x >= 2 * threads or L >= 4 * threads else 1
    return slabs * (core / divided + formed + out / divided)


def _price_of_few(
    level: _Level, n: int, extents: Extents, k_x: int, hoisted: int, threads: int
) -> float:
    """Of a projection with the inner indices in the lanes."""
    outer, inner = extents[:hoisted], extents[hoisted:]
    L, P = math.prod(outer), math.prod(inner)
    samples = min(n, 4)
    rows = {1: 8, 2: 6, 3: 4, 4: 3}[samples]
    whole, left = divmod(P, level.lanes)
    steps = whole * (1 + level.widen / 2) + left * 0.5
    along = min(k_x, 64) if k_x >= L else min(L, 64)
    core = k_x * L * (_tiles(along, rows, samples, steps) / along + SUM * samples) * (n / samples)
    formed = n * SYNTHESISE * ((P + (L if outer else 0)) / level.lanes + 4)
    formed += n * (sum(inner) + sum(outer)) / level.lanes
    divided = threads if k_x >= 2 * threads or L >= 2 * threads else 1
    return core / divided + formed


@functools.lru_cache(maxsize=4096)
def projection(
    level: str,
    dtype: int,
    n: int,
    extents: Extents,
    k_x: int,
    mean: bool,
    threads: int,
    choice: str | None,
) -> Plan:
    at = _level(level, dtype)
    hoists = range(1 if mean else 0, len(extents))
    candidates = [Split(h) for h in hoists]
    if n <= FEW:
        candidates += [Split(h, 0, 1) for h in hoists]

    def price(split: Split) -> float:
        if split.few:
            return _price_of_few(at, n, extents, k_x, split.hoisted, threads)
        paired = _is_paired(level, dtype, extents, split.hoisted)
        return _price_of_samples(at, n, extents, k_x, split.hoisted, threads, paired)

    split = _chosen(candidates, price, choice)
    return _planned_projection(level, dtype, n, extents, k_x, mean, split, threads)


@functools.lru_cache(maxsize=4096)
def mttkrp(
    level: str,
    dtype: int,
    rank: int,
    shape: Extents,
    mode: int,
    threads: int,
    choice: str | None,
) -> tuple[bool, Plan]:
    """Whether the mode is the output of a projection, with the modes before it hoisted and those
    behind it in W; else it is a factor's gradient. The rank stands for the samples."""
    at = _level(level, dtype)
    last = len(shape) - 1
    others = shape[:mode] + shape[mode + 1 :]
    candidates: list[tuple[bool, Split]] = []
    if mode == 0:
        hoists = range(last)
        candidates += [(True, Split(h, 0, few, 1)) for few in (0, 1) for h in hoists]
    else:
        if mode < last:
            candidates += [(True, Split(mode, 1, few, 1)) for few in (0, 1)]
        candidates += [(False, Split(h)) for h in range(mode)]
    candidates = [each for each in candidates if rank <= FEW or not each[1].few]

    def price(candidate: tuple[bool, Split]) -> float:
        projects, split = candidate
        if not projects:
            return _price_of_inner_grads(at, rank, shape[1:], shape[0], split.hoisted, 1, threads)
        if split.few:
            return _price_of_few(at, rank, others, shape[mode], split.hoisted, threads)
        paired = _is_paired(level, dtype, others, split.hoisted)
        return _price_of_samples(at, rank, others, shape[mode], split.hoisted, threads, paired)

    projects, split = _chosen(candidates, price, choice)
    if projects:
        return True, _planned_projection(
            level, dtype, rank, others, shape[mode], False, split, threads
        )
    extents = shape[1:]
    scratch = cpu_module().projection_factor_grads_scratch(
        level,
        dtype,
        rank,
        describe_sizes(extents),
        [int(place == mode - 1) for place in range(last)],
        sum(extents),
        0,
        shape[0],
        _STRIDED,
        NO_MATRIX,
        split,
        threads,
        0,
    )
    return False, Plan(split, threads, scratch)


def _is_paired(level: str, dtype: int, extents: Extents, hoisted: int) -> bool:
    return (
        level in PAIRED_LEVELS
        and dtype == BFLOAT16
        and hoisted == len(extents) - 1
        and extents[-1] >= LEAST_EXTENT_OF_PAIRS
    )


def _planned_projection(
    level: str,
    dtype: int,
    n: int,
    extents: Extents,
    k_x: int,
    mean: bool,
    split: Split,
    threads: int,
) -> Plan:
    scratch = cpu_module().projection_scratch(
        level, dtype, n, describe_sizes(extents), 0, k_x, 0, int(mean), split, threads, 0
    )
    return Plan(split, threads, scratch)


# A matrix that is there and lies row by row, or must be collected element by element.
_CONTIGUOUS = (1, 1, 1)
_STRIDED = (1, 1, 2)


def _matrix(given: bool, contiguous: bool) -> tuple[int, int, int]:
    return (_CONTIGUOUS if contiguous else _STRIDED) if given else NO_MATRIX


def _price_of_inner_grads(
    level: _Level, n: int, extents: Extents, k_x: int, hoisted: int, rows: int, threads: int
) -> float:
    """Of dW, folded into its factors; rows: one or two a sample."""
    outer, inner = extents[:hoisted], extents[hoisted:]
    Q, P = k_x * math.prod(outer), math.prod(inner)
    slab = min(n, SLAB) * rows
    slabs = n * rows / slab
    most = _tile_rows(level.square, level.wide)
    blocks = -(-Q // 64)
    depth = Q / blocks
    columns = -(-P // (level.square * level.lanes))
    core = columns * blocks * _tiles(slab, most, level.square, depth)
    core += Q * columns * level.square * level.widen
    joined = slab * Q * JOIN * max(1.0, P * slab / 18432) * (hoisted > 0)
    last = inner[-1]
    for extent in inner[-2::-1]:
        if last >= 32 or last * extent > 128:
            break
        last *= extent
    fold = slab * (P / level.lanes * SPREAD + P / last * SEGMENT * (len(inner) > 1))
    return slabs * (core + joined + fold) / threads


@functools.lru_cache(maxsize=4096)
def factor_grads(
    level: str,
    dtype: int,
    n: int,
    extents: Extents,
    k_x: int,
    grad: bool,
    grad_mean: bool,
    contiguous: bool,
    needs: tuple[bool, ...],
    apart: bool,
    threads: int,
    choice: str | None,
) -> FactorGradsPlan:
    """apart: the gradients are matrices of their own, so dH may be written as it is."""
    at = _level(level, dtype)
    first, last = needs.index(True), len(needs) - 1 - needs[::-1].index(True)
    # From `h` on dW, before it dH; the core is read twice where both are needed.
    candidates = list(range(first + 1))
    if not grad_mean:
        candidates += [
            h
            for h in range(first + 1, len(extents))
            if dtype in (0, FLOAT64) and (apart or sum(needs) == 1)
        ]

    def price(hoisted: int) -> float:
        total = 0.0
        if last >= hoisted:
            rows = 2 if grad and grad_mean and hoisted == 0 else 1
            total = _price_of_inner_grads(at, n, extents, k_x, hoisted, rows, threads)
        if first < hoisted:
            outputs = math.prod(extents[:hoisted])
            swapped = (k_x, *extents[hoisted:])
            total += _price_of_outer(at, n, swapped, outputs, threads)
            if hoisted > 1:
                total += n * outputs / at.lanes * SPREAD / threads
        return total

    hoisted = _chosen(candidates, price, choice)
    inner = outer = None
    spread = 0
    if last >= hoisted:
        # Without gradients of the factors before them, these stand with one factor at least.
        flags = [int(need and place >= hoisted) for place, need in enumerate(needs)]
        scratch = cpu_module().projection_factor_grads_scratch(
            level,
            dtype,
            n,
            describe_sizes(extents),
            flags,
            sum(extents),
            0,
            k_x,
            _matrix(grad, contiguous),
            _matrix(grad_mean, contiguous),
            Split(hoisted),
            threads,
            0,
        )
        inner = Plan(Split(hoisted), threads, scratch)
    if first < hoisted:
        outputs = math.prod(extents[:hoisted])
        swapped = (k_x, *extents[hoisted:])
        few = n <= FEW and _price_of_few(at, n, swapped, outputs, 1, threads) < _price_of_samples(
            at, n, swapped, outputs, 1, threads, False
        )
        split = Split(1, 1, int(few))
        outer = _planned_projection(level, dtype, n, swapped, outputs, False, split, threads)
        if hoisted > 1:
            spread = cpu_module().synthesis_grads_scratch(
                level,
                dtype,
                n,
                describe_sizes(extents[:hoisted]),
                [1] * hoisted,
                sum(extents),
                _CONTIGUOUS,
                threads,
                0,
            )
    return FactorGradsPlan(hoisted, inner, outer, spread)


def _price_of_outer(at: _Level, n: int, swapped: Extents, outputs: int, threads: int) -> float:
    price = _price_of_samples(at, n, swapped, outputs, 1, threads, False)
    if n <= FEW:
        price = min(price, _price_of_few(at, n, swapped, outputs, 1, threads))
    return price


def _price_of_core_grad(
    level: _Level, n: int, extents: Extents, k_x: int, hoisted: int, threads: int
) -> float:
    outer, inner = extents[:hoisted], extents[hoisted:]
    Q, P = k_x * math.prod(outer), math.prod(inner)
    blocks = -(-n // 512)
    samples = n / blocks
    most = _tile_rows(level.square, level.wide)
    columns = -(-P // (level.square * level.lanes))
    packs = -(-Q // 16)
    product = columns * packs * _tiles(min(16, Q), most, level.square, samples)
    store = Q * -(-P // level.lanes) * (STORE + level.widen)
    panels = max(1.0, P * samples / 40960)
    packed = samples * Q * PACK * (1.0 + 0.5 * (hoisted > 0)) * panels
    formed = samples * (SYNTHESISE * P / level.lanes + sum(inner) / level.lanes + 10)
    divided = threads if P >= 192 * threads or Q >= 16 * threads else 1
    duplicated = 1 if P >= 192 * threads else threads
    return blocks * ((product + store + packed) / divided + formed * duplicated / divided)


@functools.lru_cache(maxsize=4096)
def core_grad(
    level: str,
    dtype: int,
    n: int,
    extents: Extents,
    k_x: int,
    grad: bool,
    grad_mean: bool,
    threads: int,
    choice: str | None,
) -> Plan:
    at = _level(level, dtype)
    candidates = [Split(h) for h in range(1 if grad_mean else 0, len(extents))]

    def price(split: Split) -> float:
        return _price_of_core_grad(at, n, extents, k_x, split.hoisted, threads)

    split = _chosen(candidates, price, choice)
    scratch = cpu_module().projection_core_grad_scratch(
        level,
        dtype,
        n,
        describe_sizes(extents),
        k_x,
        _matrix(grad, True),
        _matrix(grad_mean, True),
        0,
        False,
        split,
        threads,
        0,
    )
    return Plan(split, threads, scratch)
