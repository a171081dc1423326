"""Editing and reconstruction with the codes of a trained network: tensors in, tensors out."""

from .codes import CODES, Encoded, decode, encode, find_nearest_rotation, require_codes
from .detail import add_detail, keep_detail, replace_changed
from .fixed import FixedFace
from .interpolation import blend, interpolate
from .leak import fit_pose_leak
from .reconstruction import (
    build_vertices,
    collect_frontal_maps,
    measure_shape_error,
    restore_coefficients,
    restore_vertices,
)
from .transfer import (
    transfer_expression,
    transfer_identity,
    transfer_light,
    transfer_pose,
)
from .warp import fit_by_network, warp_expression

__all__ = [
    "CODES",
    "Encoded",
    "FixedFace",
    "add_detail",
    "blend",
    "build_vertices",
    "collect_frontal_maps",
    "decode",
    "encode",
    "find_nearest_rotation",
    "fit_by_network",
    "fit_pose_leak",
    "interpolate",
    "keep_detail",
    "measure_shape_error",
    "replace_changed",
    "require_codes",
    "restore_coefficients",
    "restore_vertices",
    "transfer_expression",
    "transfer_identity",
    "transfer_light",
    "transfer_pose",
    "warp_expression",
]
