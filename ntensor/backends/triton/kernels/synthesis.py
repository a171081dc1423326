"""The product of two factors, `y[s, (u, v)] = left[s, u] right[s, v]`, and its gradients."""

import triton
import triton.language as tl

from .matrix import indices, load, store


@triton.jit
def product(
    left, right, out,
    n, U, V,
    left_n, left_u, right_n, right_v,
    ACC: tl.constexpr, BS: tl.constexpr, BU: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """One block of `(n, U, V)` a program; out is contiguous, `(n, U V)`."""
    u_blocks, v_blocks = tl.cdiv(U, BU), tl.cdiv(V, BV)
    program = tl.program_id(0)
    v = indices(program % v_blocks, BV)
    u = indices(program // v_blocks % u_blocks, BU)
    s = indices(program // v_blocks // u_blocks, BS)
    a = load(left, s, u, left_n, left_u, n, U).to(ACC)
    b = load(right, s, v, right_n, right_v, n, V).to(ACC)
    mask = (s[:, None, None] < n) & (u[None, :, None] < U) & (v[None, None, :] < V)
    places = out + (s[:, None, None] * U + u[None, :, None]) * V + v[None, None, :]
    tl.store(places, (a[:, :, None] * b[:, None, :]).to(out.dtype.element_ty), mask)


@triton.jit(do_not_specialize=["u_steps_a_split"])
def product_grads(
    grad, left, right, d_left, d_right,
    n, U, V,
    grad_n, grad_k, left_n, left_u, right_n, right_v,
    u_steps_a_split,
    LEFT: tl.constexpr, RIGHT: tl.constexpr, ACC: tl.constexpr,
    BS: tl.constexpr, BU: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """`d_left[s, u] = sum_v grad right` and `d_right[s, v] = sum_u grad left`, in one pass.

    One block of `(n, V)` a program, for a range of `u`. Parts: d_left `(blocks of V, n, U)`,
    d_right `(splits of U, n, V)`.
    """
    v_blocks = tl.cdiv(V, BV)
    v_block = (tl.program_id(0) % v_blocks).to(tl.int64)
    v = indices(v_block, BV)
    s = indices(tl.program_id(0) // v_blocks, BS)
    first = tl.program_id(1) * u_steps_a_split
    b = load(right, s, v, right_n, right_v, n, V).to(ACC)
    total = tl.zeros((BS, BV), ACC)
    for step in range(first, tl.minimum(first + u_steps_a_split, tl.cdiv(U, BU))):
        u = indices(step, BU)
        mask = (s[:, None, None] < n) & (u[None, :, None] < U) & (v[None, None, :] < V)
        k = u[None, :, None] * V + v[None, None, :]
        g = tl.load(grad + s[:, None, None] * grad_n + k * grad_k, mask, other=0).to(ACC)
        if LEFT:
            sums = tl.sum(g * b[:, None, :], 2)
            store(d_left + v_block * n * U, sums, s, u, U, 1, n, U)
        if RIGHT:
            a = load(left, s, u, left_n, left_u, n, U).to(ACC)
            total += tl.sum(g * a[:, :, None], 1)
    if RIGHT:
        part = d_right + tl.program_id(1).to(tl.int64) * n * V
        store(part, total, s, v, V, 1, n, V)
