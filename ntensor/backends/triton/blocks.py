"""Block sizes, warps, pipeline stages and splits of every kernel.

Pure functions of the operation's sizes, the dtype and the capability of the device, so that results
are bitwise the same on one kind of device, and every kernel can be compiled without one.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch

Capability = tuple[int, int]

# A hoisted leading factor leaves at least this inner extent: the accumulator is then scaled once in
# this many steps of the sum.
HOISTED_INNER = 1000

# Multiprocessors by capability; only how the work is split depends on it.
_MULTIPROCESSORS = {(8, 0): 108, (8, 6): 84, (8, 9): 128, (9, 0): 132, (10, 0): 148, (12, 0): 170}

# Programs are at least this many a multiprocessor where the work can be split so far.
_PROGRAMS_A_MULTIPROCESSOR = 4


class Modes(NamedTuple):
    """The factors as a pair of products: of the first `outer` ones, and of the others.

    `hoisted`: the outer product scales accumulators; else the one of both is formed block by block.
    """

    outer: int
    hoisted: bool


class Product(NamedTuple):
    """Of `kernels.synthesis` and `kernels.rotation.rotate_product_grads`."""

    s: int
    u: int
    v: int
    splits: int
    warps: int


class Projection(NamedTuple):
    """Of `kernels.projection`."""

    m: int
    n: int
    k: int
    splits: int
    warps: int
    stages: int


class FactorGrads(NamedTuple):
    """Of `kernels.projection_factor_grads`."""

    p: int
    n: int
    m: int
    l_splits: int
    m_splits: int
    warps: int
    stages: int


class CoreGrad(NamedTuple):
    """Of `kernels.projection_core_grad`."""

    m: int
    p: int
    n: int
    l_splits: int
    warps: int
    stages: int


class Rotation(NamedTuple):
    """Of `kernels.rotation`."""

    s: int
    j: int
    warps: int


def power_of_two(extent: int) -> int:
    """The smallest power of two that is not below `extent`."""
    return 1 << max(extent - 1, 0).bit_length()


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def between(low: int, extent: int, high: int) -> int:
    """A block for `extent`: a power of two from `low` to `high`, both powers of two."""
    return min(max(power_of_two(extent), low), high)


@functools.lru_cache(maxsize=1024)
def modes(extents: tuple[int, ...]) -> Modes:
    """How at least two factors form a pair.

    The outer product is of the most factors that leave an inner extent of `HOISTED_INNER`; where
    there are none, of the leading one alone.
    """
    places = range(1, len(extents))
    for outer in reversed(places):
        if math.prod(extents[outer:]) >= HOISTED_INNER:
            return Modes(outer, True)
    return Modes(1, False)


@functools.lru_cache(maxsize=1024)
def pair(extents: tuple[int, ...]) -> int:
    """How many leading factors form the first product of a pair: both together are shortest, and
    where that is equal they are of equal number of factors."""
    return min(
        range(1, len(extents)),
        key=lambda outer: (
            math.prod(extents[:outer]) + math.prod(extents[outer:]),
            abs(len(extents) - 2 * outer),
        ),
    )


def multiprocessors(capability: Capability) -> int:
    return _MULTIPROCESSORS.get(capability, 108)


def _reads_shared(capability: Capability) -> bool:
    """Whether tensor cores read both operands from shared memory; else registers hold them."""
    return capability[0] in (9, 10)


def _splits(programs: int, rows: int, most: int, capability: Capability) -> int:
    """Into how many parts, at most `most`, the `rows` of each program are split.

    Parts are of equal length but for the last one, so that few numbers of parts are possible. The
    time is that of the rounds of programs, each as long as a part. Of the numbers within 5 % of the
    shortest time the largest is taken, since programs beside one another hide latency.
    """
    a_round, rows = multiprocessors(capability), max(rows, 1)
    most = max(1, min(_PROGRAMS_A_MULTIPROCESSOR * a_round // max(programs, 1), most))
    possible = {ceil_div(rows, ceil_div(rows, splits)) for splits in range(1, most + 1)}
    times = {
        splits: ceil_div(programs * splits, a_round) * ceil_div(rows, splits) for splits in possible
    }
    shortest = min(times.values())
    return max(splits for splits, time in times.items() if time <= 1.05 * shortest)


@functools.lru_cache(maxsize=1024)
def projection(
    n: int,
    k_x: int,
    L: int,
    P: int,
    formed: bool,
    mean: bool,
    dtype: torch.dtype,
    capability: Capability,
    groups: int = 1,
) -> Projection:
    """For cores `(k_x, L P)`, each with `n` samples; `L` is 1 where products are `formed`, block by
    block."""
    if dtype is torch.float64:
        m, s, k, warps, stages = between(16, k_x, 32), between(16, n, 32), 16, 4, 2
    elif dtype is torch.float32:
        if _reads_shared(capability):
            m, s, k = between(16, k_x, 64 if mean else 128), between(16, n, 64), 32
        else:
            m, s, k = between(16, k_x, 128), between(16, n, 32 if mean or formed else 64), 16
        warps, stages = (4 if s <= 16 else 8), 3
    else:
        m, s, k = between(16, k_x, 128), between(16, n, 64 if mean else 128), 64
        warps, stages = (4 if s <= 32 else 8), (4 if s <= 32 else 3)
        if formed:
            s = min(s, 32) if mean and P % 8 != 0 else s
            k, warps = (64 if _reads_shared(capability) and not mean else 32), 8
        if s == 64 and P % 16 == 0 and capability[0] == 9 and not mean and not formed:
            warps, stages = 4, 4  # two such blocks are resident, one of eight warps is
        if s == 128 and _reads_shared(capability):
            # Both sums, of 64 registers a thread each, leave room for short steps alone.
            k, stages = 32, 4
    programs = groups * ceil_div(k_x, m) * ceil_div(n, s)
    steps = L * ceil_div(P, k)
    # The parts, written and read again, stay far below the core.
    memory = L * P * dtype.itemsize // (32 * n)
    splits = _splits(programs, steps, min(max(memory, 1), ceil_div(steps, 4)), capability)
    return Projection(m, s, k, splits, warps, stages)


@functools.lru_cache(maxsize=1024)
def factor_grads(
    n: int,
    k_x: int,
    L: int,
    P: int,
    mean: bool,
    dtype: torch.dtype,
    capability: Capability,
    groups: int = 1,
) -> FactorGrads:
    """For cores `(k_x, L, P)`, each with `n` samples."""
    p = min((128, 64, 32, 16), key=lambda block: ceil_div(P, block) * (block + 16))
    if dtype is torch.float64:
        p, s, m, warps, stages = min(p, 32), between(16, n, 32), 16, 8, 2
    elif dtype is torch.float32:
        small = mean or not _reads_shared(capability)
        tight = mean and not _reads_shared(capability)
        p, s = min(p, 32 if tight else 64), between(16, n, 32 if small else 64)
        m = 16 if mean else 32
        warps, stages = (4 if s <= 16 else 8), 3
    else:
        # Rows that begin anywhere are loaded element by element, by way of registers.
        small = mean and (not _reads_shared(capability) or P % 8 != 0)
        p, s = min(p, 64) if mean else p, between(16, n, 32 if small else 64)
        m = 32 if mean and P % 8 != 0 else 64
        warps, stages = (4 if s <= (16 if mean else 32) else 8), 3
    programs = groups * ceil_div(P, p) * ceil_div(n, s)
    m_steps = ceil_div(k_x, m)
    l_splits = _splits(programs, L, min(L, 1 << 15), capability)
    # The parts of d_inner, written and read again, stay far below the core.
    memory = max(L * k_x * dtype.itemsize // (32 * n * l_splits), 1)
    most = min(ceil_div(m_steps, 8), memory, 1 << 15)
    m_splits = _splits(programs * l_splits, m_steps, most, capability)
    return FactorGrads(p, s, m, l_splits, m_splits, warps, stages)


@functools.lru_cache(maxsize=1024)
def core_grad(
    n: int,
    k_x: int,
    L: int,
    P: int,
    mean: bool,
    dtype: torch.dtype,
    capability: Capability,
    groups: int = 1,
) -> CoreGrad:
    """For cores `(k_x, L, P)`; all samples are resident where `n` is at most the block's."""
    p = min((128, 64, 32, 16), key=lambda block: ceil_div(P, block) * (block + 16))
    if dtype is torch.float64:
        m, p, s, warps, stages = between(16, k_x, 32), min(p, 32), 16, 8, 2
        p = min(p, 16) if n <= s and _reads_shared(capability) else p
    elif dtype is torch.float32:
        aligned = P % 4 == 0
        s = between(16, n, 32 if _reads_shared(capability) and aligned and not mean else 16)
        m, warps, stages = between(16, k_x, 64 if _reads_shared(capability) else 32), 8, 2
    else:
        # Rows that begin anywhere are loaded element by element, by way of registers.
        registers = not _reads_shared(capability)
        aligned = k_x % 8 == 0 and P % 8 == 0
        s = between(16, n, 64 if registers or aligned else 32)
        m = between(16, k_x, 128 if aligned and not mean and not registers else 64)
        s = 32 if registers and n > s else s
        warps, stages = 8, 3
    if dtype is not torch.float64 and aligned and n <= 64 and capability[0] == 9 and not mean:
        # Small blocks, of which several are resident: while one of them writes the core, which is
        # most of the work, the others multiply.
        m, p, s, warps = between(16, k_x, 64), min(p, 64), between(16, n, 64), 4
    programs = groups * ceil_div(k_x, m) * ceil_div(P, p)
    most = min(L, 1 << 15)
    l_splits = _splits(programs, L, most, capability) if n <= s else most
    return CoreGrad(m, p, s, l_splits, warps, stages)


@functools.lru_cache(maxsize=1024)
def product(n: int, U: int, V: int, capability: Capability) -> Product:
    """For `(n, U, V)`, of which a block holds up to 4096 elements."""
    return _product(n, U, V, 4096, capability)


@functools.lru_cache(maxsize=1024)
def product_grads(n: int, U: int, V: int, capability: Capability) -> Product:
    """For `(n, U, V)`, of which a block holds up to 1024 elements: each has several addresses."""
    return _product(n, U, V, 1024, capability)


@functools.lru_cache(maxsize=1024)
def rotated_product_grads(n: int, U: int, V: int, capability: Capability) -> Product:
    """As `product_grads`, with a quarter of the elements, since each has more to hold."""
    return _product(n, U, V, 256, capability)


def _product(n: int, U: int, V: int, elements: int, capability: Capability) -> Product:
    v = between(1, V, min(elements, 1024))
    u = between(1, U, elements // v)
    s = between(1, n, elements // (u * v))
    programs = ceil_div(n, s) * ceil_div(V, v)
    steps = ceil_div(U, u)
    return Product(s, u, v, _splits(programs, steps, min(steps, 1 << 15), capability), 4)


@functools.lru_cache(maxsize=1024)
def rotation(n: int, J: int, dtype: torch.dtype) -> Rotation:
    """For features of `3 x J`, of which a block holds about 3 x 512 elements, half of them wide."""
    elements = 256 if dtype is torch.float64 else 512
    j = between(1, J, elements)
    return Rotation(between(1, n, elements // j), j, 4)
