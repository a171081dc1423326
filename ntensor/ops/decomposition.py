"""Every operation in torch's own: for what cannot take an operation of the library.

The formulas are those of the reference backend, which serve any number of samples. They stand in
torch's table of decompositions, where the exporter to ONNX finds them, and are what
`torch.jit.trace` records, so that the file needs torch alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from ntensor.backends import reference
from ntensor.backends._torch import register_decomposition


def decomposition(stem: str, name: str, arity: int) -> Callable[..., Any]:
    """Of the operation's arguments, `backend` among them or not: what it returns."""

    def decompose(*arguments: Any, backend: str | None = None) -> Any:
        formulas = importlib.import_module(f"{reference.__name__}.{stem}")
        return getattr(formulas, name)(*arguments[:arity])

    return decompose


def register(raw: Any, decompose: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Puts the decomposition into torch's table."""
    register_decomposition(raw)(decompose)
    # Without it fake tensors of symbolic sizes would go through the decomposition.
    register_decomposition(raw, type="meta")(fake)
