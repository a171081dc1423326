"""Starts `python -m ntensor.faces.NAME`, before any optional package is imported."""

from __future__ import annotations

import importlib
import sys
from typing import NoReturn

from . import extras
from .command import command


def launch(name: str, *more: str) -> NoReturn:
    """Runs the `main` of a command and ends the process.

    The packages are checked before the command is imported, so that none turns out to be missing
    after hours of work.

    Args:
        name: the command's module.
        more: extras that it needs besides `faces`.
    """
    _run(name, more)
    sys.exit()


@command
def _run(name: str, more: tuple[str, ...]) -> None:
    for extra in ("faces", *more):
        extras.check(extra)
    importlib.import_module(name).main()
