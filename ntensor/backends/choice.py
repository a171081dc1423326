"""The automatic choice of a backend: the order in which they are asked.

On a CPU the order is fixed; Triton never serves there unless it is forced. On a GPU `MEASURED`
decides between the compiled core and Triton; each of its rows comes from a file of results. It is
empty: nothing was measured yet, so the choice on every GPU is Triton.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

ON_CPU = ("native", "reference")
ON_GPU = ("triton", "native", "reference")
ELSEWHERE = ("reference",)


class Row(NamedTuple):
    """One measured comparison: where it holds, which backend is faster there, and its evidence.

    Attributes:
        operation: name of the registered operation.
        family: of the device, as `family` gives it.
        dtype: of the operands.
        n: the samples for which it holds.
        k_x: the outputs for which it holds; None: any, or the operation has none.
        backend: the faster of "native" and "triton".
        results: the file under `benchmarks/results` that shows it.
    """

    operation: str
    family: str
    dtype: torch.dtype
    n: range
    k_x: range | None
    backend: str
    results: str


class Sizes(NamedTuple):
    """What the choice may depend on: samples, and outputs `k_x` of a projection (else None)."""

    n: int
    k_x: int | None


MEASURED: tuple[Row, ...] = ()


def family(device: torch.device) -> str:
    """The architecture that a row of the table holds for, such as "sm_90"."""
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def rows(operation: str, of_family: str, dtype: torch.dtype) -> list[Row]:
    """The rows of the table for an operation, whatever its sizes; the first that fits counts."""
    return [
        row
        for row in MEASURED
        if (row.operation, row.family, row.dtype) == (operation, of_family, dtype)
    ]


def order(found: Sequence[Row], sizes: Sizes | None) -> tuple[tuple[str, ...], Row | None]:
    """The backends on a GPU in the order of the choice, and the row of `found` that decides it."""
    for row in found:
        if sizes is not None and _fits(row, sizes):
            return (row.backend, *(name for name in ON_GPU if name != row.backend)), row
    return ON_GPU, None


def _fits(row: Row, sizes: Sizes) -> bool:
    return sizes.n in row.n and (row.k_x is None or sizes.k_x in row.k_x)


def sizes_of(operation: str, arguments: Sequence[Any]) -> Sizes:
    """The sizes of a call of a registered operation, from its arguments without `backend`."""
    if operation.startswith("synthesis_projection"):
        core, factors = arguments
        return Sizes(factors[0].shape[0], core.shape[0])
    if operation.startswith("projection_"):
        factors = next(argument for argument in arguments if _is_factors(argument))
        grads = [argument for argument in arguments if isinstance(argument, Tensor)]
        return Sizes(factors[0].shape[0], grads[-1].shape[1])
    first = arguments[0]
    return Sizes((first[0] if _is_factors(first) else first).shape[0], None)


def _is_factors(argument: Any) -> bool:
    return isinstance(argument, (list, tuple)) and isinstance(argument[0], Tensor)


def explain(operation: str, of_family: str, dtype: torch.dtype, sizes: Sizes) -> str:
    """Why the choice on a GPU of this family is what it is, in words."""
    shown = f"{operation} in {dtype} on {of_family}, n = {sizes.n}"
    if sizes.k_x is not None:
        shown += f", k_x = {sizes.k_x}"
    names, row = order(rows(operation, of_family, dtype), sizes)
    if row is not None:
        return f"{shown}: {', then '.join(names)}; measured in benchmarks/results/{row.results}"
    return f"{shown}: {', then '.join(names)}; nothing was measured for these, so Triton is first"
