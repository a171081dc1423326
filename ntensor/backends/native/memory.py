"""Memory of large results on a CPU, which is kept when they are released and handed out again.

Fresh memory costs a page fault for each of its pages, which can take longer than the computation
that fills it, and many times as long where the system has to collect huge pages first. The C
library keeps what is released only now and then. Training needs the same memory again at each step.
So it stays here: a block is free again when nothing but this list refers to its storage, whatever
referred to it: tensors, views, NumPy arrays, saved tensors. It holds nothing beside the result.

Never more is held than was in use at one time and `SPARE_BYTES`, nor than `NTENSOR_KEPT_MEMORY`
bytes.
"""

from __future__ import annotations

import math
import os
import sys
import threading
from typing import NamedTuple

import torch
from torch import UntypedStorage

from ntensor.backends._torch import is_known_to_storage_alone
from ntensor.backends.native.library import CPU, cpu_module

# Smaller memory is left to the C library: a search costs some 3 us.
LARGE_BYTES = 1 << 20
# Smaller memory is not put on huge pages. Nor are smaller results of a synthesis or a rotation
# kept: they are read soon, and memory that all operations of torch share is in a cache more often.
HUGE_BYTES = 32 << 20
# Room for results of several sizes that are not alive at the same time: each would push out the one
# that is needed next.
SPARE_BYTES = 64 << 20


class KeptMemory(NamedTuple):
    """Bytes of large results: `used` by tensors that are alive, `free` to be handed out again, and
    `most`, which both together do not pass; None: 64 MiB more than was in use at one time."""

    used: int
    free: int
    most: int | None


class _Block:
    def __init__(self, storage: UntypedStorage) -> None:
        self.storage = storage
        self.bytes = storage.nbytes()

    def is_free(self) -> bool:
        """Whether nothing else refers to the storage, in Python or in C++."""
        return self.references() == _ALONE and is_known_to_storage_alone(self.storage)

    def references(self) -> int:
        """In Python, with those of the count itself."""
        return sys.getrefcount(self.storage)

    def is_whole(self) -> bool:
        """Whether it is still what was made: not resized, nor shared with other processes."""
        return self.storage.nbytes() == self.bytes and not self.storage.is_shared()


_ALONE = _Block(torch.empty(1, device=CPU).untyped_storage()).references()
_lock = threading.RLock()
_blocks: list[_Block] = []  # the least recently handed out first
_peak = 0  # bytes that were in use at one time


def new_result(
    shape: tuple[int, ...], like: torch.Tensor, least: int | None = None
) -> torch.Tensor:
    """`like.new_empty(shape)`; on a CPU in kept memory where it has `least` bytes, by default
    `LARGE_BYTES`."""
    least = LARGE_BYTES if least is None else least
    if like.is_cuda or math.prod(shape) * like.element_size() < least:
        return torch.empty(*shape, dtype=like.dtype, device=like.device)  # faster than by a tuple
    return large_result(shape, like.dtype)


def large_result(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """In kept memory of a CPU."""
    if torch.are_deterministic_algorithms_enabled():  # torch.empty fills it
        return torch.empty(*shape, dtype=dtype, device=CPU)
    out = torch.empty(0, dtype=dtype, device=CPU)
    with _lock:
        storage = _take(math.prod(shape) * dtype.itemsize)
        return out.set_(storage, 0, shape)  # type: ignore[call-overload,no-any-return]


def kept_memory() -> KeptMemory:
    """What large results take at the moment."""
    with _lock:
        free = sum(block.bytes for block in _blocks if block.is_free())
        return KeptMemory(sum(block.bytes for block in _blocks) - free, free, _most())


def release_memory() -> int:
    """Gives the memory of large results that no tensor uses back to the system.

    Returns:
        int: how many bytes.

    Example:
        >>> import ntensor
        >>> ntensor.release_memory()
        0
    """
    global _peak
    with _lock:
        before = sum(block.bytes for block in _blocks)
        _blocks[:] = [block for block in _blocks if not block.is_free()]
        _peak = sum(block.bytes for block in _blocks)
        return before - _peak


def _take(size: int) -> UntypedStorage:
    """A storage of `size` bytes that nobody uses; its content is undefined."""
    most = _most()
    if most is not None and sum(block.bytes for block in _blocks) > most:
        return _make(size, most)
    # The last one first: it may still be in a cache. What is held does not change, nor the peak.
    for place in range(len(_blocks) - 1, -1, -1):
        block = _blocks[place]
        if block.bytes == size and block.is_free() and block.is_whole():
            _blocks.append(_blocks.pop(place))
            return block.storage
    return _make(size, most)


def _make(size: int, most: int | None) -> UntypedStorage:
    """A new storage, which is kept as far as the bounds allow."""
    global _peak
    _blocks[:] = [block for block in _blocks if block.is_whole() or not block.is_free()]
    free = [block for block in _blocks if block.is_free()]
    used = size + sum(block.bytes for block in _blocks) - sum(block.bytes for block in free)
    _peak = max(_peak, used)
    limit = _peak + SPARE_BYTES
    if most is not None:
        limit = min(limit, most)
    _drop(free, used + sum(block.bytes for block in free) - limit)
    block = _Block(_fresh(size, free))
    if most is None or used <= most:
        _blocks.append(block)
    return block.storage


def _drop(free: list[_Block], size: int) -> None:
    """Gives back blocks of `free`, the oldest first, until it is at least `size` bytes."""
    while free and size > 0:
        block = free.pop(0)
        _blocks.remove(block)
        size -= block.bytes


def _fresh(size: int, free: list[_Block]) -> UntypedStorage:
    """New memory; if it is larger still, on huge pages where the system grants them."""
    try:
        memory = torch.empty(size, dtype=torch.uint8, device=CPU)
    except RuntimeError:  # there is not enough
        _drop(free, sys.maxsize)
        memory = torch.empty(size, dtype=torch.uint8, device=CPU)
    if size >= HUGE_BYTES and _huge_pages():
        cpu_module().advise_huge_pages(memory.data_ptr(), size)
    return memory.untyped_storage()


def _huge_pages() -> bool:
    wanted = os.environ.get("NTENSOR_HUGE_PAGES") or "1"
    if wanted not in ("0", "1"):
        raise RuntimeError(f"NTENSOR_HUGE_PAGES: wanted 0 or 1, got {wanted!r}")
    return wanted == "1"


def _most() -> int | None:
    """`NTENSOR_KEPT_MEMORY`, bytes; None: not set."""
    text = os.environ.get("NTENSOR_KEPT_MEMORY", "")
    if not text:
        return None
    if not text.isascii() or not text.isdigit():
        raise RuntimeError(
            "NTENSOR_KEPT_MEMORY: wanted a number of bytes, 0 to keep no memory, or nothing, "
            f"got {text!r}"
        )
    return int(text)
