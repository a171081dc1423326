"""Projection, with and without the mean output, and its gradients by the compiled core.

A single factor (M = 1) makes the projection a plain matrix product, which the BLAS of torch serves.
"""

import math
from typing import Any

import torch
from torch import Tensor

from ntensor.backends.native import call, plans
from ntensor.backends.native.library import (
    Described,
    core_mean,
    describe_factors,
    describe_grads,
    describe_matrix,
    describe_optional,
    in_order,
    needed_width,
    split_grads,
    write_core_grad_of_one,
)
from ntensor.backends.native.memory import new_result
from ntensor.backends.native.mttkrp import mttkrp as mttkrp
from ntensor.backends.native.mttkrp import rows_of_mode as rows_of_mode
from ntensor.backends.native.synthesis import synthesis


def products(left: Tensor, core: Tensor, groups: int, transposed: bool = False) -> Tensor:
    """`(groups n, ...)` times the matrix `(groups k_x, K)`, or its transpose, group by group."""
    if groups == 1:
        return left @ (core.T if transposed else core)
    matrices = core.view(groups, -1, core.shape[1])
    matrices = matrices.mT if transposed else matrices
    rows = left.reshape(groups, -1, left.shape[1])
    return torch.bmm(rows, matrices).view(left.shape[0], matrices.shape[2])


def _project(
    core: Tensor, factors: list[Tensor], mean: bool, groups: int = 1
) -> tuple[Tensor, Tensor | None]:
    rows, k_x = factors[0].shape[0], core.shape[0] // groups
    described, extents, K, _ = describe_factors(factors, int(mean))
    if rows * k_x * K == 0:
        return core.new_zeros((rows, k_x)), core.new_zeros((rows, k_x)) if mean else None
    if len(factors) == 1:
        x_mean = core_mean(core).expand(rows, k_x).clone() if mean else None
        return products(factors[0], core, groups, True), x_mean
    sizes, stack = call.stacked_sizes_of(core, groups, rows // groups, extents, k_x)
    split = plans.projection(sizes, mean, plans.forced())
    if split == plans.MEAN_APART:
        return _project(core, factors, False)[0], _project(core.mean(1), factors[1:], False)[0]
    if split == plans.MEAN_BESIDE:
        both = _project(core, _samples_of_outputs(factors, True), False)[0]
        return both[:rows].clone(), both[rows:].clone()
    if split == plans.PRODUCT:
        return products(synthesis(factors), core.view(groups * k_x, K), groups, True), None
    x = new_result((rows, k_x), core)
    x_mean = new_result((rows, k_x), core) if mean else None
    places = (core.data_ptr(), k_x, x.data_ptr(), 0 if x_mean is None else x_mean.data_ptr())
    job = (sizes.dtype, sizes.n, described, *places, split, stack)
    call.run("projection", core, sizes.threads, *job, sizes=(sizes, mean, stack))
    return x, x_mean


def _samples_of_outputs(factors: list[Tensor], of_both: bool) -> list[Tensor]:
    """Factors whose projection is x_mean, of_both: x and then x_mean."""
    leading, *others = factors
    of_mean = torch.full_like(leading, 1 / leading.shape[1], memory_format=torch.contiguous_format)
    if not of_both:
        return [of_mean, *others]
    return [torch.cat((leading, of_mean)), *(torch.cat((each, each)) for each in others)]


def _grads_beside(
    grad: Tensor | None, grad_mean: Tensor | None, factors: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """The gradients of both outputs, or of x_mean, as those of one projection; its factors."""
    assert grad_mean is not None
    joined = grad_mean if grad is None else torch.cat((grad, grad_mean))
    return joined, _samples_of_outputs(factors, grad is not None)


def synthesis_projection(core: Tensor, factors: list[Tensor]) -> Tensor:
    return _project(core, factors, False)[0]


def grouped_projection(core: Tensor, factors: list[Tensor], groups: int) -> Tensor:
    return _project(core, factors, False, groups)[0]


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
    return _joined_factor_grads(core, grad, grad_mean, factors, 1, needs)


def grouped_projection_factor_grads(
    core: Tensor, grad: Tensor, factors: list[Tensor], groups: int, needs: list[bool]
) -> Tensor:
    return _joined_factor_grads(core, grad, None, factors, groups, needs)


def _joined_factor_grads(
    core: Tensor,
    grad: Tensor | None,
    grad_mean: Tensor | None,
    factors: list[Tensor],
    groups: int,
    needs: list[bool],
) -> Tensor:
    described = describe_factors(factors, int(grad_mean is not None))
    extents = tuple([z.shape[1] for z in factors])
    rows = factors[0].shape[0]
    width = needed_width(extents, needs)
    if rows * core.numel() * width == 0:
        return core.new_zeros((rows, width))
    if len(factors) == 1:
        return core.new_zeros((rows, width)) if grad is None else products(grad, core, groups)
    way = plans.Split()
    if grad_mean is not None:
        way = _way_of_factor_grads(core, grad, rows, described, needs, False)
    if way == plans.MEAN_BESIDE:
        joined, beside = _grads_beside(grad, grad_mean, factors)
        both = projection_factor_grads(core, joined, None, beside, needs)
        leading = extents[0] if needs[0] else 0
        both[-rows:, :leading] = 0
        return both if grad is None else both[:rows] + both[rows:]
    if way == plans.MEAN_APART:
        assert grad_mean is not None
        of_mean = projection_factor_grads(core.mean(1), grad_mean, None, factors[1:], needs[1:])
        leading = width - of_mean.shape[1]
        if grad is None:
            return torch.nn.functional.pad(of_mean, (leading, 0))
        of_x = projection_factor_grads(core, grad, None, factors, needs)
        of_x[:, leading:] += of_mean
        return of_x
    out = new_result((rows, width), core)
    addresses = describe_grads(out, extents, needs)
    _write_factor_grads(addresses, width, core, grad, grad_mean, rows, described, groups)
    return out


def _way_of_factor_grads(
    core: Tensor,
    grad: Tensor | None,
    rows: int,
    described: Described,
    needs: list[bool],
    each: bool,
) -> plans.Split:
    """With a mean output; each: those of every factor are a tensor of their own."""
    sizes = call.sizes_of(core, rows, described[1], core.shape[0])
    wanted = (grad is not None, True, tuple(in_order(needs, described[3])), each)
    return plans.factor_grads(sizes, *wanted, plans.forced()).way


def projection_core_grad(
    grad: Tensor | None, grad_mean: Tensor | None, factors: list[Tensor]
) -> Tensor:
    main: Any = grad_mean if grad is None else grad
    out = new_result((main.shape[1], *[z.shape[1] for z in factors]), main)
    _write_core_grad(out, grad, grad_mean, factors, False)
    return out


def grouped_projection_core_grad(grad: Tensor, factors: list[Tensor], groups: int) -> Tensor:
    out = new_result((groups * grad.shape[1], *[z.shape[1] for z in factors]), grad)
    _write_core_grad(out, grad, None, factors, False, groups)
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
    """The gradients of the core and of each factor, None where not needed.

    The same as the two operations together, at less host time: arguments are described once, and
    each gradient is contiguous, so that autograd keeps it as it is.
    """
    n = factors[0].shape[0]
    extents = tuple([z.shape[1] for z in factors])
    core_grad = None
    found: list[Tensor | None] = []
    if len(factors) == 1 or n * core.numel() == 0:
        if needs_core:
            core_grad = projection_core_grad(grad, grad_mean, factors)
        joined = projection_factor_grads(core, grad, grad_mean, factors, needs)
        return [core_grad, *split_grads(joined, extents, needs)]
    if needs_core:
        core_grad = new_result(core.shape, core)
        _write_core_grad(core_grad, grad, grad_mean, factors, False)
    described = describe_factors(factors, int(grad_mean is not None))
    way = plans.Split()
    if grad_mean is not None and True in needs:
        way = _way_of_factor_grads(core, grad, n, described, needs, True)
    if way == plans.MEAN_BESIDE:
        joined, beside = _grads_beside(grad, grad_mean, factors)
        both = projection_grads(core, joined, None, beside, False, needs)[1:]
        for place, total in enumerate(both):
            if total is None:
                found.append(None)
            elif place == 0:  # x_mean does not depend on z_1
                found.append(torch.zeros_like(total) if grad is None else total[:n].clone())
            else:
                found.append(total if grad is None else total[:n] + total[n:])
        return [core_grad, *found]
    if way == plans.MEAN_APART:
        assert grad_mean is not None
        parts = [
            None,
            *projection_grads(core.mean(1), grad_mean, None, factors[1:], False, needs[1:])[1:],
        ]
        if grad is None:
            parts[0] = torch.zeros_like(factors[0]) if needs[0] else None
            return [core_grad, *parts]
        found = projection_grads(core, grad, None, factors, False, needs)[1:]
        for total, part in zip(found, parts, strict=True):
            if total is not None and part is not None:
                total += part
        return [core_grad, *found]
    addresses = []
    for extent, need in zip(extents, needs, strict=True):
        out = new_result((n, extent), core) if need else None
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
    rows: int,
    described: Described,
    groups: int = 1,
) -> None:
    """Writes to the addresses that are not 0, one for each factor as it was given; a row stride of
    0: each gradient is contiguous."""
    inputs, extents, K, order = described
    addresses = in_order(addresses, order)
    k_x = core.shape[0] // groups
    sizes, stack = call.stacked_sizes_of(core, groups, rows // groups, extents, k_x)
    n = sizes.n
    needs = tuple([address != 0 for address in addresses])
    wanted = (grad is not None, grad_mean is not None, needs, row_stride == 0)
    way, inner, outer = plans.factor_grads(sizes, *wanted, plans.forced())
    h = way.hoisted

    def spread(dy: Tensor, count: int) -> None:
        """Takes the gradient of the synthesis of the first factors apart."""
        job = (rows, inputs[: 4 * count], addresses[:count], row_stride, describe_matrix(dy))
        call.run("synthesis_grads", core, sizes.threads * stack[1], sizes.dtype, *job)

    if h < 0:
        assert grad is not None
        spread(products(grad, core.view(groups * k_x, K), groups), len(extents))
        return
    main = describe_optional(grad)
    if inner is not None:
        gradients = ([0] * h + addresses[h:], row_stride)
        job = (n, inputs, *gradients, core.data_ptr(), k_x, main, describe_optional(grad_mean))
        call.run("projection_factor_grads", core, sizes.threads, sizes.dtype, *job, inner, stack)
    if outer is not None:
        # The core's outputs and the hoisted indices change places.
        L = math.prod(extents[:h])
        dH = None if h == 1 else new_result((rows, L), core)
        swapped = [main[0], k_x, main[1], main[2], *inputs[4 * h :]]
        to = addresses[0] if dH is None else dH.data_ptr()
        places = (core.data_ptr(), L, to, 0)
        swapped_job = (sizes.dtype, n, swapped, *places, outer, stack)
        call.run("projection", core, sizes.threads, *swapped_job)
        if dH is not None:
            spread(dH, h)


def _write_core_grad(
    out: Tensor,
    grad: Tensor | None,
    grad_mean: Tensor | None,
    factors: list[Tensor],
    accumulate: bool,
    groups: int = 1,
) -> None:
    inputs, extents, K, _ = describe_factors(factors, int(grad_mean is not None))
    rows, k_x = factors[0].shape[0], out.shape[0] // groups
    if rows * k_x * K == 0:
        if not accumulate:
            out.zero_()
        return
    if len(factors) == 1 and groups == 1:
        write_core_grad_of_one(out, grad, grad_mean, factors[0], accumulate)
        return
    sizes, stack = call.stacked_sizes_of(out, groups, rows // groups, extents, k_x)
    by_torch = len(factors) == 1
    if not by_torch:
        wanted = (grad is not None, grad_mean is not None)
        split = plans.core_grad(sizes, *wanted, plans.forced())
        by_torch = split == plans.PRODUCT
        if split == plans.MEAN_BESIDE:
            joined, beside = _grads_beside(grad, grad_mean, factors)
            _write_core_grad(out, joined, None, beside, accumulate)
            return
        if split == plans.MEAN_APART:
            if grad is not None:
                _write_core_grad(out, grad, None, factors, accumulate)
            of_mean = projection_core_grad(grad_mean, None, factors[1:]).div_(extents[0])
            along, of_mean = out.view(k_x, extents[0], -1), of_mean.view(k_x, 1, -1)
            if grad is None and not accumulate:
                along.copy_(of_mean)
            else:
                along += of_mean
            return
    if by_torch:
        assert grad is not None
        y = synthesis(factors) if len(factors) > 1 else factors[0]
        if groups > 1:
            stacked = (grad.reshape(groups, -1, k_x).mT, y.reshape(groups, -1, K))
            torch.bmm(*stacked, out=out.view(groups, k_x, K))
        elif accumulate:
            out.view(k_x, K).addmm_(grad.T, y)
        else:
            torch.mm(grad.T, y, out=out.view(k_x, K))
        return
    both = (describe_optional(grad), describe_optional(grad_mean))
    job = (sizes.n, inputs, k_x, *both, out.data_ptr(), accumulate, split, stack)
    call.run("projection_core_grad", out, sizes.threads, sizes.dtype, *job)
