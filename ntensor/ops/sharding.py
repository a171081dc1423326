"""Sharding of every operation over the devices of a mesh (`DTensor`), from the axes of its form.

An operation is a sum of products over the labels of its axes (`Form.axes`). So each label may be
split over a dimension of a mesh: operands that have it are split along it, the others replicated;
the result is split along it too where it has the label, else it is a sum over the devices. For the
projection: the batch; the rows of the core, where the gradients of the factors alone are sums; the
extent of a factor, with the core along that mode, where the output is one.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

from ntensor.backends._torch import depend_on_all_arguments

if TYPE_CHECKING:
    from .operation import Operation


def register_sharding(operation: Operation) -> None:
    """Registers the sharding of an operation; imports `torch.distributed.tensor`."""
    try:
        from torch.distributed.tensor import experimental

        experimental.register_sharding(operation.raw)(
            lambda *arguments: _acceptable(operation, arguments)
        )
        # `needs` matters too, which gradients are wanted.
        depend_on_all_arguments(operation.raw)
    except (ImportError, AttributeError, TypeError) as error:
        warnings.warn(
            f"ntensor.{operation.name}: no sharding for DTensor under this version of torch "
            f"({type(error).__name__}: {error})",
            stacklevel=2,
        )


def _acceptable(operation: Operation, arguments: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Placements of outputs and given tensors on one dimension of a mesh; `arguments` as specs."""
    from torch.distributed.tensor import Partial, Replicate, Shard

    form = operation.form
    tensors, statics = operation.flat(arguments)
    slots, factors = operation.slots(len(tensors)), len(tensors) - len(operation.heads)
    given = [
        (spec, form.axes(slot, factors))
        for slot, spec in zip(slots, tensors, strict=True)
        if spec is not None
    ]
    outputs = operation.outputs(statics)
    returned = [form.axes(slot, factors) for slot in outputs]
    count = operation.results
    involved = {slot for slot, spec in zip(slots, tensors, strict=True) if spec is not None}
    involved.update(outputs)

    extents: dict[Hashable, int] = {}
    for spec, axes in given:
        for extent, label in zip(spec.shape, axes, strict=True):
            if label is not None:
                extents[label] = min(extent, extents.get(label, extent))

    found: list[tuple[Any, Any]] = [([Replicate()] * count, [Replicate()] * len(given))]
    for label, extent in extents.items():
        devices = given[0][0].mesh.size()
        # Parts of a factor's extent are equal, so that they are parts of a synthesis as well.
        if label not in form.uneven and (extent % devices or not form.divides(label, involved)):
            continue
        if not operation.joined:
            places = [axes.index(label) if label in axes else None for axes in returned]
        elif len(returned) > 1 and any(label in axes[1:] for axes in returned):
            continue  # side by side, one of the gradients would be split and the others not
        else:
            places = [next((axes.index(label) for axes in returned if label in axes), None)]
        found.append(
            (
                [Partial() if place is None else Shard(place) for place in places],
                [Shard(axes.index(label)) if label in axes else Replicate() for _, axes in given],
            )
        )
    return found
