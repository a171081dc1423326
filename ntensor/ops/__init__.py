"""The operations: contracts, checks and autograd, one module an operation."""

from .bilinear import bilinear
from .mttkrp import mttkrp
from .projection import synthesis_projection, synthesis_projection_with_mean
from .rotation import rotated_synthesis, rotation
from .synthesis import synthesis

__all__ = [
    "bilinear",
    "mttkrp",
    "rotated_synthesis",
    "rotation",
    "synthesis",
    "synthesis_projection",
    "synthesis_projection_with_mean",
]
