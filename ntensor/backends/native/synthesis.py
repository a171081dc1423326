"""Synthesis and its gradients by the compiled core for CPUs."""

import torch
from torch import Tensor

from ntensor.backends.native import scratch
from ntensor.backends.native.library import (
    CPU,
    DTYPES,
    ELEMENTS_A_THREAD,
    cpu_module,
    describe_factors,
    describe_grads,
    describe_matrix,
    needed_width,
    simd_level,
    threads_for,
)
from ntensor.backends.native.library import scratch as scratch_memory


def synthesis(factors: list[Tensor]) -> Tensor:
    n, dtype = factors[0].shape[0], factors[0].dtype
    described, extents, K = describe_factors(factors)
    y = torch.empty((n, K), dtype=dtype, device=CPU)
    if n * K == 0:
        return y
    threads = threads_for(n * K, ELEMENTS_A_THREAD)
    level = simd_level()
    memory = scratch_memory(scratch.synthesis(level, DTYPES[dtype], n, extents, threads))
    cpu_module().synthesis(
        level,
        DTYPES[dtype],
        n,
        described,
        y.data_ptr(),
        threads,
        memory.data_ptr(),
    )
    return y


def synthesis_grads(grad: Tensor, factors: list[Tensor], needs: list[bool]) -> Tensor:
    n, dtype = factors[0].shape[0], factors[0].dtype
    described, extents, K = describe_factors(factors)
    width = needed_width(extents, needs)
    if n * K == 0:
        return torch.zeros((n, width), dtype=dtype, device=CPU)
    out = torch.empty(n, width, dtype=dtype, device=CPU)
    threads = threads_for(n * K, ELEMENTS_A_THREAD)
    level = simd_level()
    memory = scratch_memory(scratch.synthesis_grads(level, DTYPES[dtype], n, extents, threads))
    cpu_module().synthesis_grads(
        level,
        DTYPES[dtype],
        n,
        described,
        describe_grads(out, extents, needs),
        width,
        describe_matrix(grad),
        threads,
        memory.data_ptr(),
    )
    return out
