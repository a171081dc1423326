"""The paper's baselines: a multilinear model and the fit of a face model."""

from .als import MultilinearModel, fit_multilinear
from .drawing import estimate_light, rewarp, warp_by_flow
from .landmark_fit import LandmarkFit, fit_landmarks

__all__ = [
    "LandmarkFit",
    "MultilinearModel",
    "estimate_light",
    "fit_landmarks",
    "fit_multilinear",
    "rewarp",
    "warp_by_flow",
]
