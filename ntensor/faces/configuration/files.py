"""Reads and writes configurations."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ntensor.faces.common.errors import ConfigurationError, DamagedData
from ntensor.faces.reading import explain, read_yaml

from .settings import FIXED, Configuration


def to_json(configuration: Configuration) -> str:
    """The configuration as indented JSON, which `from_file` reads."""
    return json.dumps(asdict(configuration), indent=2) + "\n"


def from_mapping(values: Any, source: str) -> Configuration:
    """Makes a configuration from nested mappings; missing entries have their default values.

    Raises:
        ConfigurationError: an unknown key, a wrong type, or another value of an entry that is
            `FIXED`; the message begins with `source`.
    """
    import pydantic

    try:
        return pydantic.TypeAdapter(Configuration).validate_python(drop_fixed(values, source))
    except pydantic.ValidationError as error:
        raise ConfigurationError(f"{source}: {explain(error)}") from error


def drop_fixed(values: Any, source: str) -> Any:
    """Removes the entries that are `FIXED` from the mappings, and checks their values.

    Raises:
        ConfigurationError: one has another value; the message begins with `source`.
    """
    if not isinstance(values, dict):
        return values
    kept = dict(values)
    for section, fixed in FIXED.items():
        entries = values.get(section)
        if not isinstance(entries, dict):
            continue
        wrong = [
            f"{section}.{name} must be {value!r}, which is fixed in this version, got "
            f"{entries[name]!r}"
            for name, value in fixed.items()
            if name in entries and entries[name] != value
        ]
        if wrong:
            raise ConfigurationError(f"{source}: {'; '.join(wrong)}")
        kept[section] = {name: value for name, value in entries.items() if name not in fixed}
    return kept


def from_file(path: str | Path, base: Configuration | None = None) -> Configuration:
    """Reads a YAML or JSON file; missing entries are taken from `base`.

    Raises:
        ConfigurationError: there is no such file, it is not a mapping, or it has an unknown key or
            a wrong type or value.
    """
    try:
        values = read_yaml(path)
    except DamagedData as error:
        raise ConfigurationError(str(error)) from error
    if not isinstance(values, dict):
        raise ConfigurationError(
            f"{path}: expected a mapping of sections, got {type(values).__name__}"
        )
    merged = asdict(base or Configuration())
    for section, entries in values.items():
        if isinstance(entries, dict) and section in merged:
            merged[section].update(entries)
        else:
            merged[section] = entries
    return from_mapping(merged, str(path))
