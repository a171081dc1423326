"""Files that are complete or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
