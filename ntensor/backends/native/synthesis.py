"""Synthesis and its gradients by the compiled core."""

import torch
from torch import Tensor

from ntensor.backends.native import scratch
from ntensor.backends.native.library import (
    DTYPES,
    ELEMENTS_A_THREAD,
    cpu_module,
    describe_factors,
    describe_grads,
    describe_matrix,
    simd_level,
    threads_for,
)
from ntensor.backends.native.library import scratch as scratch_memory


def extents_of(factors: list[Tensor]) -> tuple[tuple[int, ...], int]:
    """`(k_1, ..., k_M)` and their product K."""
    extents = tuple([z.shape[1] for z in factors])
    K = 1
    for extent in extents:
        K *= extent
    return extents, K


def synthesis(factors: list[Tensor]) -> Tensor:
    n, dtype = factors[0].shape[0], factors[0].dtype
    extents, K = extents_of(factors)
    y = torch.empty((n, K), dtype=dtype)
    if n * K == 0:
        return y
    threads = threads_for(n * K, ELEMENTS_A_THREAD)
    level = simd_level()
    memory = scratch_memory(scratch.synthesis(level, DTYPES[dtype], n, extents, threads))
    cpu_module().synthesis(
        level,
        DTYPES[dtype],
        n,
        describe_factors(factors),
        y.data_ptr(),
        threads,
        memory.data_ptr(),
    )
    return y


def synthesis_grads(grad: Tensor, factors: list[Tensor], needs: list[bool]) -> Tensor:
    n, dtype = factors[0].shape[0], factors[0].dtype
    extents, K = extents_of(factors)
    width = sum(k for k, needed in zip(extents, needs, strict=True) if needed)
    if n * K == 0:
        return torch.zeros((n, width), dtype=dtype)
    out = torch.empty((n, width), dtype=dtype)
    threads = threads_for(n * K, ELEMENTS_A_THREAD)
    level = simd_level()
    memory = scratch_memory(scratch.synthesis_grads(level, DTYPES[dtype], n, extents, threads))
    cpu_module().synthesis_grads(
        level,
        DTYPES[dtype],
        n,
        describe_factors(factors),
        describe_grads(out, factors, needs),
        width,
        describe_matrix(grad),
        threads,
        memory.data_ptr(),
    )
    return out
