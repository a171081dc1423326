"""Measures of a trained face model on identities that training never showed."""

from .measures import AngularError, SquaredError, angular_degrees
from .probes import Probe, accuracy, leakage

__all__ = ["AngularError", "Probe", "SquaredError", "accuracy", "angular_degrees", "leakage"]
