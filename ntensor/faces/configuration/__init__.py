"""The settings of a run: dataclasses with checked entries, presets, files, the command line."""

from .comparison import FREE, differences, fitted, misfits
from .files import from_file, from_mapping, to_json
from .settings import (
    Configuration,
    DataConfiguration,
    LossConfiguration,
    ModelConfiguration,
    Network,
    TrainingConfiguration,
)

__all__ = [
    "FREE",
    "Configuration",
    "DataConfiguration",
    "LossConfiguration",
    "ModelConfiguration",
    "Network",
    "TrainingConfiguration",
    "differences",
    "fitted",
    "from_file",
    "from_mapping",
    "misfits",
    "to_json",
]
