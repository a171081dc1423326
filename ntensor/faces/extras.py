"""Packages that only the faces need."""

from __future__ import annotations

import importlib
from types import ModuleType


def load(module: str) -> ModuleType:
    """Imports a package of the extra `faces`.

    Args:
        module (str): its name for `import`.

    Returns:
        the module

    Raises:
        ModuleNotFoundError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"ntensor.faces needs the package {error.name}: run pip install 'ntensor[faces]'",
            name=error.name,
        ) from error
