"""What an operation keeps for its backward pass, and the check of what comes back.

Between the two passes a saved tensor may change: a hook on saved tensors hands back another one,
`.data` is replaced, a size is changed in place. Kernels rely on sizes and types, so these are
compared; autograd itself compares only version counters.

A leaf that autocast has cast is kept as it was given, and cast again in the backward pass: it
outlives the graph anyway, and a second core would take half as much memory once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ntensor.backends._torch import is_any_autocast_enabled

# On a tensor that was cast: the one that is kept in its place.
_SOURCE = "_ntensor_source"


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in another dtype; `save` keeps the given one where that takes less memory."""
    found = tensor.to(dtype)
    if torch.compiler.is_compiling() or found is tensor:
        return found
    if tensor.is_leaf or tensor.itemsize < found.itemsize:
        setattr(found, _SOURCE, tensor)
    return found


def save(ctx: Any, tensors: Sequence[Tensor | None], *, uncast: bool = False) -> None:
    """Keeps the tensors of an operation, and what they are.

    Args:
        uncast: keep what they were cast from, where autocast is on.
    """
    ctx.set_materialize_grads(False)
    ctx.shapes = [None if tensor is None else tensor.shape for tensor in tensors]
    # All operands have one dtype and one device; the last is never None.
    last: Any = tensors[-1]
    ctx.like = last.dtype, last.device
    ctx.dtypes = None
    if uncast and is_any_autocast_enabled():
        tensors = [getattr(tensor, _SOURCE, tensor) for tensor in tensors]
        ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in tensors]
    ctx.save_for_backward(*tensors)


class Operands(Protocol):
    """An operation, or what stands for it: the names of its tensors, and the places of those that
    must be contiguous."""

    name: str
    shared: Sequence[int]

    def argument(self, place: int) -> str: ...


def unpack(operation: Operands, ctx: Any) -> Sequence[Tensor | None]:
    """The tensors of the operation, from those that were saved.

    Another layout is legal; where it is that of an operand that must be contiguous, it is copied.

    Raises:
        RuntimeError: another shape, dtype or device than was saved.
    """
    tensors: Sequence[Tensor | None] = ctx.saved_tensors
    if torch.compiler.is_compiling():
        return tensors  # compiled code has guards of its own
    dtype, device = ctx.like
    for place, tensor in enumerate(tensors):
        if tensor is None:
            continue
        shape = ctx.shapes[place]
        kept = dtype if ctx.dtypes is None else ctx.dtypes[place]
        if tensor.shape != shape or tensor.dtype is not kept or tensor.device != device:
            raise RuntimeError(
                f"{operation.name}: {operation.argument(place)} was saved for backward with shape "
                f"{tuple(shape)}, {kept}, on {device}, and came back with shape "
                f"{tuple(tensor.shape)}, {tensor.dtype}, on {tensor.device}"
            )
    if ctx.dtypes is not None:
        tensors = [None if tensor is None else tensor.to(dtype) for tensor in tensors]
    for place in operation.shared:
        tensor = tensors[place]
        if tensor is not None and not tensor.is_contiguous():
            tensors = [*tensors[:place], tensor.contiguous(), *tensors[place + 1 :]]
    return tensors
