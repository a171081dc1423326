"""What each way to a projection or its gradients costs on a CPU; see `plans.py` for the symbols.

Prices count vector multiply-adds at full speed: orders of magnitude that hold at every SIMD level.
`benchmarks/plan_regret.py` times every candidate of random sizes, and what the choice costs.
"""

from __future__ import annotations

import math

from ntensor.backends.native.levels import (
    BFLOAT16,
    FLOAT32,
    FLOAT64,
    PRODUCT,
    TORCH,
    Extents,
    Level,
    Sizes,
    Split,
    level_of,
)

# Levels that multiply bfloat16 pair by pair, where the last factor stands alone and is this long.
PAIRED_LEVELS = ("avx512bf16", "emulated")
LEAST_EXTENT_OF_PAIRS = 32

# As in csrc/cpu, which tests/test_plans.py reads: of grouping.h, projection.h, projection_plan.h,
# the plan of the factors' gradients, and the core's gradient.
LEAST_TAIL, MOST_TAIL = 32, 128
SLAB = 64  # most samples that are taken together
SHARED_CORE_BYTES = 1 << 18
PANEL, PANEL_OF_PAIRS, LONGEST_SUM, X_BUDGET = 43008, 28672, 2688, 9216
FACTOR_GRADS_PANEL, ROW_BLOCK = 18432, 128
CORE_GRAD_PANEL, PANEL_UNIT, PACKED, PACKED_ROWS, LEAST_ROWS = 40960, 48, 4096, 16, 64

FEW = 8  # most samples that are taken one by one
# Of these: rows of a tile by its samples, the same for rows of the core that are short, how long.
FEW_ROWS, FEW_SHORT_ROWS = {1: 8, 2: 6, 3: 4, 4: 3}, {1: 16, 2: 8, 3: 5, 4: 4}
SHORT_FEW = 64

MOST_CORE_BYTES = 8 << 20  # of a core that stays in the caches
TORCH_GRAD = 30.0  # of a vector of the core's gradient by torch
# Of a vector of a result of torch that does not stay in the caches.
TORCH_OUT, MOST_OUT_BYTES = 45.0, 2 << 20
# Of a vector multiply-add of the core's gradient, and of the factors'.
CORE_GRAD, FACTOR_GRADS = 1.3, 1.15
HOST = 200000.0  # of a call of torch
MATRIX_VECTOR = 12.0  # of a vector of the gradient, times the synthesis of the batch or the core
FORM_IN_MEMORY = 8.0  # of a vector of the synthesis of the batch, written and read again
LATENCY = 8.0  # the least of a step of a tile: its sums depend on those of the step before
FOLD, TILE = 3.6, 15.0  # of a vector of sums, and of a tile
FORM, GATHER = 3.0, 10.0  # of a vector of W or H, and of one of a factor's columns
GATHER_GRAD = 12.0  # of a vector of the gradient, where it is one more factor, beside that
OUT = 16.0  # of a vector of results
JOIN = 1.0  # of an element of A
ROW = 9.6  # of a row of the last hoisted factor, scaled
PACK = 1.5  # of an element of A in the order of a tile
SPREAD = 4.0  # of a vector of dW folded into factors
MOVE, MOST_MOVED_BYTES = 6.0, 1 << 20  # of an element of the core in another order
# Of all rows of the last two factors of a synthesis or its derivative, and of each, in vectors.
SEGMENT, ROW_START = 30.0, 1.2
STORE = 2.0  # of a vector of the core's gradient
# Of a sample's part of a panel of the core's gradient, of a vector of the factors that are copied
# for it, and of its synthesis, which is written tile by tile.
PANEL_START, GATHER_SAMPLE, PACKED_SYNTHESIS = 170.0, 2.5, 4.0
# The same where rows are short and do not stay in the caches: stores are not streams then.
SHORT_STORE, SHORT_ROW, CACHED_BYTES = 6.0, 4096, 1 << 20
SYNTHESISE = 2.0  # of a vector of one sample's synthesis
AGAIN, READ = 5000.0, 5.0  # of a second call, and of a vector of a core from memory


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _round_up(a: int, b: int) -> int:
    return _ceil_div(a, b) * b


def _merged_tail(inner: Extents) -> tuple[int, int]:
    """The first factor of those that are merged into one, and the extent of that one."""
    place = len(inner) - 1
    last = inner[place]
    while place and last < LEAST_TAIL and last * inner[place - 1] <= MOST_TAIL:
        place -= 1
        last *= inner[place]
    return place, last


def _by_rows(inner: Extents, price: float, level: Level) -> float:
    """Of a sample's synthesis or its derivative, `price` a vector, in rows of the last extent."""
    P = math.prod(inner)
    place, last = _merged_tail(inner)
    if place == 0:
        return P / level.lanes * price
    segments = P / last / inner[place - 1] * SEGMENT
    if last <= 2:
        return P / level.lanes * price + segments
    return P / last * (_ceil_div(last, level.lanes) + ROW_START) * price + segments


def _spread(inner: Extents, level: Level, rows: int = 1) -> float:
    """Of a sample's rows of dW, folded into its factors."""
    sample = level.sample_of_one if len(inner) == 1 else level.sample
    return rows * _by_rows(inner, SPREAD, level) + sample * (1 + rows) / 2


def _join(price: float, outer: Extents) -> float:
    """Of an element of A: rows of the last hoisted factor are scaled one after the other."""
    return price + ROW / outer[-1]


def _tile_rows(vectors: int, wide: int) -> int:
    return 6 if vectors == wide else 8


def _tile(rows: int, vectors: int, depth: float, folds: int = 1) -> float:
    step = max(rows * vectors, rows + vectors, LATENCY)
    return depth * step + folds * FOLD * rows * vectors + TILE


def _tiles(count: int, most: int, vectors: int, depth: float, folds: int = 1) -> float:
    """Of `count` rows in tiles of at most `most`, what is left over in powers of two."""
    full, left = divmod(count, most)
    price = full * _tile(most, vectors, depth, folds)
    while left:
        rows = 1 << (left.bit_length() - 1)
        price += _tile(rows, vectors, depth, folds)
        left -= rows
    return price


def _columns(P: int, count: int, most: int, level: Level, depth: float) -> float:
    """Of `count` rows and P columns in square tiles, the last as narrow as it can be."""
    full, left = divmod(P, level.square * level.lanes)
    price = full * _tiles(count, most, level.square, depth) if full else 0.0
    return price + (_tiles(count, most, _ceil_div(left, level.lanes), depth) if left else 0.0)


def price_of_samples(
    level: Level,
    n: int,
    extents: Extents,
    k_x: int,
    hoisted: int,
    threads: int,
    paired: bool,
    results: int = 1,
) -> float:
    """Of a projection with the samples in the lanes, to x alone or to x and x_mean."""
    outer, inner = extents[:hoisted], extents[hoisted:]
    L, P = math.prod(outer), math.prod(inner)
    slabs = _ceil_div(n, SLAB)
    even = _ceil_div(slabs, threads) * threads
    small = k_x * L * P * 4 <= SHARED_CORE_BYTES or k_x < 8 * threads
    if small and n >= even * 2 * level.lanes:
        slabs = even
    vectors = _ceil_div(_ceil_div(n, slabs), level.lanes)
    wide = min(vectors, level.wide)
    rows = _tile_rows(wide, level.wide)
    along = min(_tiles(count, rows, wide, P, results) / count for count in (k_x, min(L, 64)))
    core = k_x * L * along * (vectors / wide) * (0.55 if paired else 1.0)
    core += k_x * L * P / level.lanes * level.widen * (not paired)
    formed = vectors * (
        FORM * (P + (L if outer else 0)) + GATHER * (sum(inner) + sum(outer)) + 2.0 * P * paired
    )
    # A panel of W is formed again for each chunk of rows, unless it is the only one.
    width = vectors * level.lanes
    panel = min(LONGEST_SUM, (PANEL_OF_PAIRS if paired else PANEL) / width)
    chunks = _ceil_div(k_x * width, X_BUDGET) if panel < P else 1
    formed += (chunks - 1) * vectors * FORM * P
    place, last = _merged_tail(inner)
    if place:
        formed += chunks * P / last * SEGMENT
    out = vectors * k_x * OUT
    if slabs % threads == 0:
        return slabs / threads * (core + formed + out)
    divided = threads if k_x >= 2 * threads or 4 * threads <= L else 1
    return slabs * (core / divided + formed + out / divided)


def price_of_few(
    level: Level, n: int, extents: Extents, k_x: int, hoisted: int, threads: int
) -> float:
    """Of a projection with the inner indices in the lanes."""
    outer, inner = extents[:hoisted], extents[hoisted:]
    L, P = math.prod(outer), math.prod(inner)
    samples = min(n, 4)
    masked = level.left == 0  # a part of a vector takes as long as a whole one
    is_short = level.wide == 4 and masked and P <= SHORT_FEW
    rows = (FEW_SHORT_ROWS if is_short else FEW_ROWS)[samples]
    whole, left = divmod(P, level.lanes)
    steps = (whole + (masked and left > 0)) * (1 + level.widen / 2) + left * level.left
    along = min(k_x, 64) if k_x >= L else min(L, 64)
    sums = 1.0 if is_short else level.sum
    tiles = _tiles(along, rows, samples, steps) / along
    core = k_x * L * (tiles + sums * samples) * (n / samples)
    formed = n * (_by_rows(inner, SYNTHESISE, level) + SYNTHESISE * L / level.lanes + SEGMENT)
    formed += n * (sum(inner) + sum(outer)) / level.lanes
    divided = threads if k_x >= 2 * threads or 2 * threads <= L else 1
    return core / divided + formed


def price_of_product(sizes: Sizes) -> float | None:
    """Of one product of torch and the synthesis of the batch; None where it is no way to go."""
    level, dtype, n, extents, k_x, threads, problems = sizes
    at, K = level_of(level, dtype), math.prod(extents)
    size = 8 if dtype == FLOAT64 else 4
    torch = TORCH.get(level)
    if (
        torch is None
        or dtype not in (FLOAT32, FLOAT64)
        or n < (torch.samples if problems == 1 else torch.samples_of_each)
        or torch.columns > K
        or k_x < 2 * K  # the synthesis of the batch is formed, and must be small beside the result
        or k_x * K * size > MOST_CORE_BYTES
    ):
        return None
    vectors = n * K * (k_x * torch.multiply + FORM_IN_MEMORY)
    vectors += n * k_x * torch.result + k_x * K * torch.core
    return vectors / at.lanes / threads + HOST / problems


def projection(sizes: Sizes, mean: bool) -> dict[Split, float]:
    """Of every way to a projection."""
    level, dtype, n, extents, k_x, threads, _ = sizes
    at = level_of(level, dtype)
    hoists = range(1 if mean else 0, len(extents))
    prices = {}
    for h in hoists:
        paired = is_paired(level, dtype, extents, h)
        given = (n, extents, k_x, h, threads, paired, 1 + mean)
        prices[Split(h)] = price_of_samples(at, *given)
    if n <= FEW:
        for h in hoists:
            prices[Split(h, few=1)] = price_of_few(at, n, extents, k_x, h, threads)
    product = price_of_product(sizes)
    if product is not None and not mean:
        vectors = n * k_x / at.lanes
        large = n * k_x * (8 if dtype == FLOAT64 else 4) > MOST_OUT_BYTES
        prices[PRODUCT] = product + (vectors * TORCH_OUT / threads if large else 0.0)
    return prices


def is_paired(level: str, dtype: int, extents: Extents, hoisted: int) -> bool:
    return (
        level in PAIRED_LEVELS
        and dtype == BFLOAT16
        and hoisted == len(extents) - 1
        and extents[-1] >= LEAST_EXTENT_OF_PAIRS
    )


def price_of_inner_grads(
    level: Level, n: int, extents: Extents, k_x: int, hoisted: int, rows: int, threads: int
) -> float:
    """Of dW, folded into its factors; rows: one or two a sample."""
    outer, inner = extents[:hoisted], extents[hoisted:]
    Q, P = k_x * math.prod(outer), math.prod(inner)
    slab = min(n, SLAB) * rows
    slabs = n * rows / slab
    most = _tile_rows(level.square, level.wide)
    blocks = _ceil_div(Q, ROW_BLOCK)
    depth = Q / blocks
    columns = _ceil_div(P, (level.square * level.lanes))
    core = blocks * _columns(P, slab, most, level, depth)
    core += Q * columns * level.square * level.widen
    joined = (
        slab * Q * _join(JOIN, outer) * max(1.0, P * slab / FACTOR_GRADS_PANEL) if outer else 0.0
    )
    fold = slab / rows * _spread(inner, level, rows)
    return slabs * (core * FACTOR_GRADS + joined + fold) / threads


def factor_grads(
    sizes: Sizes, grad: bool, grad_mean: bool, needs: tuple[bool, ...], apart: bool
) -> dict[Split, float]:
    """By the number of hoisted factors: from there on dW is needed, before it dH; transposed: each
    gradient by a projection of its own."""
    level, dtype, n, extents, k_x, threads, _ = sizes
    at = level_of(level, dtype)
    first, last = needs.index(True), len(needs) - 1 - needs[::-1].index(True)
    candidates = list(range(first + 1))
    if not grad_mean and dtype in (FLOAT32, FLOAT64) and (apart or sum(needs) == 1):
        candidates += range(first + 1, len(extents))
    elements = k_x * math.prod(extents)
    again = AGAIN
    if 4 * elements > CACHED_BYTES:
        again += elements / at.lanes * READ / threads
    prices: dict[Split, float] = {}
    for h in candidates:
        price = 0.0
        if last >= h:
            rows = 2 if grad and grad_mean and h == 0 else 1
            price += price_of_inner_grads(at, n, extents, k_x, h, rows, threads)
        if first < h:
            price += min(outer_grads(sizes, h).values())
            if last >= h:
                price += again
            if h > 1:
                price += n * _spread(extents[:h], at) / threads
        prices[Split(h)] = price
    if not grad_mean:
        prices |= _factor_projections(sizes, needs)
    product = price_of_product(sizes)
    if product is not None and not grad_mean:
        prices[PRODUCT] = product + n * _spread(extents, at) / threads
    return prices | _product_of_one(sizes, grad_mean)


def _product_of_one(sizes: Sizes, grad_mean: bool) -> dict[Split, float]:
    """Gradients by a product of torch where all extents are 1: a tile has one column then, and
    torch a kernel for a matrix and a vector."""
    level, dtype, n, extents, k_x, threads, problems = sizes
    if grad_mean or dtype not in (FLOAT32, FLOAT64) or math.prod(extents) > 1:
        return {}
    vectors = n * k_x / level_of(level, dtype).lanes
    return {PRODUCT: vectors * MATRIX_VECTOR / threads + HOST / problems}


def _factor_projections(sizes: Sizes, needs: tuple[bool, ...]) -> dict[Split, float]:
    """Of every needed gradient by a projection of the core with the factor's mode in front."""
    level, dtype, n, extents, k_x, threads, _ = sizes
    elements = k_x * math.prod(extents)
    size = {FLOAT32: 4, FLOAT64: 8}.get(dtype, 2)
    if n <= FEW or elements * size > MOST_MOVED_BYTES:
        return {}
    at = level_of(level, dtype)
    prices = {}
    for h in range(len(extents)):
        price = 0.0
        for m in range(len(extents)):
            if needs[m]:
                others = (k_x, *extents[:m], *extents[m + 1 :])
                paired = is_paired(level, dtype, others, h)
                price += price_of_samples(at, n, others, extents[m], h, threads, paired)
                price += (MOVE * elements + GATHER_GRAD * n * k_x / at.lanes) / threads
        prices[Split(h, transposed=1)] = price
    return prices


def outer_grads(sizes: Sizes, hoisted: int) -> dict[Split, float]:
    """Of dH: the core's outputs and the hoisted indices change places."""
    level, dtype, n, extents, k_x, threads, _ = sizes
    at, outputs = level_of(level, dtype), math.prod(extents[:hoisted])
    swapped = (k_x, *extents[hoisted:])
    split = Split(1, output_inside=1)
    prices = {split: price_of_samples(at, n, swapped, outputs, 1, threads, False)}
    if n <= FEW:
        prices[split._replace(few=1)] = price_of_few(at, n, swapped, outputs, 1, threads)
    return prices


def _price_of_core_grad(
    level: Level, n: int, extents: Extents, k_x: int, hoisted: int, threads: int
) -> float:
    """Of the thread that has most to do, with the panels and rows of projection_core_grad.cpp."""
    outer, inner = extents[:hoisted], extents[hoisted:]
    Q, P = k_x * math.prod(outer), math.prod(inner)
    blocks = _ceil_div(n, PACKED // PACKED_ROWS)
    samples = _ceil_div(n, blocks)
    panels = _ceil_div(P, max(1, CORE_GRAD_PANEL // samples // PANEL_UNIT) * PANEL_UNIT)
    if 4 * PANEL_UNIT * threads <= P:
        panels = _round_up(panels, threads)
    elif panels < threads:
        narrow = min(_ceil_div(P, 2 * PANEL_UNIT), threads, _ceil_div(LEAST_ROWS * threads, Q))
        panels = max(panels, narrow)
    panel = _round_up(_ceil_div(P, panels), PANEL_UNIT)
    panels = _ceil_div(P, panel)
    items, rows = panels // threads, Q
    if panels % threads:  # rows of panels one after the other
        items, rows = 1, _ceil_div(panels * Q, threads)
    columns = min(panel, P)
    most = _tile_rows(level.square, level.wide)
    packs, left = divmod(rows, PACKED_ROWS)
    product = packs * _columns(columns, PACKED_ROWS, most, level, samples)
    product += _columns(columns, left, most, level, samples)
    vectors = rows * _ceil_div(columns, level.lanes)
    whole = Q * _ceil_div(P, level.lanes)
    short = P < SHORT_ROW and 4 * level.lanes * whole > CACHED_BYTES
    store = vectors * ((SHORT_STORE if short else STORE) + level.widen)
    packed = samples * rows * (_join(PACK, outer) if outer else PACK)
    gathered = sum(inner) / level.lanes * GATHER_SAMPLE + PANEL_START
    formed = samples * (_by_rows(inner, PACKED_SYNTHESIS, level) * columns / P + gathered)
    formed *= _ceil_div(rows, Q)  # once for all rows of a panel
    return blocks * items * (product * CORE_GRAD + store + packed + formed)


def core_grad(sizes: Sizes, grad_mean: bool) -> dict[Split, float]:
    level, dtype, n, extents, k_x, threads, _ = sizes
    at = level_of(level, dtype)
    prices = {
        Split(h): _price_of_core_grad(at, n, extents, k_x, h, threads)
        for h in range(1 if grad_mean else 0, len(extents))
    }
    product = price_of_product(sizes)
    if product is not None and TORCH[level].core_grad and not grad_mean:
        prices[PRODUCT] = product + TORCH_GRAD * k_x * math.prod(extents) / at.lanes / threads
    return prices | _product_of_one(sizes, grad_mean)
