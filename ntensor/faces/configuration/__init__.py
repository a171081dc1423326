"""The settings of a run: dataclasses with checked entries, presets, files, the command line."""

from .comparison import FREE, find_differences, find_misfits, fit_to_data
from .face_source import settle_face_model
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
    "find_differences",
    "find_misfits",
    "fit_to_data",
    "from_file",
    "from_mapping",
    "settle_face_model",
    "to_json",
]
