"""The scratch memory of the compiled core: what its jobs take beside inputs and outputs."""

import math
from typing import Any

import torch

from ntensor.backends.native import plans
from ntensor.backends.native.call import ALONE, scratch_of, sizes_of
from ntensor.backends.native.library import (
    DTYPES,
    ELEMENTS_A_THREAD,
    LAYOUTS,
    NO_MATRIX,
    describe_sizes,
    in_order,
    kernel_order,
    threads_for,
)

# A matrix that is there, row by row or to be collected element by element.
_MATRIX, _STRIDED = (1, 1, 1), (1, 1, 2)


def scratch_bytes(
    operation: str,
    n: int,
    extents: tuple[int, ...],
    k_x: int,
    dtype: torch.dtype,
    device: torch.device,
) -> int:
    """What `ntensor.scratch_bytes` says of these kernels; arguments are checked, no size is 0."""
    like = torch.empty(0, dtype=dtype, device=device)
    if operation.startswith("synthesis_projection"):
        mean = operation.endswith("mean")
        return 0 if len(extents) == 1 else _of_projection(like, n, extents, k_x, mean)
    if operation == "synthesis":
        extents = tuple(in_order(extents, kernel_order(extents)))
    K, factors, width = math.prod(extents), describe_sizes(extents), sum(extents)
    grads = [1] * len(extents)
    jobs: list[tuple[Any, ...]]
    if operation == "synthesis":
        jobs = [
            ("synthesis", factors, 0),
            ("synthesis_grads", factors, grads, width, _MATRIX),
        ]
    elif operation == "rotation":
        jobs = [
            ("rotation", K, 0, _MATRIX, _MATRIX, 0),
            ("rotation_matrix_grad", K, 0, _MATRIX, _MATRIX, 0),
        ]
    else:
        jobs = []
        for layout in LAYOUTS.values():  # the ways are different ones
            matrices = (layout, _MATRIX, _MATRIX, 1, width + 9)
            jobs.append(("rotated_synthesis", factors, layout, _MATRIX, 0))
            jobs.append(("rotated_synthesis_grads", factors, grads, width + 9, *matrices))
    threads, number = threads_for(n * K, ELEMENTS_A_THREAD), DTYPES[dtype]
    return max(scratch_of(name, like, threads, number, n, *job) for name, *job in jobs)


def _of_projection(
    like: torch.Tensor, n: int, extents: tuple[int, ...], k_x: int, mean: bool
) -> int:
    """Of the result, of the core's gradient, and of each way to the gradients of the factors."""
    extents = tuple(in_order(extents, kernel_order(extents, int(mean))))
    sizes, choice = sizes_of(like, n, extents, k_x), plans.forced()
    factors, grads = describe_sizes(extents), [1] * len(extents)
    products, of_mean, beside = False, 0, False

    def needed(name: str, *job: Any) -> int:
        stack = (ALONE,) if name.startswith("projection") else ()
        return scratch_of(name, like, sizes.threads, sizes.dtype, n, *job, *stack)

    def by_kernels(way: plans.Split, formed: int = 0) -> bool:
        """formed: elements beside a mean core, or its gradient."""
        nonlocal products, of_mean, beside
        products |= way == plans.PRODUCT
        beside |= way == plans.MEAN_BESIDE
        if way == plans.MEAN_APART:
            of_mean = max(of_mean, k_x * math.prod(extents[1:]) + formed)
        return way.hoisted >= 0

    found = [0]
    split = plans.projection(sizes, mean, choice)
    if by_kernels(split):
        found.append(needed("projection", factors, 0, k_x, 0, int(mean), split))
    split = plans.core_grad(sizes, True, mean, choice)
    for matrix in (_MATRIX, _STRIDED):
        both = (matrix, matrix if mean else NO_MATRIX)
        if by_kernels(split):
            found.append(needed("projection_core_grad", factors, k_x, *both, 0, False, split))
        for apart in (True, False):
            needs = (True,) * len(extents)
            way, inner, outer = plans.factor_grads(sizes, True, mean, needs, apart, choice)
            h = way.hoisted
            if not by_kernels(way, n * sum(extents[1:])) and way == plans.PRODUCT:
                found.append(needed("synthesis_grads", factors, grads, sum(extents), _MATRIX))
            if inner is not None:
                places = ([0] * h + grads[h:], sum(extents), 0, k_x, *both)
                found.append(needed("projection_factor_grads", factors, *places, inner))
            if outer is not None:
                L = math.prod(extents[:h])
                swapped = describe_sizes((k_x, *extents[h:]))
                found.append(needed("projection", swapped, 0, L, 0, 0, outer))
                if h > 1:
                    leading = (factors[: 4 * h], grads[:h], sum(extents), _MATRIX)
                    found.append(needed("synthesis_grads", *leading))
    # Beside plain products of torch the synthesis of the batch, or its derivative.
    formed = n * math.prod(extents) * like.element_size() if products else 0
    if of_mean:  # each output by itself
        found.append(_of_projection(like, n, extents, k_x, False))
        if len(extents) > 2:
            found.append(_of_projection(like, n, extents[1:], k_x, False))
    copied = 0
    if beside:  # their samples, results and incoming gradients
        copied = 2 * n * (sum(extents) + k_x)
        found.append(_of_projection(like, 2 * n, extents, k_x, False))
    return formed + (of_mean + copied) * like.element_size() + max(found)
