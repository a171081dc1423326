"""Reads safetensors files, and checks the names, types and shapes of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ntensor.faces.common import extras
from ntensor.faces.common.errors import DamagedData

from .files import open_regular, parsing


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads the named tensors of a safetensors file, and its metadata.

    The format's own reader checks that types and shapes match the bytes in the file.

    Raises:
        DamagedData: it cannot be read, or a floating-point tensor is not finite.
    """
    path = Path(path)
    with open_regular(path), parsing(path):
        safe_open = extras.load("safetensors").safe_open
        with safe_open(path, "pt") as file:
            notes = dict(file.metadata() or {})
            # Copies, which do not change when the file is overwritten.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise DamagedData(path, None, f"{name} has NaN or infinite numbers")
    return tensors, notes


def check_tensors(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Refuses tensors whose names, types or shapes differ from those of `wanted`, which may be on
    the device `meta`.

    Raises:
        ValueError: names the first tensors that differ.
    """
    reasons = []
    for name in sorted(given.keys() | wanted.keys()):
        got, want = (_describe(tensors.get(name)) for tensors in (given, wanted))
        if got != want:
            reasons.append(f"{name}: expected {want}, got {got}")
    if reasons:
        more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        raise ValueError("; ".join(reasons[:3]) + more)


def _describe(tensor: Tensor | None) -> str:
    if tensor is None:
        return "none"
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"
