"""Configurations as files."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ntensor.faces.common.errors import ConfigurationError, DamagedData
from ntensor.faces.reading import explain, read_yaml

from .settings import Configuration


def to_json(configuration: Configuration) -> str:
    """The configuration as indented JSON, which `from_file` reads."""
    return json.dumps(asdict(configuration), indent=2) + "\n"


def from_mapping(values: Any, source: str) -> Configuration:
    """A configuration from nested mappings; what they leave out has the default value.

    Raises:
        ConfigurationError: an unknown key or a wrong type; the message begins with `source`.
    """
    import pydantic

    try:
        return pydantic.TypeAdapter(Configuration).validate_python(values)
    except pydantic.ValidationError as error:
        raise ConfigurationError(f"{source}: {explain(error)}") from error


def from_file(path: str | Path, base: Configuration | None = None) -> Configuration:
    """Reads a YAML or JSON file; what it leaves out is as in `base`.

    Raises:
        ConfigurationError: no such file, no mapping, an unknown key, or a wrong type or value.
    """
    try:
        values = read_yaml(path)
    except DamagedData as error:
        raise ConfigurationError(str(error)) from error
    if not isinstance(values, dict):
        raise ConfigurationError(
            f"{path}: wanted a mapping of sections, got {type(values).__name__}"
        )
    merged = asdict(base or Configuration())
    for section, entries in values.items():
        if isinstance(entries, dict) and section in merged:
            merged[section].update(entries)
        else:
            merged[section] = entries
    return from_mapping(merged, str(path))
