"""Reproduces figures of the paper from trained runs: `python -m ntensor.faces.figures`."""
