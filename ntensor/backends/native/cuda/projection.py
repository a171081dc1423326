"""Projection, with and without the mean output, and its gradients by the CUDA kernels.

A single factor (M = 1) makes the projection a plain matrix product, which the BLAS of torch serves.
"""

from typing import Any

from torch import Tensor

from ntensor.backends.native.cuda.library import run
from ntensor.backends.native.library import (
    DTYPES,
    core_mean,
    describe_factors,
    describe_grads,
    describe_optional,
    needed_width,
    split_grads,
    write_core_grad_of_one,
)


def _project(core: Tensor, factors: list[Tensor], mean: bool) -> tuple[Tensor, Tensor | None]:
    n, k_x = factors[0].shape[0], core.shape[0]
    described, _, K = describe_factors(factors)
    if n * k_x * K == 0:
        return core.new_zeros((n, k_x)), core.new_zeros((n, k_x)) if mean else None
    if len(factors) == 1:
        return factors[0] @ core.T, core_mean(core).expand(n, k_x).clone() if mean else None
    x = core.new_empty((n, k_x))
    x_mean = core.new_empty((n, k_x)) if mean else None
    places = (core.data_ptr(), k_x, x.data_ptr(), 0 if x_mean is None else x_mean.data_ptr())
    # How it is split is the kernel's own choice.
    run("projection", core, (DTYPES[core.dtype], n, described, *places, (int(mean), 0, 0, 0)))
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
    n, dtype, k_x = factors[0].shape[0], core.dtype, core.shape[0]
    described, extents, K = describe_factors(factors)
    width = needed_width(extents, needs)
    if n * k_x * K * width == 0:
        return core.new_zeros((n, width))
    if len(factors) == 1:
        return core.new_zeros((n, width)) if grad is None else grad @ core
    out = core.new_empty((n, width))
    arguments = (
        DTYPES[dtype],
        n,
        described,
        describe_grads(out, extents, needs),
        width,
        core.data_ptr(),
        k_x,
        describe_optional(grad),
        describe_optional(grad_mean),
        (0, 0, 0, 0),
    )
    run("projection_factor_grads", core, arguments)
    return out


def projection_core_grad(
    grad: Tensor | None, grad_mean: Tensor | None, factors: list[Tensor]
) -> Tensor:
    main: Any = grad_mean if grad is None else grad
    out = main.new_empty((main.shape[1], *[z.shape[1] for z in factors]))
    _write_core_grad(out, grad, grad_mean, factors, False)
    return out


def projection_core_grad_(
    core_grad: Tensor, grad: Tensor | None, grad_mean: Tensor | None, factors: list[Tensor]
) -> None:
    _write_core_grad(core_grad, grad, grad_mean, factors, True)


def projection_grads(
    core: Tensor,
    grad: Tensor | None,
    grad_mean: Tensor | None,
    factors: list[Tensor],
    needs_core: bool,
    needs: list[bool],
) -> list[Tensor | None]:
    """The gradients of the core and of each factor, None where not needed."""
    core_grad = projection_core_grad(grad, grad_mean, factors) if needs_core else None
    joined = projection_factor_grads(core, grad, grad_mean, factors, needs)
    return [core_grad, *split_grads(joined, tuple(core.shape[1:]), needs)]


def _write_core_grad(
    out: Tensor,
    grad: Tensor | None,
    grad_mean: Tensor | None,
    factors: list[Tensor],
    accumulate: bool,
) -> None:
    n, dtype, k_x = factors[0].shape[0], factors[0].dtype, out.shape[0]
    described, _, K = describe_factors(factors)
    if n * k_x * K == 0:
        if not accumulate:
            out.zero_()
        return
    if len(factors) == 1:
        write_core_grad_of_one(out, grad, grad_mean, factors[0], accumulate)
        return
    arguments = (
        DTYPES[dtype],
        n,
        described,
        k_x,
        describe_optional(grad),
        describe_optional(grad_mean),
        out.data_ptr(),
        accumulate,
        (int(grad_mean is not None), 0, 0, 0),
    )
    run("projection_core_grad", out, arguments)
