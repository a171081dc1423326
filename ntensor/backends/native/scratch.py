"""The scratch memory of the kernels: what they take beside inputs and outputs."""

import functools

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
    factor_sizes: tuple[int, ...],
    out_features: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> int:
    """Bytes of scratch memory that a call takes on the CPU, beside its inputs and outputs.

    The forward pass and each part of the backward pass take and return their scratch one after the
    other; the largest of them is returned. A thread's share stays under 64 K elements of the
    accumulator type for every slab of samples, unless the extents of the factors add up to more
    than 5000. No array of n K elements is part of it.

    Args:
        operation: "synthesis", "synthesis_projection", "synthesis_projection_with_mean",
            "rotation" or "rotated_synthesis".
        n: samples.
        factor_sizes: `(k_1, ..., k_M)`; for "rotation" `(K,)`.
        out_features: `k_x`, for the projections.
        dtype: of the operands.

    Example:
        >>> import ntensor
        >>> ntensor.scratch_bytes("synthesis_projection", 64, (9, 15, 80), 12288) < 2**20 * 4
        True
    """
    if dtype not in DTYPES:
        raise TypeError(f"scratch_bytes: dtype: wanted one of {list(DTYPES)}, got {dtype}")
    extents = tuple(factor_sizes)
    elements = n
    for extent in extents:
        elements *= extent
    if elements == 0 or out_features == 0:
        return 0
    key = (simd_level(), DTYPES[dtype], n)
    threads = threads_for(elements, ELEMENTS_A_THREAD)
    if operation == "synthesis":
        return max(synthesis(*key, extents, threads), synthesis_grads(*key, extents, threads))
    if operation == "rotation":
        return rotation(*key, elements // n, threads)
    if operation == "rotated_synthesis":
        return rotated_synthesis(*key, extents, threads)
    if operation in ("synthesis_projection", "synthesis_projection_with_mean"):
        if out_features is None:
            raise ValueError(f"scratch_bytes: out_features: wanted k_x for {operation}, got None")
        if len(extents) == 1:
            return 0
        mean = operation.endswith("mean")
        threads = threads_for(elements * out_features, MULTIPLY_ADDS_A_THREAD)
        return max(
            projection(*key, extents, out_features, mean, threads),
            *(
                projection_factor_grads(
                    *key, extents, out_features, True, mean, contiguous, threads
                )
                for contiguous in (True, False)
            ),
            projection_core_grad(*key, extents, out_features, mean, threads),
        )
    raise ValueError(
        "scratch_bytes: operation: wanted synthesis, synthesis_projection, "
        f"synthesis_projection_with_mean, rotation or rotated_synthesis, got {operation!r}"
    )
