"""Packages that only the faces need."""

from __future__ import annotations

import importlib
from types import ModuleType


def load(module: str, extra: str = "faces") -> ModuleType:
    """Imports a package of an extra.

    Args:
        module (str): its name for `import`.
        extra (str): that installs it.

    Returns:
        the module

    Raises:
        ModuleNotFoundError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"ntensor.faces needs the package {error.name}: run pip install 'ntensor[{extra}]'",
            name=error.name,
        ) from error
