"""Files that are complete or not there."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` once it is complete."""
    unfinished = path.with_name(f".unfinished-{path.name}")
    try:
        yield unfinished
        if unfinished.exists():
            os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_table(
    path: Path, rows: Sequence[Mapping[str, Any]], machine: Mapping[str, Any] | None = None
) -> None:
    """A CSV file of the rows, with the machine in every line; rows may lack columns."""
    records = [{**row, **(machine or {})} for row in rows]
    columns = dict.fromkeys(column for record in records for column in record)
    with replaced(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
