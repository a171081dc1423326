"""Memory between guard pages: a read or write past either end of it ends the process.

Linux alone. Fresh memory is filled with bytes of 0xff, which is NaN in every dtype, so that a
result that was never written shows as well.
"""

import ctypes
import math
from contextlib import contextmanager

import torch

PAGE = 4096
PROT_NONE, PROT_READ_WRITE = 0, 3
MAP_PRIVATE_ANONYMOUS = 0x22

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_plain_empty = torch.empty


class Memory:
    """Guarded tensors; `close` gives all their memory back, after which none may be used.

    Args:
        at_end (bool): tensors end at the guard page behind them, else they begin at the one before.
    """

    def __init__(self, at_end=True):
        self.at_end = at_end
        self.mapped = []

    def flat(self, numel, dtype):
        """A tensor of `numel` elements of NaN (bytes of 0xff)."""
        byte_count = max(numel, 1) * dtype.itemsize
        inner = math.ceil(byte_count / PAGE) * PAGE
        whole = inner + 2 * PAGE
        begin = _libc.mmap(None, whole, PROT_NONE, MAP_PRIVATE_ANONYMOUS, -1, 0)
        if begin in (None, ctypes.c_void_p(-1).value):
            raise MemoryError(f"mmap of {whole} bytes: errno {ctypes.get_errno()}")
        self.mapped.append((begin, whole))
        if _libc.mprotect(begin + PAGE, inner, PROT_READ_WRITE):
            raise MemoryError(f"mprotect: errno {ctypes.get_errno()}")
        place = begin + PAGE + (inner - byte_count if self.at_end else 0)
        ctypes.memset(place, 0xFF, byte_count)
        buffer = (ctypes.c_char * byte_count).from_address(place)
        return torch.frombuffer(buffer, dtype=dtype)[:numel]

    def copy(self, tensor):
        """The tensor with its strides, in memory that holds not one element more."""
        if tensor.numel() == 0:
            return tensor.clone()
        span = 1 + sum(
            (size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
        )
        flat = self.flat(span, tensor.dtype)
        flat.copy_(tensor.as_strided((span,), (1,)))
        return flat.as_strided(tensor.shape, tensor.stride())

    @contextmanager
    def for_empty(self):
        """What `torch.empty` gives on a CPU is guarded."""

        def empty(*shape, dtype=None, device=None, **options):
            shape = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
            if options or dtype is None or torch.device(device or "cpu").type != "cpu":
                return _plain_empty(shape, dtype=dtype, device=device, **options)
            return self.flat(math.prod(shape), dtype).view(shape)

        torch.empty = empty
        try:
            yield
        finally:
            torch.empty = _plain_empty

    def close(self):
        for begin, whole in self.mapped:
            _libc.munmap(begin, whole)
        self.mapped.clear()
