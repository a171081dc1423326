"""The scratch memory of the kernels: what they take beside inputs and outputs."""

import functools
import math

import torch

from ntensor.backends.native.library import (
    DTYPES,
    ELEMENTS_A_THREAD,
    MULTIPLY_ADDS_A_THREAD,
    NO_MATRIX,
    cpu_module,
    describe_sizes,
    simd_level,
    threads_for,
)

# A matrix that is there and lies row by row, or must be collected element by element.
_CONTIGUOUS = (1, 1, 1)
_STRIDED = (1, 1, 2)


def _matrix(given: bool, contiguous: bool) -> tuple[int, int, int]:
    return (_CONTIGUOUS if contiguous else _STRIDED) if given else NO_MATRIX


@functools.lru_cache(maxsize=1024)
def projection(
    level: str, dtype: int, n: int, extents: tuple[int, ...], k_x: int, mean: bool, threads: int
) -> int:
    return cpu_module().projection_scratch(
        level, dtype, n, describe_sizes(extents), 0, k_x, 0, int(mean), threads, 0
    )


@functools.lru_cache(maxsize=1024)
def projection_factor_grads(
    level: str,
    dtype: int,
    n: int,
    extents: tuple[int, ...],
    k_x: int,
    grad: bool,
    grad_mean: bool,
    contiguous: bool,
    threads: int,
) -> int:
    return cpu_module().projection_factor_grads_scratch(
        level,
        dtype,
        n,
        describe_sizes(extents),
        [1] * len(extents),
        sum(extents),
        0,
        k_x,
        _matrix(grad, contiguous),
        _matrix(grad_mean, contiguous),
        threads,
        0,
    )


@functools.lru_cache(maxsize=1024)
def projection_core_grad(
    level: str,
    dtype: int,
    n: int,
    extents: tuple[int, ...],
    k_x: int,
    grad_mean: bool,
    threads: int,
) -> int:
    return cpu_module().projection_core_grad_scratch(
        level,
        dtype,
        n,
        describe_sizes(extents),
        k_x,
        _CONTIGUOUS,
        _matrix(grad_mean, True),
        0,
        False,
        threads,
        0,
    )


@functools.lru_cache(maxsize=1024)
def synthesis(level: str, dtype: int, n: int, extents: tuple[int, ...], threads: int) -> int:
    return cpu_module().synthesis_scratch(level, dtype, n, describe_sizes(extents), 0, threads, 0)


@functools.lru_cache(maxsize=1024)
def synthesis_grads(level: str, dtype: int, n: int, extents: tuple[int, ...], threads: int) -> int:
    return cpu_module().synthesis_grads_scratch(
        level,
        dtype,
        n,
        describe_sizes(extents),
        [1] * len(extents),
        sum(extents),
        _CONTIGUOUS,
        threads,
        0,
    )


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
    return max(
        projection(*key, extents, k_x, mean, threads),
        *(
            projection_factor_grads(*key, extents, k_x, True, mean, contiguous, threads)
            for contiguous in (True, False)
        ),
        projection_core_grad(*key, extents, k_x, mean, threads),
    )
