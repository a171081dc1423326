"""An operation as `autograd.Function`, for eager mode, torch.func and forward mode."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import derivatives
from .batching import batched
from .saved import save, unpack

if TYPE_CHECKING:
    from .operation import Operation


def functions_of(operation: Operation) -> tuple[Any, Any, Any]:
    """The `autograd.Function`s of one operation: with all transforms, the cheaper to call, and this
    for what `Operation.short` has looked through."""

    class Full(torch.autograd.Function):
        @staticmethod
        def forward(statics: tuple[Any, ...], *tensors: Tensor | None) -> Any:
            return operation.call_raw(tensors, statics)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            ctx.statics = inputs[0]
            save(ctx, inputs[1:])
            ctx.save_for_forward(*inputs[1:])
            outputs = output if isinstance(output, tuple) else (output,)
            ctx.output_shapes = [each.shape for each in outputs]

        @staticmethod
        def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
            needs = ctx.needs_input_grad[1:]
            tensors = unpack(operation, ctx)
            gradients = derivatives.backward(operation, tensors, ctx.statics, needs, cotangents)
            return (None, *gradients)

        @staticmethod
        def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> Any:
            tensors = ctx.saved_tensors
            parts = derivatives.jvp(operation, tensors, ctx.statics, tangents)
            found = [
                tensors[-1].new_zeros(shape) if part is None else part
                for part, shape in zip(parts, ctx.output_shapes, strict=True)
            ]
            return tuple(found) if len(found) > 1 else found[0]

        @staticmethod
        def vmap(info: Any, in_dims: tuple[Any, ...], statics: Any, *tensors: Any) -> Any:
            return batched(operation, info.batch_size, in_dims[1:], tensors, statics)

    class Light(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, statics: tuple[Any, ...], *tensors: Tensor | None) -> Any:
            ctx.statics = statics
            save(ctx, tensors, uncast=True)
            if operation.direct is not None and statics[-1] is None:
                found = operation.direct(tensors, *statics[:-1])
                if found is not None:
                    return found
            return operation.without_autograd(tensors, statics)

        @staticmethod
        def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
            if not torch.is_grad_enabled():
                needs = ctx.needs_input_grad[1:]
                tensors = unpack(operation, ctx)
                gradients = derivatives.first_order(
                    operation, tensors, ctx.statics, needs, cotangents
                )
                return (None, *gradients)
            result: tuple[Any, ...] = Full.backward(ctx, *cotangents)
            return result

    class PlainLight(Light):
        @staticmethod
        def forward(ctx: Any, statics: tuple[Any, ...], *tensors: Any) -> Any:
            ctx.statics = statics
            save(ctx, tensors)
            return operation.serve(tensors, *statics)

    name = "".join(word.capitalize() for word in operation.name.split("_"))
    for function in (Full, Light, PlainLight):
        function.__name__ = function.__qualname__ = name
    # apply binds its arguments to this signature, and would otherwise rebuild it on every call.
    Full.forward.__signature__ = inspect.signature(Full.forward)  # type: ignore[attr-defined]
    return Full, Light, PlainLight
