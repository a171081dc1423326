"""Projection, with and without the mean output, and its gradients by the compiled core.

A single factor (M = 1) makes the projection a plain matrix product, which the BLAS of torch serves.
"""

import torch
from torch import Tensor

from ntensor.backends.native import scratch
from ntensor.backends.native.cuda import projection as cuda
from ntensor.backends.native.library import (
    DTYPES,
    MULTIPLY_ADDS_A_THREAD,
    check_shape,
    core_mean,
    cpu_module,
    describe_factors,
    describe_grads,
    describe_optional,
    given,
    large_empty,
    needed_width,
    simd_level,
    threads_for,
    write_core_grad_of_one,
)
from ntensor.backends.native.library import scratch as scratch_memory


def _project(core: Tensor, factors: list[Tensor], mean: bool) -> tuple[Tensor, Tensor | None]:
    n, dtype, k_x = factors[0].shape[0], core.dtype, core.shape[0]
    described, extents, K = describe_factors(factors)
    check_shape("core", core, (k_x, *extents), factors[0].dtype)
    if n * k_x * K == 0:
        return core.new_zeros((n, k_x)), core.new_zeros((n, k_x)) if mean else None
    if len(factors) == 1:
        return factors[0] @ core.T, core_mean(core).expand(n, k_x).clone() if mean else None
    x = torch.empty((n, k_x), dtype=dtype)
    x_mean = torch.empty((n, k_x), dtype=dtype) if mean else None
    threads = threads_for(n * k_x * K, MULTIPLY_ADDS_A_THREAD)
    level = simd_level()
    memory = scratch_memory(
        scratch.projection(level, DTYPES[dtype], n, extents, k_x, mean, threads)
    )
    cpu_module().projection(
        level,
        DTYPES[dtype],
        n,
        described,
        core.data_ptr(),
        k_x,
        x.data_ptr(),
        0 if x_mean is None else x_mean.data_ptr(),
        threads,
        memory.data_ptr(),
    )
    return x, x_mean


def synthesis_projection(core: Tensor, factors: list[Tensor]) -> Tensor:
    if core.is_cuda:
        return cuda.synthesis_projection(core, factors)
    return _project(core, factors, False)[0]


def synthesis_projection_with_mean(core: Tensor, factors: list[Tensor]) -> tuple[Tensor, Tensor]:
    if core.is_cuda:
        return cuda.synthesis_projection_with_mean(core, factors)
    x, x_mean = _project(core, factors, True)
    assert x_mean is not None
    return x, x_mean


def projection_factor_grads(
    core: Tensor,
    grad: Tensor | None,
    grad_mean: Tensor | None,
    factors: list[Tensor],
    needs: list[bool],
) -> Tensor:
    if core.is_cuda:
        return cuda.projection_factor_grads(core, grad, grad_mean, factors, needs)
    n, dtype, k_x = factors[0].shape[0], core.dtype, core.shape[0]
    described, extents, K = describe_factors(factors)
    width = needed_width(extents, needs)
    check_shape("core", core, (k_x, *extents), factors[0].dtype)
    check_shape("grad", grad, (n, k_x), dtype)
    check_shape("grad_mean", grad_mean, (n, k_x), dtype)
    if n * k_x * K * width == 0:
        return core.new_zeros((n, width))
    if len(factors) == 1:
        return core.new_zeros((n, width)) if grad is None else grad @ core
    out = torch.empty((n, width), dtype=dtype)
    threads = threads_for(n * k_x * K, MULTIPLY_ADDS_A_THREAD)
    level = simd_level()
    contiguous = given(grad, grad_mean).stride(1) == 1
    memory = scratch_memory(
        scratch.projection_factor_grads(
            level,
            DTYPES[dtype],
            n,
            extents,
            k_x,
            grad is not None,
            grad_mean is not None,
            contiguous,
            threads,
        )
    )
    cpu_module().projection_factor_grads(
        level,
        DTYPES[dtype],
        n,
        described,
        describe_grads(out, extents, needs),
        width,
        core.data_ptr(),
        k_x,
        describe_optional(grad),
        describe_optional(grad_mean),
        threads,
        memory.data_ptr(),
    )
    return out


def projection_core_grad(
    grad: Tensor | None, grad_mean: Tensor | None, factors: list[Tensor]
) -> Tensor:
    main = given(grad, grad_mean)
    if main.is_cuda:
        return cuda.projection_core_grad(grad, grad_mean, factors)
    out = large_empty((main.shape[1], *[z.shape[1] for z in factors]), factors[0].dtype)
    _write_core_grad(out, grad, grad_mean, factors, False)
    return out


def projection_core_grad_(
    core_grad: Tensor, grad: Tensor | None, grad_mean: Tensor | None, factors: list[Tensor]
) -> None:
    if core_grad.is_cuda:
        cuda.projection_core_grad_(core_grad, grad, grad_mean, factors)
        return
    _write_core_grad(core_grad, grad, grad_mean, factors, True)


def _write_core_grad(
    out: Tensor,
    grad: Tensor | None,
    grad_mean: Tensor | None,
    factors: list[Tensor],
    accumulate: bool,
) -> None:
    n, dtype, k_x = factors[0].shape[0], factors[0].dtype, out.shape[0]
    described, extents, K = describe_factors(factors)
    given(grad, grad_mean)
    check_shape("core_grad", out, (k_x, *extents), dtype)
    check_shape("grad", grad, (n, k_x), dtype)
    check_shape("grad_mean", grad_mean, (n, k_x), dtype)
    if n * k_x * K == 0:
        if not accumulate:
            out.zero_()
        return
    if len(factors) == 1:
        write_core_grad_of_one(out, grad, grad_mean, factors[0], accumulate)
        return
    threads = threads_for(n * k_x * K, MULTIPLY_ADDS_A_THREAD)
    level = simd_level()
    memory = scratch_memory(
        scratch.projection_core_grad(
            level, DTYPES[dtype], n, extents, k_x, grad_mean is not None, threads
        )
    )
    cpu_module().projection_core_grad(
        level,
        DTYPES[dtype],
        n,
        described,
        k_x,
        describe_optional(grad),
        describe_optional(grad_mean),
        out.data_ptr(),
        accumulate,
        threads,
        memory.data_ptr(),
    )
