"""Editing and reconstruction with the codes of a trained network: tensors in, tensors out."""

from .codes import CODES, Encoded, decode, encode, nearest_rotation, require
from .fixed import FixedFace
from .interpolation import blend, interpolate
from .leak import pose_leak
from .reconstruction import (
    coefficients,
    frontal,
    shape_error,
    vertices_of_coefficients,
    vertices_of_stream,
)
from .transfer import expression, identity, light, pose, with_detail
from .warp import model_fit, warped

__all__ = [
    "CODES",
    "Encoded",
    "FixedFace",
    "blend",
    "coefficients",
    "decode",
    "encode",
    "expression",
    "frontal",
    "identity",
    "interpolate",
    "light",
    "model_fit",
    "nearest_rotation",
    "pose",
    "pose_leak",
    "require",
    "shape_error",
    "vertices_of_coefficients",
    "vertices_of_stream",
    "warped",
    "with_detail",
]
