"""The rules of vmap for an operation: the mapped dimension joins the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ntensor.backends._torch import (
    add_batch_dim,
    is_legacy_batched,
    legacy_vmap_level,
    remove_batch_dim,
)

if TYPE_CHECKING:
    from .operation import Operation


def batched(
    operation: Operation,
    size: int,
    dims: Sequence[int | None],
    tensors: Sequence[Tensor | None],
    statics: tuple[Any, ...],
) -> tuple[Any, Any]:
    """The rule of vmap: the mapped dimension joins the batch.

    Where an operand or the result has no batch dimension to join (the core, its gradient), they
    become groups (`groups.py`), or the rule is a loop.
    """
    if size == 0:
        return _batched_empty(operation, dims, tensors, statics)
    if operation.batching is not None:
        found = operation.batching(size, dims, tensors, statics)
        if found is not None:
            return found
    shared = [place in operation.shared for place in range(len(tensors))]
    if operation.shared_output or any(
        alone and dim is not None for alone, dim in zip(shared, dims, strict=True)
    ):
        results = []
        for index in range(size):
            picked: list[Tensor | None] = []
            for tensor, dim, alone in zip(tensors, dims, shared, strict=True):
                if tensor is not None and dim is not None:
                    tensor = tensor.select(dim, index)
                    tensor = tensor.contiguous() if alone else tensor
                picked.append(tensor)
            results.append(operation.checked(picked, *statics))
        if operation.results > 1:
            stacked = tuple(map(torch.stack, zip(*results, strict=True)))
            return stacked, (0,) * operation.results
        return torch.stack(results), 0

    folded: list[Tensor | None] = []
    samples = 0
    for tensor, dim, alone in zip(tensors, dims, shared, strict=True):
        if tensor is None or alone:
            folded.append(tensor)
            continue
        whole = tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        samples = whole.shape[1]
        folded.append(whole.reshape(size * samples, *whole.shape[2:]))
    result = operation.checked(folded, *statics)
    if operation.results > 1:
        parts = tuple(part.reshape(size, samples, *part.shape[1:]) for part in result)
        return parts, (0,) * len(parts)
    return result.reshape(size, samples, *result.shape[1:]), 0


def _batched_empty(
    operation: Operation,
    dims: Sequence[int | None],
    tensors: Sequence[Tensor | None],
    statics: tuple[Any, ...],
) -> tuple[Any, Any]:
    """The rule of vmap over a dimension of extent 0: shapes are those of one zero element."""
    one = [
        tensor
        if tensor is None or dim is None
        else tensor.new_zeros((*tensor.shape[:dim], 1, *tensor.shape[dim + 1 :]))
        for tensor, dim in zip(tensors, dims, strict=True)
    ]
    result, out_dims = batched(operation, 1, dims, one, statics)
    if isinstance(result, tuple):
        return tuple(part[:0] for part in result), out_dims
    return result[:0], out_dims


def legacy_batched(operation: Operation, *arguments: Any) -> Any:
    """The same as the rule of the older vmap, which still runs `is_grads_batched=True`."""
    tensors, statics = operation.flat(arguments)
    level = legacy_vmap_level()
    mapped = [tensor is not None and is_legacy_batched(tensor) for tensor in tensors]
    physical = [
        remove_batch_dim(tensor, level, 1, 0) if each else tensor
        for tensor, each in zip(tensors, mapped, strict=True)
    ]
    size = next(tensor.shape[0] for tensor, each in zip(physical, mapped, strict=True) if each)
    dims = [0 if each else None for each in mapped]
    result, _ = batched(operation, size, dims, physical, statics)
    if isinstance(result, tuple):
        return tuple(add_batch_dim(part, 0, level) for part in result)
    return add_batch_dim(result, 0, level)
