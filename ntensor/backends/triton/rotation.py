"""Rotation and rotated synthesis, and their gradients."""

from __future__ import annotations

from torch import Tensor

from . import blocks
from .kernels import rotation as kernels
from .launch import accumulator, capability, launch, prepared
from .synthesis import add_parts, joined


def rotation(y: Tensor, R: Tensor, layout: str) -> Tensor:
    n, K = y.shape
    out = y.new_empty((n, K))
    if n * K == 0:
        return out
    J = K // 3
    block = blocks.rotation(n, J, y.dtype)
    made = prepared(
        kernels.rotate, (blocks.ceil_div(n, block.s) * blocks.ceil_div(J, block.j),),
        COLUMN=layout == "column", ACC=accumulator(y.dtype),
        BS=block.s, BJ=block.j, warps=block.warps,
    )  # fmt: skip
    launch(
        made, y, R, out, n, J, *_steps(layout, J), *y.stride(), *R.stride(),
    )  # fmt: skip
    return out


def rotation_matrix_grad(grad: Tensor, y: Tensor, layout: str) -> Tensor:
    n, K = y.shape
    if n * K == 0:
        return y.new_zeros((n, 3, 3))
    J = K // 3
    dR = y.new_empty((n, 3, 3))
    block = blocks.rotation(n, J, y.dtype)
    made = prepared(
        kernels.matrix_grad, (blocks.ceil_div(n, block.s), 9),
        ACC=accumulator(y.dtype), BS=block.s, BJ=block.j, warps=block.warps,
    )  # fmt: skip
    launch(
        made, grad, y, dR, n, J, *_steps(layout, J), *grad.stride(), *y.stride(),
    )  # fmt: skip
    return dR


def rotated_synthesis(z_exp: Tensor, z_id: Tensor, R: Tensor, layout: str) -> Tensor:
    n, V = z_id.shape
    K = z_exp.shape[1] * V
    out = z_exp.new_empty((n, K))
    if n * K == 0:
        return out
    J = K // 3
    block = blocks.rotation(n, J, z_exp.dtype)
    made = prepared(
        kernels.rotate_product, (blocks.ceil_div(n, block.s) * blocks.ceil_div(J, block.j),),
        COLUMN=layout == "column", WIDE=K >= 2**31, ACC=accumulator(z_exp.dtype),
        BS=block.s, BJ=block.j, warps=block.warps,
    )  # fmt: skip
    launch(
        made, z_exp, z_id, R, out, n, J, V, *_steps(layout, J),
        *z_exp.stride(), *z_id.stride(), *R.stride(),
    )  # fmt: skip
    return out


def rotated_synthesis_grads(
    grad: Tensor, z_exp: Tensor, z_id: Tensor, R: Tensor, layout: str, needs: list[bool]
) -> Tensor:
    (n, U), V = z_exp.shape, z_id.shape[1]
    out, parts = joined([z_exp, z_id, R.reshape(n, 9)], needs)
    if n * U * V == 0:
        return out.zero_()
    wide, J = accumulator(z_exp.dtype), U * V // 3
    block = blocks.rotated_product_grads(n, U, V, capability(z_exp.device))
    v_blocks, u_steps = blocks.ceil_div(V, block.v), blocks.ceil_div(U, block.u)
    steps = blocks.ceil_div(u_steps, block.splits)
    splits = blocks.ceil_div(u_steps, steps)
    shapes = ((v_blocks, n, U), (splits, n, V), (splits * v_blocks, n, 9))
    sums = [
        grad.new_empty(shape if need else 0, dtype=wide)
        for shape, need in zip(shapes, needs, strict=True)
    ]
    made = prepared(
        kernels.rotate_product_grads, (blocks.ceil_div(n, block.s) * v_blocks, splits),
        LEFT=needs[0], RIGHT=needs[1], MATRIX=needs[2],
        COLUMN=layout == "column", WIDE=U * V >= 2**31, ACC=wide,
        BS=block.s, BU=block.u, BV=block.v, warps=block.warps,
    )  # fmt: skip
    launch(
        made, grad, z_exp, z_id, R, *sums, n, U, V, J, *_steps(layout, J),
        *grad.stride(), *z_exp.stride(), *z_id.stride(), *R.stride(), steps,
    )  # fmt: skip
    for part, total in zip(parts, sums, strict=True):
        if part is not None:
            part.copy_(add_parts(total))
    return out


def _steps(layout: str, J: int) -> tuple[int, int]:
    """From one row and from one column of the `3 x J` matrix to the next."""
    return (1, 3) if layout == "column" else (J, 1)
