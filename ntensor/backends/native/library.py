"""The compiled module `ntensor._cpu`: loading it, its SIMD level, and the form of arguments."""

import functools
import math
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import TypeVar

import torch

from ntensor.backends.override import Overrides

# Their numbers in `DType` of csrc/cpu/api.h.
DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}

# Every allocation names it: the default device may be another one.
CPU = torch.device("cpu")

# Below this many multiply-adds (or elements, for kernels bound by memory) a further thread costs
# more than it brings.
MULTIPLY_ADDS_A_THREAD = 1 << 18
ELEMENTS_A_THREAD = 1 << 13

NO_MATRIX = (0, 0, 0)

# Factors as the kernels take them, their extents, the product of these, and the place of each
# factor among those that were given, None where they keep their order.
Described = tuple[list[int], tuple[int, ...], int, list[int] | None]
LAYOUTS = {"column": 0, "row": 1}

forced_level = Overrides()

_Item = TypeVar("_Item")


@functools.cache
def cpu_module() -> ModuleType:
    """`ntensor._cpu`; raises `ImportError` where it was not built or cannot be loaded."""
    from ntensor import _cpu  # torch is loaded first: both share its OpenMP runtime

    return _cpu


@functools.cache
def _default_level() -> str:
    wanted = os.environ.get("NTENSOR_SIMD", "")
    levels = cpu_module().simd_levels()
    if wanted and wanted not in levels:
        raise RuntimeError(
            f"NTENSOR_SIMD: wanted one of {', '.join(levels)} (what this build and "
            f"processor have), got {wanted!r}"
        )
    return wanted or levels[0]


def simd_level() -> str:
    """The SIMD level that the kernels run at: the best one, or the one named by `NTENSOR_SIMD`."""
    return forced_level.value or _default_level()


@contextmanager
def force_simd_level(name: str) -> Iterator[None]:
    """Runs the kernels at the SIMD level `name`, one of `ntensor._cpu.simd_levels()`."""
    levels = cpu_module().simd_levels()
    if name not in levels:
        raise ValueError(f"force_simd_level: wanted one of {', '.join(levels)}, got {name!r}")
    override = forced_level.enter(name)
    try:
        yield
    finally:
        forced_level.leave(override)


class _ThreadLimit(threading.local):
    value: int | None = None


_thread_limit = _ThreadLimit()


def thread_count() -> int:
    """Torch's number of threads, or the limit that holds in this thread."""
    return _thread_limit.value or torch.get_num_threads()


@contextmanager
def limit_threads(count: int) -> Iterator[None]:
    """Kernels for CPUs that this thread calls run in `count` threads."""
    before = _thread_limit.value
    _thread_limit.value = count
    try:
        yield
    finally:
        _thread_limit.value = before


def threads_for(work: int, work_a_thread: int) -> int:
    """The threads for a call: those there are, fewer where there is not enough to do."""
    return max(1, min(thread_count(), work // work_a_thread))


def kernel_order(extents: Sequence[int], first: int = 0) -> list[int] | None:
    """The places of the factors in the order in which kernels take them, None for that which they
    have.

    Those of extent 1 come before the others from place `first` on: the synthesis is the same, and
    its segments are not cut to one element.
    """
    if 1 not in extents[first + 1 :]:
        return None
    rest = sorted(range(first, len(extents)), key=lambda place: extents[place] != 1)
    return [*range(first), *rest]


def describe_factors(factors: list[torch.Tensor], first: int = 0) -> Described:
    """The `(n, k_m)` factors as the kernels take them, in the order of `kernel_order`.

    A factor is four integers: address, extent, row stride, column stride.
    """
    described: list[int] = []
    for z in factors:
        described += (z.data_ptr(), z.shape[1], *z.stride())
    extents = tuple(described[1::4])
    order = kernel_order(extents, first)
    if order is not None:
        described = [each for m in order for each in described[4 * m : 4 * m + 4]]
        extents = tuple(in_order(extents, order))
    return described, extents, math.prod(extents), order


def in_order(items: Sequence[_Item], order: list[int] | None) -> list[_Item]:
    """The items at these places; all where there is no order."""
    return [*items] if order is None else [items[place] for place in order]


def describe_sizes(extents: tuple[int, ...]) -> list[int]:
    """Factors of these extents, contiguous and nowhere."""
    described: list[int] = []
    for extent in extents:
        described += (0, extent, extent, 1)
    return described


def describe_matrix(matrix: torch.Tensor) -> tuple[int, ...]:
    """(address, row stride, column stride) of a matrix."""
    return (matrix.data_ptr(), *matrix.stride())


def describe_optional(matrix: torch.Tensor | None) -> tuple[int, ...]:
    return NO_MATRIX if matrix is None else describe_matrix(matrix)


def needed_width(extents: tuple[int, ...], needs: list[bool]) -> int:
    """The columns of all needed gradients together."""
    return (
        sum(extents)
        if all(needs)
        else sum([k for k, need in zip(extents, needs, strict=True) if need])
    )


def describe_grads(grads: torch.Tensor, extents: tuple[int, ...], needs: list[bool]) -> list[int]:
    """The address of each needed gradient inside `grads` `(n, needed_width)`, 0 for the others."""
    addresses = []
    at, size = grads.data_ptr(), grads.element_size()
    for extent, needed in zip(extents, needs, strict=True):
        if needed:
            addresses.append(at)
            at += extent * size
        else:
            addresses.append(0)
    return addresses


def rows_of_nine(R: torch.Tensor) -> torch.Tensor:
    """`(n, 3, 3)` as `(n, 9)` with the nine entries side by side."""
    flat = R.reshape(R.shape[0], 9)
    return flat if flat.stride(1) == 1 else flat.contiguous()


def core_mean(core: torch.Tensor) -> torch.Tensor:
    """(k_x,): what z_1 := 1/k_1 gives for a single factor."""
    wide = torch.promote_types(core.dtype, torch.float32)
    return core.mean(dim=1, dtype=wide).to(core.dtype)


def write_core_grad_of_one(
    out: torch.Tensor,
    grad: torch.Tensor | None,
    grad_mean: torch.Tensor | None,
    z: torch.Tensor,
    accumulate: bool,
) -> None:
    if not accumulate:
        out.zero_()
    if grad is not None:
        out.addmm_(grad.T, z)
    if grad_mean is not None:
        wide = torch.promote_types(z.dtype, torch.float32)
        out.add_((grad_mean.sum(0, dtype=wide) / z.shape[1]).to(z.dtype)[:, None])


def split_grads(
    joined: torch.Tensor, extents: tuple[int, ...], needs: list[bool]
) -> list[torch.Tensor | None]:
    """Each needed gradient inside `joined` `(n, needed_width)`, None for the others."""
    widths = [extent if need else 0 for extent, need in zip(extents, needs, strict=True)]
    parts = joined.split_with_sizes(widths, 1)
    return [part if need else None for part, need in zip(parts, needs, strict=True)]


_ROOFS = {"read": 0, "write": 1, "copy": 2, "fma32": 3, "fma64": 4, "bf16dot": 5}


@functools.lru_cache(maxsize=1)
def _roofline_buffers(byte_count: int) -> tuple[torch.Tensor, torch.Tensor]:
    buffer = torch.ones(byte_count // 4, dtype=torch.float32, device=CPU)
    return buffer, buffer.clone()


def roofline(kind: str, threads: int, byte_count: int = 512 << 20) -> float:
    """What this machine does at most: the best of three passes of an own loop.

    Args:
        kind: "read", "write", "copy" (read and written bytes counted both), "fma32", "fma64" or
            "bf16dot".
        threads: threads that run the loop at the same time.
        byte_count: size of each of the two buffers.

    Returns:
        Bytes per second, or floating-point operations per second; 0 where the SIMD level has no
        such instruction.
    """
    if kind not in _ROOFS:
        raise ValueError(f"roofline: kind: wanted one of {', '.join(_ROOFS)}, got {kind!r}")
    to, source = _roofline_buffers(byte_count)
    return max(
        cpu_module().roofline(
            simd_level(), _ROOFS[kind], to.data_ptr(), source.data_ptr(), byte_count, threads
        )
        for _ in range(3)
    )
