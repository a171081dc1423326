"""The derivatives of an operation, from those of its form (`forms.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .forms import Slot, as_columns, directional, split_columns

if TYPE_CHECKING:
    from .operation import Operation


def backward(
    operation: Operation,
    tensors: Sequence[Tensor | None],
    statics: tuple[Any, ...],
    needs: Sequence[bool],
    cotangents: Sequence[Tensor | None],
) -> Sequence[Tensor | None]:
    """The gradient for each of `tensors` that needs one, None where it is zero."""
    values, outputs = operation.values(tensors), operation.outputs(statics)
    replacements: dict[Slot, Tensor] = {}
    if not operation.joined:
        for slot, cotangent in zip(outputs, cotangents, strict=True):
            if cotangent is not None:
                replacements[slot] = cotangent
    elif cotangents[0] is not None and outputs:
        replacements = split_columns(cotangents[0], {slot: values[slot] for slot in outputs})
    options, wanted = operation.options(statics), _wanted(operation, needs)
    return operation.in_order(
        tensors, directional(operation.form, values, replacements, wanted, options)
    )


def first_order(
    operation: Operation,
    tensors: Sequence[Tensor | None],
    statics: tuple[Any, ...],
    needs: Sequence[bool],
    cotangents: Sequence[Tensor | None],
) -> Sequence[Tensor | None]:
    """`backward` where nothing is differentiated again.

    The outputs' slots of an operation that is not `joined` enter together, so `directional` has a
    single term: this is that term.
    """
    for cotangent in cotangents:
        if cotangent is not None:
            break
    else:
        return [None] * len(tensors)
    if operation.at_once is not None:
        gradients = operation.at_once(tensors, cotangents, needs, *statics)
        if gradients is not None:
            return gradients
    if operation.joined:
        return backward(operation, tensors, statics, needs, cotangents)
    form = operation.form
    term: dict[Slot, Tensor | None] = dict(zip(operation.returns, cotangents, strict=True))
    values, wanted = form.replace(operation.values(tensors), _wanted(operation, needs), term)
    return operation.in_order(tensors, form.partials(values, wanted, statics))


def jvp(
    operation: Operation,
    tensors: Sequence[Tensor | None],
    statics: tuple[Any, ...],
    tangents: Sequence[Tensor | None],
) -> Sequence[Tensor | None]:
    """The tangent for each result, None where it is zero."""
    values, outputs = operation.values(tensors), operation.outputs(statics)
    replacements = {
        slot: tangent
        for slot, tangent in zip(operation.slots(len(tensors)), tangents, strict=True)
        if tangent is not None
    }
    options = operation.options(statics)
    found = directional(operation.form, values, replacements, set(outputs), options)
    if not operation.joined:
        return [found.get(slot) for slot in outputs]
    if not found:
        return [None]
    parts = [found[slot] if slot in found else torch.zeros_like(values[slot]) for slot in outputs]
    return [torch.cat([as_columns(part) for part in parts], 1)]


def _wanted(operation: Operation, needs: Sequence[bool]) -> set[Slot]:
    return {slot for slot, need in zip(operation.slots(len(needs)), needs, strict=True) if need}
