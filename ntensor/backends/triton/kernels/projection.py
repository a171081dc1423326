"""Projection: `x[s, m] = sum_k core[m, k] y[s, k]`, one block of `(k_x, n)` a program.

The sum may be split between programs; each then writes its part to `x[split]`, and the parts are
added up afterwards in their order. With `GROUPED` the rows of core, factors and results are those
of groups behind one another, and so are the programs.
"""

import triton
import triton.language as tl

from .matrix import divided, indices, load, load_vector, multiply, of_group, store


@triton.jit(do_not_specialize=["steps_a_split"])
def hoisted(
    core, outer, outer_mean, inner, x, x_mean,
    n, k_x, L, P,
    outer_n, outer_l, mean_n, mean_l, inner_n, inner_p,
    steps_a_split,
    MEAN: tl.constexpr, GROUPED: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
    ACC: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """`x[s] = sum_l outer[s, l] (core_l inner[s])`, core `(k_x, L, P)`.

    The scale `outer` multiplies the accumulator; with `outer_mean` in its place the same
    accumulator gives the second output.
    """
    n_blocks = tl.cdiv(n, BN)
    tiles = tl.cdiv(k_x, BM) * n_blocks
    group, tile = of_group(tl.program_id(0), tiles, GROUPED)
    m = indices(tile // n_blocks, BM)
    s = indices(tile % n_blocks, BN)
    split = tl.program_id(1).to(tl.int64)

    K = tl.cast(L, tl.int64) * P
    if GROUPED:
        core += group * k_x * K
        outer += group * n * outer_n
        outer_mean += group * n * mean_n
        inner += group * n * inner_n
    steps_a_row = tl.cdiv(P, BK)
    first = tl.program_id(1) * steps_a_split
    last = tl.minimum(first + steps_a_split, L * steps_a_row)
    acc = tl.zeros((BM, BN), ACC)
    total = tl.zeros((BM, BN), ACC)
    total_mean = tl.zeros((BM, BN), ACC)
    # Counted and not divided: a division takes longer than the products of a step.
    row = first // steps_a_row
    place = first - row * steps_a_row
    for step in range(first, last):
        l = tl.cast(row, tl.int64)
        p = indices(place, BK)
        core_block = load(core + l * P, m, p, K, 1, k_x, P)  # (BM, BK)
        inner_block = load(inner, p, s, inner_p, inner_n, P, n)  # (BK, BN)
        acc = multiply(core_block, inner_block, acc, PRECISION)
        ends = place == steps_a_row - 1
        if ends | (step == last - 1):
            total += acc * load_vector(outer + l * outer_l, s, outer_n, n).to(ACC)[None, :]
            if MEAN:
                scale = load_vector(outer_mean + l * mean_l, s, mean_n, n).to(ACC)
                total_mean += acc * scale[None, :]
            acc = tl.zeros((BM, BN), ACC)
        row = tl.where(ends, row + 1, row)
        place = tl.where(ends, 0, place + 1)
    offset = split * n * k_x
    if GROUPED:
        offset = (split * (tl.num_programs(0) // tiles) + group) * n * k_x
    store(x + offset, total, m, s, 1, k_x, k_x, n)
    if MEAN:
        store(x_mean + offset, total_mean, m, s, 1, k_x, k_x, n)


@triton.jit(do_not_specialize=["steps_a_split"])
def formed(
    core, left, left_mean, right, x, x_mean,
    n, k_x, U, V,
    left_n, left_u, mean_n, mean_u, right_n, right_v,
    steps_a_split,
    MEAN: tl.constexpr, GROUPED: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
    ACC: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """The same, core `(k_x, U V)`, with blocks of `y[s, (u, v)] = left[s, u] right[s, v]` formed
    here, rounded once."""
    n_blocks = tl.cdiv(n, BN)
    tiles = tl.cdiv(k_x, BM) * n_blocks
    group, tile = of_group(tl.program_id(0), tiles, GROUPED)
    m = indices(tile // n_blocks, BM)
    s = indices(tile % n_blocks, BN)
    split = tl.program_id(1).to(tl.int64)

    K = tl.cast(U, tl.int64) * V
    if GROUPED:
        core += group * k_x * K
        left += group * n * left_n
        left_mean += group * n * mean_n
        right += group * n * right_n
    first = tl.program_id(1) * steps_a_split
    last = tl.minimum(first + steps_a_split, tl.cdiv(K, BK).to(tl.int32))
    total = tl.zeros((BM, BN), ACC)
    total_mean = tl.zeros((BM, BN), ACC)
    for step in range(first, last):
        k = indices(step, BK)
        core_block = load(core, m, k, K, 1, k_x, K)  # (BM, BK)
        inside = (k[:, None] < K) & (s[None, :] < n)
        u, v = divided(k[:, None], V, WIDE)
        right_block = tl.load(right + v * right_v + s[None, :] * right_n, inside, other=0).to(
            ACC
        )  # (BK, BN)
        left_block = tl.load(left + u * left_u + s[None, :] * left_n, inside, other=0).to(ACC)
        y = (left_block * right_block).to(core.dtype.element_ty)
        total = multiply(core_block, y, total, PRECISION)
        if MEAN:
            mean_block = tl.load(left_mean + u * mean_u + s[None, :] * mean_n, inside, other=0)
            y_mean = (mean_block.to(ACC) * right_block).to(core.dtype.element_ty)
            total_mean = multiply(core_block, y_mean, total_mean, PRECISION)
    offset = split * n * k_x
    if GROUPED:
        offset = (split * (tl.num_programs(0) // tiles) + group) * n * k_x
    store(x + offset, total, m, s, 1, k_x, k_x, n)
    if MEAN:
        store(x_mean + offset, total_mean, m, s, 1, k_x, k_x, n)
