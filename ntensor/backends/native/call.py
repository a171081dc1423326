"""A call of the compiled core: a job, described once, on the device of its operands."""

import math
import threading
from collections.abc import Hashable
from typing import Any

import torch

from ntensor.backends.devices import on_device_of
from ntensor.backends.native import gpu
from ntensor.backends.native.library import (
    CPU,
    DTYPES,
    MULTIPLY_ADDS_A_THREAD,
    cpu_module,
    simd_level,
    threads_for,
)
from ntensor.backends.native.memory import new_result
from ntensor.backends.native.plans import CUDA, Sizes

# Of an element of a result, and of a core or a synthesis, in multiply-adds.
RESULT, ELEMENT = 32, 8

# Problems to one thread that may idle while the last of them are solved.
MOST_IDLE = 16

# A job on a CPU that needs no more scratch than this does not allocate any.
KEPT_SCRATCH_BYTES = 1 << 14

# Problems of one size behind one another: how many, and how many at the same time.
Stack = tuple[int, int]
ALONE: Stack = (1, 1)

# Of a job on a GPU, by its name, device, precision and sizes; for so many of them.
_scratch_bytes: dict[Hashable, int] = {}
MOST_KEPT_SIZES = 4096

_kept = threading.local()


def run(
    name: str, like: torch.Tensor, threads: int, *job: Any, sizes: Hashable | None = None
) -> None:
    """Carries out the job `name` of `csrc/binding.h`, on the device of `like`.

    Args:
        threads: on a CPU.
        job: the arguments of the job.
        sizes: what the job's scratch memory on a GPU depends on; None: it is asked for each time.
    """
    lacking: int | None
    if runs_on_gpu(like):
        _run_on_gpu(name, like, job, sizes)
        return
    do, cpu = getattr(cpu_module(), name), (simd_level(), threads)
    if (lacking := do(cpu, *job, _kept_scratch(), KEPT_SCRATCH_BYTES)) is not None:
        memory = new_result((lacking,), _kept.memory)
        do(cpu, *job, memory.data_ptr(), lacking)


def _run_on_gpu(name: str, like: torch.Tensor, job: tuple[Any, ...], sizes: Hashable) -> None:
    """With as much scratch memory as the last job of these sizes needed; a job that needs more
    says so before it does anything."""
    do, context = getattr(gpu.cuda_module(), name), gpu.call_context(like)
    device, _, tf32, _ = context
    key = (name, device, tf32, sizes)
    known: int | None = None if sizes is None else _scratch_bytes.get(key)
    lacking = known
    with on_device_of(like):
        if lacking is None and (lacking := do(context, *job, 0, 0)) is None:
            return
        while lacking is not None:
            given = lacking
            memory = torch.empty(given, dtype=torch.uint8, device=like.device)
            lacking = do(context, *job, memory.data_ptr(), given)
    if sizes is not None and given != known:
        if len(_scratch_bytes) >= MOST_KEPT_SIZES:
            _scratch_bytes.clear()
        _scratch_bytes[key] = given


def scratch_of(name: str, like: torch.Tensor, threads: int, *job: Any) -> int:
    """The bytes of scratch memory that a job of `run` needs, which is not carried out.

    Addresses count by whether they are 0.
    """
    needed: int
    if runs_on_gpu(like):
        do, context = getattr(gpu.cuda_module(), name), gpu.call_context(like)
        with on_device_of(like):
            needed = do(context, *job, 0, -1)
    else:
        needed = getattr(cpu_module(), name)((simd_level(), threads), *job, 0, -1)
    return needed


def runs_on_gpu(like: torch.Tensor) -> bool:
    return like.is_cuda


def _kept_scratch() -> int:
    """The address of the calling thread's own scratch memory."""
    try:
        address: int = _kept.memory.data_ptr()
    except AttributeError:
        _kept.memory = torch.empty(KEPT_SCRATCH_BYTES, dtype=torch.uint8, device=CPU)
        address = _kept.memory.data_ptr()
    return address


def sizes_of(like: torch.Tensor, n: int, extents: tuple[int, ...], k_x: int) -> Sizes:
    """What the plans of a projection depend on, beside what is wanted."""
    dtype = DTYPES[like.dtype]
    if runs_on_gpu(like):
        return Sizes(CUDA, dtype, n, extents, k_x, 1)
    threads = threads_for(n * k_x * math.prod(extents), MULTIPLY_ADDS_A_THREAD)
    return Sizes(simd_level(), dtype, n, extents, k_x, threads)


def stacked_sizes_of(
    like: torch.Tensor, problems: int, n: int, extents: tuple[int, ...], k_x: int
) -> tuple[Sizes, Stack]:
    """The sizes of one problem of a stack, and the stack."""
    if problems == 1:
        return sizes_of(like, n, extents, k_x), ALONE
    sizes = sizes_of(like, problems * n, extents, k_x)
    work = work_of(problems, n, extents, k_x)
    threads = threads_for(work, MULTIPLY_ADDS_A_THREAD)
    threads, at_once = (1, 1) if sizes.level == CUDA else divide(problems, threads, work)
    each = problems // at_once
    return sizes._replace(n=n, threads=threads, problems=each), (problems, at_once)


def work_of(problems: int, n: int, extents: tuple[int, ...], k_x: int) -> int:
    """The multiply-adds of a stack, and what beside them every element of its results, its cores
    and its syntheses takes: small problems have few of the former."""
    K = math.prod(extents)
    return problems * (n * k_x * (K + RESULT) + ELEMENT * K * (n + k_x))


def divide(problems: int, threads: int, work: int) -> tuple[int, int]:
    """The threads of one problem of a stack, and how many are solved at the same time.

    Problems are divided among the threads where there are as many; but large ones that do not come
    out even, like fewer ones, are solved one after another.

    Args:
        work: of all problems, in multiply-adds.
    """
    if problems < threads:
        return threads, 1
    idle = -problems % threads
    large = work // problems >= 2 * threads * MULTIPLY_ADDS_A_THREAD
    return (threads, 1) if large and MOST_IDLE * idle > problems else (1, threads)
