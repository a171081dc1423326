"""Figures like the paper's, made from trained runs: `python -m ntensor.faces.figures`."""

from .material import Figure, LeftOut, Material, Runs

__all__ = ["Figure", "LeftOut", "Material", "Runs"]
