"""Rotation and rotated synthesis, and their gradients, by the compiled core."""

from torch import Tensor

from ntensor.backends.native.call import run
from ntensor.backends.native.library import (
    DTYPES,
    ELEMENTS_A_THREAD,
    LAYOUTS,
    describe_factors,
    describe_grads,
    describe_matrix,
    needed_width,
    rows_of_nine,
    threads_for,
)
from ntensor.backends.native.memory import HUGE_BYTES, new_result


def rotation(y: Tensor, R: Tensor, layout: str) -> Tensor:
    n, K = y.shape
    out = new_result((n, K), y, HUGE_BYTES)
    if n * K > 0:
        matrices = rows_of_nine(R)
        places = (describe_matrix(y), describe_matrix(matrices), out.data_ptr())
        job = (DTYPES[y.dtype], n, K, LAYOUTS[layout], *places)
        run("rotation", y, threads_for(n * K, ELEMENTS_A_THREAD), *job)
    return out


def rotation_matrix_grad(grad: Tensor, y: Tensor, layout: str) -> Tensor:
    n, K = y.shape
    if n * K == 0:
        return y.new_zeros((n, 3, 3))
    dR = new_result((n, 3, 3), y)
    places = (describe_matrix(grad), describe_matrix(y), dR.data_ptr())
    job = (DTYPES[y.dtype], n, K, LAYOUTS[layout], *places)
    run("rotation_matrix_grad", y, threads_for(n * K, ELEMENTS_A_THREAD), *job)
    return dR


def rotated_synthesis(z_exp: Tensor, z_id: Tensor, R: Tensor, layout: str) -> Tensor:
    n, dtype = z_exp.shape[0], z_exp.dtype
    described, _, K, _ = describe_factors([z_exp, z_id], 2)
    out = new_result((n, K), z_exp, HUGE_BYTES)
    if n * K > 0:
        matrices = rows_of_nine(R)
        places = (describe_matrix(matrices), out.data_ptr())
        job = (DTYPES[dtype], n, described, LAYOUTS[layout], *places)
        run("rotated_synthesis", z_exp, threads_for(n * K, ELEMENTS_A_THREAD), *job)
    return out


def rotated_synthesis_grads(
    grad: Tensor, z_exp: Tensor, z_id: Tensor, R: Tensor, layout: str, needs: list[bool]
) -> Tensor:
    n, dtype = z_exp.shape[0], z_exp.dtype
    described, extents, K, _ = describe_factors([z_exp, z_id], 2)
    factor_width = needed_width(extents, needs[:2])
    width = factor_width + (9 if needs[2] else 0)
    if n * K * width == 0:
        return z_exp.new_zeros((n, width))
    out = new_result((n, width), z_exp, HUGE_BYTES)
    matrices = rows_of_nine(R)
    job = (
        DTYPES[dtype],
        n,
        described,
        describe_grads(out, extents, needs[:2]),
        width,
        LAYOUTS[layout],
        describe_matrix(matrices),
        describe_matrix(grad),
        out.data_ptr() + factor_width * out.element_size() if needs[2] else 0,
        width,
    )
    run("rotated_synthesis_grads", z_exp, threads_for(n * K, ELEMENTS_A_THREAD), *job)
    return out
