"""What the paper compares with, as code: a multilinear model and the fit of a face model."""

from .als import MultilinearModel, fit_multilinear
from .landmark_fit import LandmarkFit, estimate_light, fit_landmarks, rewarp

__all__ = [
    "LandmarkFit",
    "MultilinearModel",
    "estimate_light",
    "fit_landmarks",
    "fit_multilinear",
    "rewarp",
]
