"""Rotation of a feature seen as a `3 x J` matrix, alone and fused with the product of two factors.

Element `(a, j)` of the matrix is element `a row + j col` of the feature: `row, col` is `1, 3` in
the layout "column" and `J, 1` in "row".
"""

import triton
import triton.language as tl

from .matrix import divided, indices, load, load_vector, store


@triton.jit
def _entry(R, s, a: tl.constexpr, b: tl.constexpr, R_n, R_a, R_b, n, ACC: tl.constexpr):
    return load_vector(R + a * R_a + b * R_b, s, R_n, n).to(ACC)[:, None]


@triton.jit
def _rotated(R, s, a: tl.constexpr, y0, y1, y2, R_n, R_a, R_b, n, ACC: tl.constexpr):
    """Row `a` of `R Y`."""
    result = _entry(R, s, a, 0, R_n, R_a, R_b, n, ACC) * y0
    result += _entry(R, s, a, 1, R_n, R_a, R_b, n, ACC) * y1
    return result + _entry(R, s, a, 2, R_n, R_a, R_b, n, ACC) * y2


@triton.jit
def _store_rotated(
    R, out, s, j_block, y0, y1, y2,
    R_n, R_a, R_b, n, J,
    COLUMN: tl.constexpr, ACC: tl.constexpr, BJ: tl.constexpr,
):  # fmt: skip
    """Writes `R Y` to the contiguous out, in one piece where the rows lie interleaved."""
    x0 = _rotated(R, s, 0, y0, y1, y2, R_n, R_a, R_b, n, ACC)
    x1 = _rotated(R, s, 1, y0, y1, y2, R_n, R_a, R_b, n, ACC)
    x2 = _rotated(R, s, 2, y0, y1, y2, R_n, R_a, R_b, n, ACC)
    K = 3 * tl.cast(J, tl.int64)
    if COLUMN:
        BS: tl.constexpr = y0.shape[0]
        quads = tl.join(tl.join(x0, x2), tl.join(x1, x2))  # (BS, BJ, 2, 2): x0, x1, x2, x2
        place = indices(j_block, 4 * BJ)
        k = place // 4 * 3 + place % 4
        mask = (s[:, None] < n) & ((place % 4 < 3) & (k < K))[None, :]
        value = tl.reshape(quads, (BS, 4 * BJ)).to(out.dtype.element_ty)
        tl.store(out + s[:, None] * K + k[None, :], value, mask)
    else:
        j = indices(j_block, BJ)
        store(out, x0, s, j, K, 1, n, J)
        store(out + J, x1, s, j, K, 1, n, J)
        store(out + 2 * tl.cast(J, tl.int64), x2, s, j, K, 1, n, J)


@triton.jit
def rotate(
    y, R, out,
    n, J, row, col,
    y_n, y_k, R_n, R_a, R_b,
    COLUMN: tl.constexpr, ACC: tl.constexpr, BS: tl.constexpr, BJ: tl.constexpr,
):  # fmt: skip
    """One block of `(n, J)` a program; out is contiguous, `(n, 3 J)`."""
    j_blocks = tl.cdiv(J, BJ)
    j_block = tl.program_id(0) % j_blocks
    s = indices(tl.program_id(0) // j_blocks, BS)
    j = indices(j_block, BJ)
    next_row, next_col = tl.cast(y_k, tl.int64) * row, tl.cast(y_k, tl.int64) * col
    y0 = load(y, s, j, y_n, next_col, n, J).to(ACC)
    y1 = load(y + next_row, s, j, y_n, next_col, n, J).to(ACC)
    y2 = load(y + 2 * next_row, s, j, y_n, next_col, n, J).to(ACC)
    _store_rotated(R, out, s, j_block, y0, y1, y2, R_n, R_a, R_b, n, J, COLUMN, ACC, BJ)


@triton.jit
def matrix_grad(
    grad, y, dR,
    n, J, row, col,
    grad_n, grad_k, y_n, y_k,
    ACC: tl.constexpr, BS: tl.constexpr, BJ: tl.constexpr,
):  # fmt: skip
    """`dR[a, b] = sum_j grad[a, j] y[b, j]`: one element of all matrices of a block of `n` a
    program; dR is contiguous, `(n, 9)`."""
    s = indices(tl.program_id(0), BS)
    a, b = (tl.program_id(1) // 3).to(tl.int64) * row, (tl.program_id(1) % 3).to(tl.int64) * row
    last = tl.cast(J, tl.int64) * col
    total = tl.zeros((BS, BJ), ACC)
    for step in range(tl.cdiv(J, BJ)):
        j = indices(step, BJ)
        g = load(grad + a * grad_k, s, j * col, grad_n, grad_k, n, last).to(ACC)
        total += g * load(y + b * y_k, s, j * col, y_n, y_k, n, last).to(ACC)
    tl.store(dR + s * 9 + tl.program_id(1), tl.sum(total, 1).to(dR.dtype.element_ty), s < n)


@triton.jit
def _feature(
    left, right, s, k, V, K, left_n, left_u, right_n, right_v, n,
    WIDE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    mask = (s[:, None] < n) & (k[None, :] < K)
    u, v = divided(k[None, :], V, WIDE)
    a = tl.load(left + s[:, None] * left_n + u * left_u, mask, other=0)
    b = tl.load(right + s[:, None] * right_n + v * right_v, mask, other=0)
    return a.to(ACC) * b.to(ACC)


@triton.jit
def rotate_product(
    left, right, R, out,
    n, J, V, row, col,
    left_n, left_u, right_n, right_v, R_n, R_a, R_b,
    COLUMN: tl.constexpr, WIDE: tl.constexpr, ACC: tl.constexpr, BS: tl.constexpr, BJ: tl.constexpr,
):  # fmt: skip
    """`rotate` with `y[s, (u, v)] = left[s, u] right[s, v]`, which is never stored."""
    j_blocks = tl.cdiv(J, BJ)
    j_block = tl.program_id(0) % j_blocks
    s = indices(tl.program_id(0) // j_blocks, BS)
    j = indices(j_block, BJ)
    K, k = 3 * tl.cast(J, tl.int64), j * col
    # Beyond the last column of one row another row may begin: what is read there is not stored.
    y0 = _feature(left, right, s, k, V, K, left_n, left_u, right_n, right_v, n, WIDE, ACC)
    y1 = _feature(left, right, s, k + row, V, K, left_n, left_u, right_n, right_v, n, WIDE, ACC)
    y2 = _feature(left, right, s, k + 2 * row, V, K, left_n, left_u, right_n, right_v, n, WIDE, ACC)
    _store_rotated(R, out, s, j_block, y0, y1, y2, R_n, R_a, R_b, n, J, COLUMN, ACC, BJ)


@triton.jit(do_not_specialize=["u_steps_a_split"])
def rotate_product_grads(
    grad, left, right, R, d_left, d_right, dR,
    n, U, V, J, row, col,
    grad_n, grad_k, left_n, left_u, right_n, right_v, R_n, R_a, R_b,
    u_steps_a_split,
    LEFT: tl.constexpr, RIGHT: tl.constexpr, MATRIX: tl.constexpr,
    COLUMN: tl.constexpr, WIDE: tl.constexpr, ACC: tl.constexpr,
    BS: tl.constexpr, BU: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """The gradients of `rotate_product` in one pass over grad.

    One block of `(n, V)` a program, for a range of `u`. Parts: d_left `(blocks of V, n, U)`,
    d_right `(splits of U, n, V)`, dR `(splits of U, blocks of V, n, 9)`.
    """
    v_blocks = tl.cdiv(V, BV)
    v_block = (tl.program_id(0) % v_blocks).to(tl.int64)
    v = indices(v_block, BV)
    s = indices(tl.program_id(0) // v_blocks, BS)
    split = tl.program_id(1).to(tl.int64)
    first = tl.program_id(1) * u_steps_a_split
    next_row = tl.cast(grad_k, tl.int64) * row
    right_block = load(right, s, v, right_n, right_v, n, V).to(ACC)
    d_right_block = tl.zeros((BS, BV), ACC)
    dR0 = tl.zeros((BS, 4), ACC)
    dR1 = tl.zeros((BS, 4), ACC)
    dR2 = tl.zeros((BS, 4), ACC)
    for step in range(first, tl.minimum(first + u_steps_a_split, tl.cdiv(U, BU))):
        u = indices(step, BU)
        inside = (s[:, None, None] < n) & (u[None, :, None] < U) & (v[None, None, :] < V)
        k = u[:, None] * V + v[None, :]
        if COLUMN:
            j, b = divided(k, 3, WIDE)
        else:
            b, j = divided(k, J, WIDE)
        grad_places = grad + s[:, None, None] * grad_n + (j * col)[None, :, :] * grad_k
        R_places = R + s[:, None, None] * R_n + b[None, :, :] * R_b
        g0 = tl.load(grad_places, inside, other=0).to(ACC)
        g1 = tl.load(grad_places + next_row, inside, other=0).to(ACC)
        g2 = tl.load(grad_places + 2 * next_row, inside, other=0).to(ACC)
        left_block = load(left, s, u, left_n, left_u, n, U).to(ACC)
        if LEFT or RIGHT:
            unrotated = tl.load(R_places, inside, other=0).to(ACC) * g0
            unrotated += tl.load(R_places + R_a, inside, other=0).to(ACC) * g1
            unrotated += tl.load(R_places + 2 * R_a, inside, other=0).to(ACC) * g2
            if LEFT:
                sums = tl.sum(unrotated * right_block[:, None, :], 2)
                store(d_left + v_block * n * U, sums, s, u, U, 1, n, U)
            if RIGHT:
                d_right_block += tl.sum(unrotated * left_block[:, :, None], 1)
        if MATRIX:
            # Beyond the last u the product would be 0 times a factor that may be infinite.
            y = tl.where(inside, left_block[:, :, None] * right_block[:, None, :], 0.0)
            dR0 += _by_row(g0 * y, b)
            dR1 += _by_row(g1 * y, b)
            dR2 += _by_row(g2 * y, b)
    if RIGHT:
        store(d_right + split * n * V, d_right_block, s, v, V, 1, n, V)
    if MATRIX:
        column = tl.arange(0, 4)
        part = dR + (split * v_blocks + v_block) * n * 9
        store(part, dR0, s, column, 9, 1, n, 3)
        store(part + 3, dR1, s, column, 9, 1, n, 3)
        store(part + 6, dR2, s, column, 9, 1, n, 3)


@triton.jit
def _by_row(terms, b):
    """`(BS, BU, BV)` summed for each row number in `b` `(BU, BV)`: `(BS, 4)`, the last is zero."""
    row = b[None, :, :]
    sum0 = tl.sum(tl.sum(tl.where(row == 0, terms, 0.0), 2), 1)[:, None]
    sum1 = tl.sum(tl.sum(tl.where(row == 1, terms, 0.0), 2), 1)[:, None]
    sum2 = tl.sum(tl.sum(tl.where(row == 2, terms, 0.0), 2), 1)[:, None]
    column = tl.arange(0, 4)[None, :]
    sums = tl.where(column == 0, sum0, tl.where(column == 1, sum1, sum2))
    return tl.where(column < 3, sums, 0.0)
