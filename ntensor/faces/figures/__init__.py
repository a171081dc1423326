"""Figures like the paper's, made from trained runs: `python -m ntensor.faces.figures`."""
