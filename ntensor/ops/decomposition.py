"""Every operation in torch's own: for what cannot take an operation of the library.

The formulas are those of the reference backend, which serve any number of samples. They are what
`torch.jit.trace` records, so that the file needs torch alone. While torch exports to ONNX they
stand in its table of decompositions, where the exporter finds them; and at no other time, since the
compiler refuses an operation that is in that table where the environment variable CI is set.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from ntensor.backends import reference
from ntensor.backends._torch import (
    decomposition_table,
    is_exporting_to_onnx,
    register_decomposition,
)


def decomposition(stem: str, name: str, arity: int) -> Callable[..., Any]:
    """Of the operation's arguments, `backend` among them or not: what it returns."""

    def decompose(*arguments: Any, backend: str | None = None) -> Any:
        formulas = importlib.import_module(f"{reference.__name__}.{stem}")
        return getattr(formulas, name)(*arguments[:arity])

    return decompose


_KNOWN: dict[Any, Callable[..., Any]] = {}


def register(raw: Any, decompose: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Keeps the decomposition for `offer`."""
    _KNOWN[raw] = decompose
    # Without it fake tensors of symbolic sizes would go through the decomposition.
    register_decomposition(raw, type="meta")(fake)


def offer() -> None:
    """Puts the decompositions into torch's table while it exports to ONNX, and takes them out
    afterwards.

    Every exporter and compiler first asks for the shapes of an operation's results, which calls
    this.
    """
    wanted = is_exporting_to_onnx()
    for raw, decompose in _KNOWN.items():
        if wanted == (raw in decomposition_table):
            break
        if wanted:
            register_decomposition(raw)(decompose)
        else:
            del decomposition_table[raw]
