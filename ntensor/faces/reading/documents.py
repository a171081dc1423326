"""Reads JSON and YAML, limited in size and depth."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from ntensor.faces.common import extras
from ntensor.faces.common.errors import DamagedData

from .files import parsing, read_bytes, read_text

T = TypeVar("T")

# Limit on the bytes of YAML, whose parser takes about 20 microseconds per byte.
MOST_YAML = 200_000
DEEPEST = 20


def read_json(path: str | Path, wanted: type[T], kind: type[DamagedData] = DamagedData) -> T:
    """Reads a JSON file.

    Args:
        path: of the file.
        wanted: a type that pydantic accepts, usually a dataclass; values are not converted.
        kind: of the error.

    Raises:
        DamagedData: it cannot be read, is not JSON, is nested too deeply, or has the wrong type.
    """
    return parse_document(read_bytes(path, kind=kind), wanted, path, kind)


def parse_document(
    content: bytes | str, wanted: type[T], path: str | Path, kind: type[DamagedData] = DamagedData
) -> T:
    """As `read_json`, for text from the file `path`."""
    pydantic = extras.load("pydantic")
    with parsing(Path(path), kind):
        try:
            parsed: T = pydantic.TypeAdapter(wanted).validate_json(content, strict=True)
        except pydantic.ValidationError as error:
            raise kind(Path(path), None, explain(error)) from error
    return parsed


def explain(error: Any) -> str:
    """Explains a `pydantic.ValidationError` in one line: entry, requirement, value found."""
    sentences = []
    for entry in error.errors(include_url=False, include_context=False)[:5]:
        place = ".".join(map(str, entry["loc"]))
        got = repr(entry["input"])
        got = got if len(got) < 60 else f"{got[:60]}..."
        if entry["type"] == "json_invalid":
            sentences.append(f"cannot be read ({entry['msg']})")
        elif entry["type"] == "value_error":
            # One of our own errors, which already says what was found.
            message = entry["msg"].removeprefix("Value error, ")
            sentences.append(message if not place else f"{place}: {message}")
        elif entry["type"] == "missing":
            sentences.append(f"no entry {place}")
        else:
            sentences.append(f"{place}: {entry['msg']}, got {got}".removeprefix(": "))
    return "; ".join(sentences)


def read_yaml(path: str | Path) -> Any:
    """Reads a YAML file, which may be JSON: mappings, lists, text, numbers.

    Anchors and tags are refused: with them, a short file can expand to huge or cyclic data.

    Raises:
        DamagedData: it cannot be read, is not YAML, or is nested too deeply.
    """
    yaml = extras.load("yaml")
    path = Path(path)
    text = read_text(path, MOST_YAML)
    with parsing(path):
        depth = 0
        for event in yaml.parse(text, yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise DamagedData(path, None, f"expected at most {DEEPEST} levels, got more")
            if getattr(event, "anchor", None) or getattr(event, "tag", None):
                line = event.start_mark.line + 1
                raise DamagedData(path, None, f"line {line}: anchors and tags are not supported")
        return yaml.safe_load(text)
