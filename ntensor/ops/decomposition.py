"""Every operation in torch's own: for what cannot take an operation of the library.

The formulas are those of the reference backend, which serve any number of samples. They stand in
torch's table of decompositions, where the exporter to ONNX finds them, and are what
`torch.jit.trace` records, so that the file needs torch alone.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

import torch

from ntensor.backends import reference
from ntensor.backends._torch import decomposition_table, register_decomposition


def decomposition(stem: str, name: str, arity: int) -> Callable[..., Any]:
    """Of the operation's arguments, `backend` among them or not: what it returns."""

    def decompose(*arguments: Any, backend: str | None = None) -> Any:
        formulas = importlib.import_module(f"{reference.__name__}.{stem}")
        return getattr(formulas, name)(*arguments[:arity])

    return decompose


_DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {}


def register(raw: Any, decompose: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Puts the decomposition into torch's table."""
    _DECOMPOSITIONS[raw] = decompose
    register_decomposition(raw)(decompose)
    # Without it fake tensors of symbolic sizes would go through the decomposition.
    register_decomposition(raw, type="meta")(fake)


def offer() -> None:
    """Takes the decompositions out of torch's table where they would hinder, and puts them back.

    Where the environment variable CI is set, the compiler refuses an operation that it finds in the
    table. Exporters and the compiler ask for the shapes of every result first, which calls this.
    """
    wanted = torch.compiler.is_exporting() or not os.environ.get("CI")
    for raw, decompose in _DECOMPOSITIONS.items():
        if wanted == (raw in decomposition_table):
            break
        if wanted:
            register_decomposition(raw)(decompose)
        else:
            decomposition_table.pop(raw, None)  # another thread may have been here
