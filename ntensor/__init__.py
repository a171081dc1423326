"""Multilinear layers for PyTorch: synthesis, projection by a core, feature rotation."""

from . import (
    _start,  # noqa: F401  (before all that takes long to import)
    nn,
)
from .backends import use_backend
from .backends.scratch import scratch_bytes
from .ops import (
    MttkrpSweep,
    bilinear,
    contract,
    mttkrp,
    mttkrp_all,
    rotated_synthesis,
    rotation,
    synthesis,
    synthesis_projection,
    synthesis_projection_with_mean,
)

__version__ = "0.1.0"

__all__ = [
    "MttkrpSweep",
    "__version__",
    "bilinear",
    "contract",
    "mttkrp",
    "mttkrp_all",
    "nn",
    "rotated_synthesis",
    "rotation",
    "scratch_bytes",
    "synthesis",
    "synthesis_projection",
    "synthesis_projection_with_mean",
    "use_backend",
]
