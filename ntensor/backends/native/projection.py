"""Projection, with and without the mean output, and its gradients by the compiled core for CPUs.

A single factor (M = 1) makes the projection a plain matrix product, which the BLAS of torch serves.
"""

import math
from typing import Any

import torch
from torch import Tensor

from ntensor.backends.native import plans
from ntensor.backends.native.library import (
    CPU,
    DTYPES,
    MULTIPLY_ADDS_A_THREAD,
    NO_MATRIX,
    Described,
    core_mean,
    cpu_module,
    describe_factors,
    describe_grads,
    describe_matrix,
    describe_optional,
    large_empty,
    needed_width,
    simd_level,
    split_grads,
    threads_for,
    write_core_grad_of_one,
)
from ntensor.backends.native.library import scratch as scratch_memory
from ntensor.backends.native.synthesis import synthesis


def _project(core: Tensor, factors: list[Tensor], mean: bool) -> tuple[Tensor, Tensor | None]:
    n, dtype, k_x = factors[0].shape[0], core.dtype, core.shape[0]
    described, extents, K = describe_factors(factors)
    if n * k_x * K == 0:
        return core.new_zeros((n, k_x)), core.new_zeros((n, k_x)) if mean else None
    if len(factors) == 1:
        return factors[0] @ core.T, core_mean(core).expand(n, k_x).clone() if mean else None
    threads = threads_for(n * k_x * K, MULTIPLY_ADDS_A_THREAD)
    level = simd_level()
    plan = plans.projection(level, DTYPES[dtype], n, extents, k_x, mean, threads, plans.forced())
    if plan.split == plans.PRODUCT:
        return synthesis(factors) @ core.view(k_x, K).T, None
    x = torch.empty(n, k_x, dtype=dtype, device=CPU)
    x_mean = torch.empty(n, k_x, dtype=dtype, device=CPU) if mean else None
    memory = scratch_memory(plan.scratch)
    cpu_module().projection(
        level,
        DTYPES[dtype],
        n,
        described,
        core.data_ptr(),
        k_x,
        x.data_ptr(),
        0 if x_mean is None else x_mean.data_ptr(),
        plan.split,
        threads,
        memory.data_ptr(),
    )
    return x, x_mean


def synthesis_projection(core: Tensor, factors: list[Tensor]) -> Tensor:
    return _project(core, factors, False)[0]


def synthesis_projection_with_mean(core: Tensor, factors: list[Tensor]) -> tuple[Tensor, Tensor]:
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
    described = describe_factors(factors)
    _, extents, K = described
    n, dtype, k_x = factors[0].shape[0], core.dtype, core.shape[0]
    width = needed_width(extents, needs)
    if n * k_x * K * width == 0:
        return core.new_zeros((n, width))
    if len(factors) == 1:
        return core.new_zeros((n, width)) if grad is None else grad @ core
    out = torch.empty(n, width, dtype=dtype, device=CPU)
    addresses = describe_grads(out, extents, needs)
    _write_factor_grads(addresses, width, core, grad, grad_mean, n, described)
    return out


def projection_core_grad(
    grad: Tensor | None, grad_mean: Tensor | None, factors: list[Tensor]
) -> Tensor:
    main: Any = grad_mean if grad is None else grad
    described = describe_factors(factors)
    out = large_empty((main.shape[1], *described[1]), main.dtype)
    _write_core_grad(out, grad, grad_mean, factors, False, described)
    return out


def projection_core_grad_(
    core_grad: Tensor, grad: Tensor | None, grad_mean: Tensor | None, factors: list[Tensor]
) -> None:
    _write_core_grad(core_grad, grad, grad_mean, factors, True, describe_factors(factors))


def projection_grads(
    core: Tensor,
    grad: Tensor | None,
    grad_mean: Tensor | None,
    factors: list[Tensor],
    needs_core: bool,
    needs: list[bool],
) -> list[Tensor | None]:
    """The gradients of the core and of each factor, None where not needed.

    The same as the two operations together, at less host time on a CPU: arguments are described
    once, and each gradient is contiguous, so that autograd keeps it as it is.
    """
    n, dtype, k_x = factors[0].shape[0], core.dtype, core.shape[0]
    described = describe_factors(factors)
    _, extents, K = described
    core_grad = None
    found: list[Tensor | None] = []
    if len(factors) == 1 or n * k_x * K == 0:
        if needs_core:
            core_grad = projection_core_grad(grad, grad_mean, factors)
        joined = projection_factor_grads(core, grad, grad_mean, factors, needs)
        return [core_grad, *split_grads(joined, extents, needs)]
    if needs_core:
        core_grad = large_empty(core.shape, dtype)
        _write_core_grad(core_grad, grad, grad_mean, factors, False, described)
    addresses = []
    for extent, need in zip(extents, needs, strict=True):
        out = torch.empty(n, extent, dtype=dtype, device=CPU) if need else None
        found.append(out)
        addresses.append(0 if out is None else out.data_ptr())
    if True in needs:
        _write_factor_grads(addresses, 0, core, grad, grad_mean, n, described)
    return [core_grad, *found]


def _write_factor_grads(
    addresses: list[int],
    row_stride: int,
    core: Tensor,
    grad: Tensor | None,
    grad_mean: Tensor | None,
    n: int,
    described: Described,
) -> None:
    """Writes to the addresses that are not 0; a row stride of 0: each gradient is contiguous."""
    inputs, extents, K = described
    dtype, k_x = DTYPES[core.dtype], core.shape[0]
    threads = threads_for(n * k_x * K, MULTIPLY_ADDS_A_THREAD)
    level = simd_level()
    main, mean = describe_optional(grad), describe_optional(grad_mean)
    plan = plans.factor_grads(
        level,
        dtype,
        n,
        extents,
        k_x,
        grad is not None,
        grad_mean is not None,
        (mean if grad is None else main)[2] == 1,
        tuple([address != 0 for address in addresses]),
        row_stride == 0,
        threads,
        plans.forced(),
    )
    h = plan.hoisted
    if h < 0:
        assert grad is not None
        dy = grad @ core.view(k_x, K)
        memory = scratch_memory(plan.spread)
        cpu_module().synthesis_grads(
            level,
            dtype,
            n,
            inputs,
            addresses,
            row_stride,
            describe_matrix(dy),
            threads,
            memory.data_ptr(),
        )
        return
    if plan.inner:
        memory = scratch_memory(plan.inner.scratch)
        cpu_module().projection_factor_grads(
            level,
            dtype,
            n,
            inputs,
            [0] * h + addresses[h:],
            row_stride,
            core.data_ptr(),
            k_x,
            main,
            mean,
            plan.inner.split,
            threads,
            memory.data_ptr(),
        )
    if plan.outer:
        # The core's outputs and the hoisted indices change places.
        L = math.prod(extents[:h])
        memory = scratch_memory(plan.outer.scratch)
        dH = None if h == 1 else torch.empty(n, L, dtype=core.dtype, device=CPU)
        cpu_module().projection(
            level,
            dtype,
            n,
            [main[0], k_x, main[1], main[2], *inputs[4 * h :]],
            core.data_ptr(),
            L,
            addresses[0] if dH is None else dH.data_ptr(),
            0,
            plan.outer.split,
            threads,
            memory.data_ptr(),
        )
        if dH is not None:
            memory = scratch_memory(plan.spread)
            cpu_module().synthesis_grads(
                level,
                dtype,
                n,
                inputs[: 4 * h],
                addresses[:h],
                row_stride,
                describe_matrix(dH),
                threads,
                memory.data_ptr(),
            )


def _write_core_grad(
    out: Tensor,
    grad: Tensor | None,
    grad_mean: Tensor | None,
    factors: list[Tensor],
    accumulate: bool,
    described: Described,
) -> None:
    addresses, extents, K = described
    n, dtype, k_x = factors[0].shape[0], out.dtype, out.shape[0]
    if n * k_x * K == 0:
        if not accumulate:
            out.zero_()
        return
    if len(factors) == 1:
        write_core_grad_of_one(out, grad, grad_mean, factors[0], accumulate)
        return
    threads = threads_for(n * k_x * K, MULTIPLY_ADDS_A_THREAD)
    level = simd_level()
    plan = plans.core_grad(
        level,
        DTYPES[dtype],
        n,
        extents,
        k_x,
        grad is not None,
        grad_mean is not None,
        threads,
        plans.forced(),
    )
    if plan.split == plans.PRODUCT:
        assert grad is not None
        matrix, y = out.view(k_x, K), synthesis(factors)
        if accumulate:
            matrix.addmm_(grad.T, y)
        else:
            torch.mm(grad.T, y, out=matrix)
        return
    memory = scratch_memory(plan.scratch)
    cpu_module().projection_core_grad(
        level,
        DTYPES[dtype],
        n,
        addresses,
        k_x,
        describe_optional(grad),
        describe_optional(grad_mean),
        out.data_ptr(),
        accumulate,
        plan.split,
        threads,
        memory.data_ptr(),
    )


def mttkrp(tensor: Tensor, others: list[Tensor], mode: int) -> Tensor:
    """`(I_mode, R)`; others: at least two matrices `(I_m, R)`, one for each of the other modes."""
    shape, dtype = tensor.shape, tensor.dtype
    rank = others[0].shape[1]
    work = rank * tensor.numel()
    if work == 0:
        return tensor.new_zeros((shape[mode], rank))
    described: list[int] = []
    for matrix in others:
        row, column = matrix.stride()
        described += (matrix.data_ptr(), matrix.shape[0], column, row)
    threads = threads_for(work, MULTIPLY_ADDS_A_THREAD)
    level, number = simd_level(), DTYPES[dtype]
    projects, plan = plans.mttkrp(level, number, rank, shape, mode, threads, plans.forced())
    memory = scratch_memory(plan.scratch)
    if projects:
        out = torch.empty(shape[mode], rank, dtype=dtype, device=CPU)
        cpu_module().projection(
            level,
            number,
            rank,
            described,
            tensor.data_ptr(),
            shape[mode],
            out.data_ptr(),
            0,
            plan.split,
            threads,
            memory.data_ptr(),
        )
        return out
    out = torch.empty(rank, shape[mode], dtype=dtype, device=CPU)
    upstream = others[0].stride()
    # The slot of the mode is not read.
    place = 4 * mode
    cpu_module().projection_factor_grads(
        level,
        number,
        rank,
        [*described[4:place], tensor.data_ptr(), shape[mode], 0, 0, *described[place:]],
        [out.data_ptr() if each == mode else 0 for each in range(1, len(shape))],
        0,
        tensor.data_ptr(),
        shape[0],
        (others[0].data_ptr(), upstream[1], upstream[0]),
        NO_MATRIX,
        plan.split,
        threads,
        memory.data_ptr(),
    )
    return out.T.contiguous()
