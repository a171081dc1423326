"""Determines the face model of generated samples, from the settings or the environment."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from ntensor.faces.common.errors import ConfigurationError

from .settings import DataConfiguration

VARIABLE = "NTENSOR_FACE_MODEL"
ANALYTIC = "analytic"


def find_named() -> str:
    """The file that the environment names, or `analytic`.

    Raises:
        ConfigurationError: there is no such file.
    """
    name = os.environ.get(VARIABLE) or ANALYTIC
    if name == ANALYTIC:
        return name
    if not Path(name).is_file():
        raise ConfigurationError(f"{VARIABLE} names {name}, which is not a file")
    return str(Path(name).absolute())


def settle_face_model(
    data: DataConfiguration, chosen: bool, named: bool = False
) -> DataConfiguration:
    """The data with its face model named, so that it is the same in every environment.

    If `face_model` stays None, `vertices` is above 0 and the face is the analytic one.

    Args:
        data (DataConfiguration)
        chosen (bool): the user has chosen `vertices`. Those of a preset give way to a face model
            from a file.
        named (bool): the user has chosen `face_model`, None included, as in the configuration of
            a run; None with `vertices` is then the analytic face, whatever the environment names.

    Raises:
        ConfigurationError: `vertices` was chosen together with a face model from a file, or the
            file that the environment names does not exist.
    """
    own = named and data.face_model is None and data.vertices
    if data.source != "generated" or own:
        return data
    name = data.face_model or find_named()
    if name == ANALYTIC:
        if data.vertices and (chosen or data.face_model is None):
            return replace(data, face_model=None)
        return replace(data, face_model=name, vertices=0)
    if data.vertices and chosen:
        origin = VARIABLE if data.face_model is None else "data.face_model"
        raise ConfigurationError(
            f"data.vertices is {data.vertices}, which is for the analytic face, but {origin} names "
            f"{name}: leave out one of them (--data.face-model {ANALYTIC} chooses the analytic "
            "face)"
        )
    return replace(data, face_model=name, vertices=0)


def identify_face_model(data: DataConfiguration) -> tuple[str | None, int]:
    """`face_model` and `vertices` in a canonical form, equal for equal faces; `(None, 0)` if the
    environment decided and its choice was not recorded."""
    if data.face_model in (None, ANALYTIC):
        return data.face_model, 0 if data.face_model else data.vertices
    return str(Path(data.face_model or "").resolve()), 0
