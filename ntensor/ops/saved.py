"""What an operation keeps for its backward pass, and the check of what comes back.

Between the two passes a saved tensor may change: a hook on saved tensors hands back another one,
`.data` is replaced, a size is changed in place. Kernels rely on sizes and types, so these are
compared; autograd itself compares only version counters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .operation import Operation


def save(ctx: Any, tensors: Sequence[Tensor | None]) -> None:
    """Keeps the tensors of an operation, and what they are."""
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)
    ctx.shapes = [None if tensor is None else tensor.shape for tensor in tensors]
    # All operands have one dtype and one device; the last is never None.
    last: Any = tensors[-1]
    ctx.like = last.dtype, last.device


def unpack(operation: Operation, ctx: Any) -> Sequence[Tensor | None]:
    """The tensors that were saved.

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
        if tensor.shape != shape or tensor.dtype is not dtype or tensor.device != device:
            raise RuntimeError(
                f"{operation.name}: {operation.argument(place)} was saved for backward with shape "
                f"{tuple(shape)}, {dtype}, on {device}, and came back with shape "
                f"{tuple(tensor.shape)}, {tensor.dtype}, on {tensor.device}"
            )
    for place in operation.shared:
        tensor = tensors[place]
        if tensor is not None and not tensor.is_contiguous():
            tensors = [*tensors[:place], tensor.contiguous(), *tensors[place + 1 :]]
    return tensors
