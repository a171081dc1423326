"""Rotation and rotated synthesis, and their gradients, by the compiled core for CPUs."""

import torch
from torch import Tensor

from ntensor.backends.native import scratch
from ntensor.backends.native.library import (
    CPU,
    DTYPES,
    ELEMENTS_A_THREAD,
    LAYOUTS,
    cpu_module,
    describe_factors,
    describe_grads,
    describe_matrix,
    needed_width,
    rows_of_nine,
    simd_level,
    threads_for,
)
from ntensor.backends.native.library import scratch as scratch_memory


def rotation(y: Tensor, R: Tensor, layout: str) -> Tensor:
    n, K = y.shape
    out = torch.empty((n, K), dtype=y.dtype, device=CPU)
    if n * K == 0:
        return out
    matrices = rows_of_nine(R)
    threads = threads_for(n * K, ELEMENTS_A_THREAD)
    level = simd_level()
    memory = scratch_memory(scratch.rotation(level, DTYPES[y.dtype], n, K, threads))
    cpu_module().rotation(
        level,
        DTYPES[y.dtype],
        n,
        K,
        LAYOUTS[layout],
        describe_matrix(y),
        describe_matrix(matrices),
        out.data_ptr(),
        threads,
        memory.data_ptr(),
    )
    return out


def rotation_matrix_grad(grad: Tensor, y: Tensor, layout: str) -> Tensor:
    n, K = y.shape
    if n * K == 0:
        return y.new_zeros((n, 3, 3))
    dR = torch.empty((n, 3, 3), dtype=y.dtype, device=CPU)
    threads = threads_for(n * K, ELEMENTS_A_THREAD)
    level = simd_level()
    memory = scratch_memory(scratch.rotation(level, DTYPES[y.dtype], n, K, threads))
    cpu_module().rotation_matrix_grad(
        level,
        DTYPES[y.dtype],
        n,
        K,
        LAYOUTS[layout],
        describe_matrix(grad),
        describe_matrix(y),
        dR.data_ptr(),
        threads,
        memory.data_ptr(),
    )
    return dR


def rotated_synthesis(z_exp: Tensor, z_id: Tensor, R: Tensor, layout: str) -> Tensor:
    factors = [z_exp, z_id]
    n, dtype = z_exp.shape[0], z_exp.dtype
    described, extents, K = describe_factors(factors)
    out = torch.empty((n, K), dtype=dtype, device=CPU)
    if n * K == 0:
        return out
    matrices = rows_of_nine(R)
    threads = threads_for(n * K, ELEMENTS_A_THREAD)
    level = simd_level()
    memory = scratch_memory(scratch.rotated_synthesis(level, DTYPES[dtype], n, extents, threads))
    cpu_module().rotated_synthesis(
        level,
        DTYPES[dtype],
        n,
        described,
        LAYOUTS[layout],
        describe_matrix(matrices),
        out.data_ptr(),
        threads,
        memory.data_ptr(),
    )
    return out


def rotated_synthesis_grads(
    grad: Tensor, z_exp: Tensor, z_id: Tensor, R: Tensor, layout: str, needs: list[bool]
) -> Tensor:
    factors = [z_exp, z_id]
    n, dtype = z_exp.shape[0], z_exp.dtype
    described, extents, K = describe_factors(factors)
    factor_width = needed_width(extents, needs[:2])
    width = factor_width + (9 if needs[2] else 0)
    if n * K == 0:
        return torch.zeros((n, width), dtype=dtype, device=CPU)
    out = torch.empty(n, width, dtype=dtype, device=CPU)
    matrices = rows_of_nine(R)
    threads = threads_for(n * K, ELEMENTS_A_THREAD)
    level = simd_level()
    memory = scratch_memory(scratch.rotated_synthesis(level, DTYPES[dtype], n, extents, threads))
    cpu_module().rotated_synthesis_grads(
        level,
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
        threads,
        memory.data_ptr(),
    )
    return out
