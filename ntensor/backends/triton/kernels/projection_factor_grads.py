"""Gradients of the factors in one pass over the core, which leaves none of its products in memory.

With `D_l = core_l^T grad` in registers: `d_outer[s, l] = <D_l[s], inner[s]>` and
`d_inner[s] = sum_l outer[s, l] D_l[s]`.
"""

import triton
import triton.language as tl

from .matrix import indices, load, load_vector, multiply, of_group, store


@triton.jit(do_not_specialize=["l_a_split", "m_steps_a_split"])
def factor_grads(
    core, grad, grad_mean, outer, outer_mean, inner, d_outer, d_outer_mean, d_inner,
    n, k_x, L, P,
    grad_n, grad_m, grad_mean_n, grad_mean_m,
    outer_n, outer_l, mean_n, mean_l, inner_n, inner_p,
    l_a_split, m_steps_a_split,
    MEAN: tl.constexpr, GROUPED: tl.constexpr, OUTER: tl.constexpr, INNER: tl.constexpr,
    PRECISION: tl.constexpr, ACC: tl.constexpr,
    BP: tl.constexpr, BN: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """One block of `(P, n)` a program, for a range of `l` and a range of `k_x`.

    Parts: `d_outer` `(splits of k_x, blocks of P, n, L)`, `d_inner` `(splits of k_x, splits of L,
    n, P)`; all are written, and are added up afterwards in their order. With `GROUPED` as
    `projection.py`, `n` in these shapes that of all groups.
    """
    n_blocks = tl.cdiv(n, BN)
    p_blocks = tl.cdiv(P, BP)
    tiles = p_blocks * n_blocks
    group, tile = of_group(tl.program_id(0), tiles, GROUPED)
    p_block = tile // n_blocks
    p = indices(p_block, BP)
    s = indices(tile % n_blocks, BN)
    l_split, m_split = tl.program_id(1), tl.program_id(2)

    K = tl.cast(L, tl.int64) * P
    samples = n
    if GROUPED:
        core += group * k_x * K
        grad += group * n * grad_n
        grad_mean += group * n * grad_mean_n
        outer += group * n * outer_n
        outer_mean += group * n * mean_n
        inner += group * n * inner_n
        d_outer += group * n * L
        d_outer_mean += group * n * L
        d_inner += group * n * P
        samples = tl.cast(n, tl.int64) * (tl.num_programs(0) // tiles)
    m_steps = tl.cdiv(k_x, BM)
    first_m = m_split * m_steps_a_split
    steps = tl.minimum(first_m + m_steps_a_split, m_steps) - first_m
    first_l = l_split * l_a_split
    rows = tl.minimum(first_l + l_a_split, L) - first_l
    d = tl.zeros((BP, BN), ACC)
    d_mean = tl.zeros((BP, BN), ACC)
    total = tl.zeros((BP, BN), ACC)
    part = m_split.to(tl.int64) * p_blocks + p_block
    inside = p[:, None] < P
    row, place = 0, 0  # counted and not divided: a division takes longer than a step's products
    for _step in range(rows * steps):
        l = tl.cast(first_l + row, tl.int64)
        m = indices(first_m + place, BM)
        core_block = load(core + l * P, p, m, 1, K, P, k_x)  # (BP, BM)
        grad_block = load(grad, m, s, grad_m, grad_n, k_x, n)  # (BM, BN)
        d = multiply(core_block, grad_block, d, PRECISION)
        if MEAN:
            mean_block = load(grad_mean, m, s, grad_mean_m, grad_mean_n, k_x, n)
            d_mean = multiply(core_block, mean_block, d_mean, PRECISION)
        ends = place == steps - 1
        if ends:
            if OUTER:
                w = load(inner, p, s, inner_p, inner_n, P, n).to(ACC)
                places = (part * samples + s) * L + l
                # Where grad is infinite, products with the zeros outside of the core are NaN.
                sums = tl.sum(tl.where(inside, d * w, 0.0), 0)
                tl.store(d_outer + places, sums, s < n)
                if MEAN:
                    sums_mean = tl.sum(tl.where(inside, d_mean * w, 0.0), 0)
                    tl.store(d_outer_mean + places, sums_mean, s < n)
            if INNER:
                total += d * load_vector(outer + l * outer_l, s, outer_n, n).to(ACC)[None, :]
                if MEAN:
                    scale = load_vector(outer_mean + l * mean_l, s, mean_n, n).to(ACC)
                    total += d_mean * scale[None, :]
            d = tl.zeros((BP, BN), ACC)
            if MEAN:
                d_mean = tl.zeros((BP, BN), ACC)
        row = tl.where(ends, row + 1, row)
        place = tl.where(ends, 0, place + 1)
    if INNER:
        split = m_split.to(tl.int64) * tl.num_programs(1) + l_split
        store(d_inner + split * samples * P, total, p, s, 1, P, P, n)
