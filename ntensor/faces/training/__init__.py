"""Training of the face models: the loop, its processes, its log."""

from .trainer import Trainer

__all__ = ["Trainer"]
