"""Multilinear layers for PyTorch: synthesis, projection by a core, feature rotation."""

from . import _start as _start  # before all that takes long to import
from . import nn
from .backends import use_backend
from .backends.native.memory import kept_memory, release_memory
from .ops import (
    EinsumPath,
    MttkrpSweep,
    bilinear,
    contract,
    einsum,
    einsum_path,
    mttkrp,
    mttkrp_all,
    rotated_synthesis,
    rotation,
    synthesis,
    synthesis_projection,
    synthesis_projection_with_mean,
)
from .ops.scratch import scratch_bytes

__version__ = "0.1.0"

__all__ = [
    "EinsumPath",
    "MttkrpSweep",
    "__version__",
    "bilinear",
    "contract",
    "einsum",
    "einsum_path",
    "kept_memory",
    "mttkrp",
    "mttkrp_all",
    "nn",
    "release_memory",
    "rotated_synthesis",
    "rotation",
    "scratch_bytes",
    "synthesis",
    "synthesis_projection",
    "synthesis_projection_with_mean",
    "use_backend",
]
