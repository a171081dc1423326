"""Chooses and loads a face model."""

from __future__ import annotations

from pathlib import Path

from ntensor.faces.common.errors import ConfigurationError
from ntensor.faces.configuration import DataConfiguration
from ntensor.faces.configuration.face_source import ANALYTIC, find_named

from .analytic_face import make_analytic_face
from .face_model import FaceModel
from .ict_face import load_ict_face


def load_face_model(path: str | Path | None = None) -> FaceModel:
    """Loads a face model.

    Args:
        path: an ICT face file, see `ntensor.faces.morphable.ict_face`, or `analytic` for the
            built-in face. Default: the environment variable `NTENSOR_FACE_MODEL`, else `analytic`.

    Returns:
        FaceModel: its `source` describes it.

    Raises:
        ConfigurationError: the file does not exist.
        DamagedData: the file is not a face model.

    Example:
        >>> from ntensor.faces.morphable.face_models import load_face_model
        >>> load_face_model("analytic").source
        'analytic face, 6000 vertices'
    """
    chosen = find_named() if path is None else str(path)
    if chosen in ("", ANALYTIC):
        return make_analytic_face()
    if not Path(chosen).is_file():
        raise ConfigurationError(
            f"load_face_model: the argument names {chosen}, which is not a file"
        )
    return load_ict_face(chosen)


def find_face_model(configuration: DataConfiguration) -> FaceModel:
    """Loads the face model of a configuration; see `DataConfiguration`.

    Raises:
        FacesError: it cannot be loaded.
    """
    if configuration.face_model is None and configuration.vertices:
        return make_analytic_face(configuration.vertices)
    return load_face_model(configuration.face_model)
