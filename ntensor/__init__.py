"""Multilinear layers for PyTorch: synthesis, projection by a core, feature rotation."""

from . import _start as _start  # before all that takes long to import
from . import nn, ops, optim
from .backends import use_backend
from .backends.native.memory import kept_memory, release_memory
from .ops import *  # noqa: F403
from .ops.scratch import scratch_bytes

__version__ = "0.1.0"

__all__ = [
    *ops.__all__,
    "__version__",
    "kept_memory",
    "nn",
    "optim",
    "release_memory",
    "scratch_bytes",
    "use_backend",
]
