"""The core's gradient, `dcore_l = (outer[:, l] grad + outer_mean[:, l] grad_mean)^T inner`."""

import triton
import triton.language as tl

from .matrix import indices, load, load_vector, multiply, of_group, store


@triton.jit
def _scaled(grad_block, outer, s, outer_n, n, ACC: tl.constexpr):
    return grad_block.to(ACC) * load_vector(outer, s, outer_n, n).to(ACC)[None, :]


@triton.jit(do_not_specialize=["l_a_split"])
def core_grad(
    grad, grad_mean, outer, outer_mean, inner, out,
    n, k_x, L, P,
    grad_n, grad_m, grad_mean_n, grad_mean_m,
    outer_n, outer_l, mean_n, mean_l, inner_n, inner_p,
    l_a_split,
    MEAN: tl.constexpr, GROUPED: tl.constexpr, ACCUMULATE: tl.constexpr, RESIDENT: tl.constexpr,
    PRECISION: tl.constexpr, ACC: tl.constexpr,
    BM: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """One block of `(k_x, P)` a program, for a range of `l`; out `(k_x, L, P)`.

    With `RESIDENT` one block holds all samples, and is loaded once for all `l`. With `GROUPED` as
    `projection.py`.
    """
    p_blocks = tl.cdiv(P, BP)
    group, tile = of_group(tl.program_id(0), tl.cdiv(k_x, BM) * p_blocks, GROUPED)
    m = indices(tile // p_blocks, BM)
    p = indices(tile % p_blocks, BP)
    first = tl.program_id(1) * l_a_split
    K = tl.cast(L, tl.int64) * P
    if GROUPED:
        grad += group * n * grad_n
        grad_mean += group * n * grad_mean_n
        outer += group * n * outer_n
        outer_mean += group * n * mean_n
        inner += group * n * inner_n
        out += group * k_x * K
    dtype: tl.constexpr = inner.dtype.element_ty
    s = tl.arange(0, BN).to(tl.int64)
    if RESIDENT:
        grad_block = load(grad, m, s, grad_m, grad_n, k_x, n)  # (BM, BN)
        inner_block = load(inner, s, p, inner_n, inner_p, n, P)  # (BN, BP)
        if MEAN:
            mean_block = load(grad_mean, m, s, grad_mean_m, grad_mean_n, k_x, n)
    for row in range(first, tl.minimum(first + l_a_split, L)):
        l = tl.cast(row, tl.int64)
        acc = tl.zeros((BM, BP), ACC)
        if RESIDENT:
            scaled = _scaled(grad_block, outer + l * outer_l, s, outer_n, n, ACC)
            if MEAN:
                scaled += _scaled(mean_block, outer_mean + l * mean_l, s, mean_n, n, ACC)
            acc = multiply(scaled.to(dtype), inner_block, acc, PRECISION)
        else:
            for step in range(tl.cdiv(n, BN)):
                s = indices(step, BN)
                grad_block = load(grad, m, s, grad_m, grad_n, k_x, n)
                scaled = _scaled(grad_block, outer + l * outer_l, s, outer_n, n, ACC)
                if MEAN:
                    mean_block = load(grad_mean, m, s, grad_mean_m, grad_mean_n, k_x, n)
                    scaled += _scaled(mean_block, outer_mean + l * mean_l, s, mean_n, n, ACC)
                inner_block = load(inner, s, p, inner_n, inner_p, n, P)
                acc = multiply(scaled.to(dtype), inner_block, acc, PRECISION)
        if ACCUMULATE:
            acc += load(out + l * P, m, p, K, 1, k_x, P).to(ACC)
        store(out + l * P, acc, m, p, K, 1, k_x, P)
