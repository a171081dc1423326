"""Packages that only the faces need."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from .errors import MissingPackage

# What `import` calls the packages that each extra of pyproject.toml installs; those of ntensor
# itself stand with the faces'.
PACKAGES = {
    "faces": (
        *("filelock", "matplotlib", "numpy", "PIL", "pydantic", "safetensors", "scipy", "sklearn"),
        *("tensorboard", "tqdm", "trimesh", "tyro", "yaml"),
    ),
    "video": ("imageio", "imageio_ffmpeg"),
    "demo": ("fastapi", "gradio", "uvicorn"),
}


def check(extra: str) -> None:
    """Looks for every package of an extra, without importing it.

    Raises:
        MissingPackage: some are not installed; the message names them and says how to install them.
    """
    missing = [name for name in PACKAGES[extra] if importlib.util.find_spec(name) is None]
    if missing:
        raise _explain_missing(", ".join(missing), extra)


def load(module: str, extra: str = "faces") -> ModuleType:
    """Imports a package of an extra.

    Args:
        module (str): its name for `import`.
        extra (str): that installs it.

    Returns:
        the module

    Raises:
        MissingPackage: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise _explain_missing(str(error.name), extra) from error


def _explain_missing(names: str, extra: str) -> MissingPackage:
    extras = extra if extra == "faces" else f"faces,{extra}"
    return MissingPackage(
        f"ntensor.faces needs the package {names}: run pip install 'ntensor[{extras}]'", name=names
    )
