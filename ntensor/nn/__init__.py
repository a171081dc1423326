"""Modules over the operations, and the exchange of torch's own layers for them."""

from .exchange import convert, revert
from .modules import Bilinear, FeatureRotation, MultilinearProjection

__all__ = ["Bilinear", "FeatureRotation", "MultilinearProjection", "convert", "revert"]
