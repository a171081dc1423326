"""The scratch memory of the kernels: what they take beside inputs and outputs."""

import functools
import math

import torch

from ntensor.backends.native import plans
from ntensor.backends.native.library import (
    DTYPES,
    ELEMENTS_A_THREAD,
    MULTIPLY_ADDS_A_THREAD,
    cpu_module,
    describe_sizes,
    simd_level,
    threads_for,
)

_CONTIGUOUS = (1, 1, 1)


@functools.lru_cache(maxsize=1024)
def synthesis(level: str, dtype: int, n: int, extents: tuple[int, ...], threads: int) -> int:
    return cpu_module().synthesis_scratch(level, dtype, n, describe_sizes(extents), 0, threads, 0)


synthesis_grads = functools.lru_cache(maxsize=1024)(plans.synthesis_grads_scratch)


@functools.lru_cache(maxsize=1024)
def rotation(level: str, dtype: int, n: int, K: int, threads: int) -> int:
    """Of `rotation` and of `rotation_matrix_grad`."""
    return cpu_module().rotation_scratch(
        level, dtype, n, K, 0, _CONTIGUOUS, _CONTIGUOUS, 0, threads, 0
    )


@functools.lru_cache(maxsize=1024)
def rotated_synthesis(
    level: str, dtype: int, n: int, extents: tuple[int, ...], threads: int
) -> int:
    """Of `rotated_synthesis` and of its gradients."""
    return cpu_module().rotated_synthesis_scratch(
        level, dtype, n, describe_sizes(extents), 0, _CONTIGUOUS, 0, threads, 0
    )


def scratch_bytes(
    operation: str,
    n: int,
    extents: tuple[int, ...],
    k_x: int,
    dtype: torch.dtype,
    device: torch.device,
) -> int:
    """What `ntensor.scratch_bytes` says of a CPU; arguments are checked and no size is 0."""
    key = (simd_level(), DTYPES[dtype], n)
    K = math.prod(extents)
    threads = threads_for(n * K, ELEMENTS_A_THREAD)
    if operation == "synthesis":
        return max(synthesis(*key, extents, threads), synthesis_grads(*key, extents, threads))
    if operation == "rotation":
        return rotation(*key, K, threads)
    if operation == "rotated_synthesis":
        return rotated_synthesis(*key, extents, threads)
    if len(extents) == 1:
        return 0
    mean = operation.endswith("mean")
    threads = threads_for(n * K * k_x, MULTIPLY_ADDS_A_THREAD)
    needs = (True,) * len(extents)
    grads = [
        plans.factor_grads(
            *(*key, extents, k_x, True, mean, contiguous, needs, apart, threads, plans.forced())
        )
        for contiguous in (True, False)
        for apart in (True, False)
    ]
    results = [
        plans.projection(*key, extents, k_x, mean, threads, plans.forced()),
        plans.core_grad(*key, extents, k_x, True, mean, threads, plans.forced()),
    ]
    # Beside plain products of torch the synthesis of the batch, or its derivative.
    products = any(plan.split == plans.PRODUCT for plan in results)
    products |= any(plan.hoisted < 0 for plan in grads)
    return products * n * K * dtype.itemsize + max(
        *(plan.scratch for plan in results),
        *(part.scratch for plan in grads for part in (plan.inner, plan.outer) if part),
        *(plan.spread for plan in grads),
    )
