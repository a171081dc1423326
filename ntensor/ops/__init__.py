"""The operations: contracts, checks and autograd, one module an operation."""

from .bilinear import bilinear
from .contract import contract
from .einsum import EinsumPath, einsum, einsum_path
from .mttkrp import mttkrp
from .mttkrp_all import MttkrpSweep, mttkrp_all
from .projection import synthesis_projection, synthesis_projection_with_mean
from .rotation import rotated_synthesis, rotation
from .synthesis import synthesis

__all__ = [
    "EinsumPath",
    "MttkrpSweep",
    "bilinear",
    "contract",
    "einsum",
    "einsum_path",
    "mttkrp",
    "mttkrp_all",
    "rotated_synthesis",
    "rotation",
    "synthesis",
    "synthesis_projection",
    "synthesis_projection_with_mean",
]
