"""Registers the operations: schema, fake kernel, autograd and transforms.

Each operation is registered twice from the formulas of its form (`forms.py`): with `torch.library`,
for torch.compile, export and direct calls of `torch.ops.ntensor`; and as an `autograd.Function`,
for eager mode, torch.func and forward-mode differentiation. Forward-mode tangents do not pass
through a direct call of a raw operation, nor does `torch.func.grad`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor
from torch.autograd import forward_ad

from .dispatch import LIBRARY, define, plain
from .forms import Form, Slots, as_columns, directional, split_columns
from .saved import save, unpack

# Every operation by its name.
OPERATIONS: dict[str, Operation] = {}


class Operation:
    """An operation of the namespace `ntensor`, a partial derivative of a form, fully registered.

    Args:
        form: whose partial derivative it is.
        schema: its arguments are tensors in the order of the form's slots, then (if `listed`) the
            list of factors, then the options of the form, then `bool[] needs` (if `joined`), then
            `str? backend`.
        stem: name of the backends' module that holds its function.
        given: the heads among its arguments, as slots of the form.
        check: of its name and its arguments without `backend`; raises where a kernel must not see
            them.
        returns: the slots whose partial derivatives it returns, unless `joined`.
        fake: from its arguments without `backend`, empty outputs of the right shape.
        flops: from the shapes of its arguments without `backend`, its floating-point operations.
        listed: it has a list of factors.
        joined: it returns the partial derivatives for the slots after the form's first `joined`
            where `needs` is true, side by side in one matrix.
        at_once: its gradients for plain tensors that nobody differentiates again, by a backend
            that has all of them in one function; None where the backend has none, or a tensor is
            not plain.
        direct: its result for plain tensors by the shortest way, None where it is not open
            (`direct.py`).
    """

    def __init__(
        self,
        form: Form,
        schema: str,
        *,
        stem: str,
        given: tuple[int, ...],
        check: Callable[..., None],
        fake: Callable[..., Any],
        flops: Callable[..., int],
        returns: tuple[int, ...] = (),
        listed: bool = False,
        joined: int | None = None,
        at_once: Callable[..., Sequence[Tensor | None] | None] | None = None,
        direct: Callable[[Sequence[Tensor | None]], Any] | None = None,
    ) -> None:
        self.form = form
        self.name = schema.partition("(")[0]
        self.stem = stem
        self.given = given
        self.returns = returns
        self.listed = listed
        self.joined = joined
        self.check = check
        self.at_once = at_once
        self.direct = direct
        self.shared = [place for place, slot in enumerate(given) if slot in form.shared]
        self.shared_output = any(slot in form.shared for slot in returns)
        self.raw, self.run = define(
            schema, stem, check, fake, flops, operand=len(given) if listed else 0
        )
        self.arity = len(self.raw._schema.arguments) - 1
        self.full, self.light = _functions(self)
        self._register()
        OPERATIONS[self.name] = self

    def __call__(self, tensors: Sequence[Tensor | None], *statics: Any) -> Any:
        """The operation on its tensors (factors not in a list) and its other arguments."""
        if not torch.compiler.is_compiling():
            if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
                return self.full.apply(statics, *tensors)
            if torch.is_grad_enabled():
                for tensor in tensors:
                    if tensor is not None and tensor.requires_grad:
                        return self.light.apply(statics, *tensors)
            if plain(tensors):
                return self.call_raw(tensors, statics, True)
            # Skips the kernel that would ask again whether autograd has to record.
            with torch._C._AutoDispatchBelowAutograd():
                return self.call_raw(tensors, statics, False)
        if forward_ad._current_level >= 0:
            # The traced operation would drop the tangents without an error.
            raise RuntimeError(
                f"ntensor.{self.name}: forward-mode differentiation (jvp, jacfwd, hessian) does "
                "not work inside torch.compile; take it outside of the compiled function"
            )
        return self.call_raw(tensors, statics, False)

    def call_raw(
        self, tensors: Sequence[Tensor | None], statics: tuple[Any, ...], direct: bool
    ) -> Any:
        """The operation below autograd; `direct`: without the dispatcher and its checks."""
        call = self.run if direct else self.raw
        return call(*self._arguments(tensors), *statics)

    def _arguments(self, tensors: Sequence[Tensor | None]) -> Sequence[Any]:
        if self.listed:
            heads = len(self.given)
            return (*tensors[:heads], list(tensors[heads:]))
        return tensors

    def _checked(self, tensors: Sequence[Tensor | None], *statics: Any) -> Any:
        """The operation on what a raw call may hold, under vmap."""
        self.check(self.name, *self._arguments(tensors), *statics[:-1])
        return self(tensors, *statics)

    def backward(
        self,
        tensors: Sequence[Tensor | None],
        statics: tuple[Any, ...],
        needs: Sequence[bool],
        cotangents: Sequence[Tensor | None],
    ) -> Slots:
        """The gradient for each of `tensors` that needs one."""
        values, options = self._slots(tensors), self._options(statics)
        outputs = self.outputs(statics)
        if self.joined is not None and cotangents[0] is not None and outputs:
            like = [values[slot] for slot in outputs]
            cotangents = split_columns(cotangents[0], like)
        replacements = {
            slot: cotangent
            for slot, cotangent in zip(outputs, cotangents, strict=False)
            if cotangent is not None
        }
        wanted = self._slots(needs, absent=False)
        return self._given(directional(self.form, values, replacements, wanted, options))

    def first_order(
        self,
        tensors: Sequence[Tensor | None],
        statics: tuple[Any, ...],
        needs: Sequence[bool],
        cotangents: Sequence[Tensor | None],
    ) -> Sequence[Tensor | None]:
        """`backward` where nothing is differentiated again, for an operation that is not `joined`.

        Its outputs' slots enter together, so `directional` has a single term: this is that term.
        """
        for cotangent in cotangents:
            if cotangent is not None:
                break
        else:
            return [None] * len(tensors)
        if self.at_once is not None:
            found = self.at_once(tensors, cotangents, needs, *statics)
            if found is not None:
                return found
        term = dict(zip(self.returns, cotangents, strict=True))
        values, wanted = self._slots(tensors), self._slots(needs, absent=False)
        self.form.replace(values, wanted, term)
        return self._given(self.form.partials(values, wanted, statics))

    def jvp(
        self,
        tensors: Sequence[Tensor | None],
        statics: tuple[Any, ...],
        tangents: Sequence[Tensor | None],
    ) -> Slots:
        """The tangent for each output; None for a zero."""
        values, options = self._slots(tensors), self._options(statics)
        replacements = {
            slot: tangent
            for slot, tangent in enumerate(self._slots(tangents))
            if tangent is not None
        }
        outputs = self.outputs(statics)
        wanted = [slot in outputs for slot in range(len(values))]
        parts = directional(self.form, values, replacements, wanted, options)
        found = [parts[slot] for slot in outputs]
        if self.joined is None or all(part is None for part in found):
            return found if self.joined is None else [None]
        return [
            torch.cat(
                [
                    as_columns(torch.zeros_like(values[slot]) if part is None else part)
                    for slot, part in zip(outputs, found, strict=True)
                ],
                1,
            )
        ]

    def batched(
        self,
        size: int,
        dims: Sequence[int | None],
        tensors: Sequence[Tensor | None],
        statics: tuple[Any, ...],
    ) -> tuple[Any, Any]:
        """The rule of vmap: the mapped dimension joins the batch.

        Where an operand or the result has no batch dimension to join (the core, its gradient), the
        rule is a loop.
        """
        if size == 0:
            return self._batched_empty(dims, tensors, statics)
        shared = [place in self.shared for place in range(len(tensors))]
        if self.shared_output or any(
            alone and dim is not None for alone, dim in zip(shared, dims, strict=True)
        ):
            results = []
            for index in range(size):
                picked: Slots = []
                for tensor, dim, alone in zip(tensors, dims, shared, strict=True):
                    if tensor is not None and dim is not None:
                        tensor = tensor.select(dim, index)
                        tensor = tensor.contiguous() if alone else tensor
                    picked.append(tensor)
                results.append(self._checked(picked, *statics))
            if len(self.returns) > 1:
                return tuple(map(torch.stack, zip(*results, strict=True))), (0,) * len(self.returns)
            return torch.stack(results), 0

        folded: Slots = []
        samples = 0
        for tensor, dim, alone in zip(tensors, dims, shared, strict=True):
            if tensor is None or alone:
                folded.append(tensor)
                continue
            whole = tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
            samples = whole.shape[1]
            folded.append(whole.reshape(size * samples, *whole.shape[2:]))
        result = self._checked(folded, *statics)
        if len(self.returns) > 1:
            parts = tuple(part.reshape(size, samples, *part.shape[1:]) for part in result)
            return parts, (0,) * len(parts)
        return result.reshape(size, samples, *result.shape[1:]), 0

    def _batched_empty(
        self,
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
        result, out_dims = self.batched(1, dims, one, statics)
        if isinstance(result, tuple):
            return tuple(part[:0] for part in result), out_dims
        return result[:0], out_dims

    def argument(self, place: int) -> str:
        """The name of a tensor among the operation's."""
        heads = len(self.given)
        if self.listed and place >= heads:
            return f"factors[{place - heads}]"
        name: str = self.raw._schema.arguments[place].name
        return name

    def slot_of(self, place: int) -> int:
        heads = len(self.given)
        return self.given[place] if place < heads else len(self.form.heads) + place - heads

    def _slots(self, items: Sequence[Any], absent: Any = None) -> list[Any]:
        slots = [absent] * len(self.form.heads)
        for slot, item in zip(self.given, items, strict=False):
            slots[slot] = item
        slots += items[len(self.given) :]
        return slots

    def _given(self, slots: list[Any]) -> list[Any]:
        return [*(slots[slot] for slot in self.given), *slots[len(self.form.heads) :]]

    def _options(self, statics: tuple[Any, ...]) -> tuple[Any, ...]:
        return statics if self.joined is None else (*statics[:-2], statics[-1])

    def outputs(self, statics: tuple[Any, ...]) -> tuple[int, ...]:
        if self.joined is None:
            return self.returns
        return tuple(self.joined + place for place, need in enumerate(statics[-2]) if need)

    def flat(self, arguments: Sequence[Any]) -> tuple[list[Any], tuple[Any, ...]]:
        tensors = list(arguments[: len(self.given)])
        if self.listed:
            tensors += arguments[len(self.given)]
        statics = list(arguments[len(self.given) + self.listed : self.arity])
        # The dispatcher leaves out a trailing argument that equals its default.
        backend = arguments[self.arity] if len(arguments) > self.arity else None
        return tensors, (*statics, backend)

    def _register(self) -> None:
        name = f"ntensor::{self.name}"

        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            tensors, ctx.statics = self.flat(inputs)
            save(ctx, tensors)

        def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
            needs, _ = self.flat(ctx.needs_input_grad)
            gradients = self.backward(unpack(self, ctx), ctx.statics, needs, cotangents)
            heads = len(self.given)
            factors = [gradients[heads:]] if self.listed else []
            rest = len(ctx.needs_input_grad) - heads - self.listed
            return (*gradients[:heads], *factors, *(None for _ in range(rest)))

        def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
            tensors, statics = self.flat(arguments)
            dims: list[int | None] = list(in_dims[: len(self.given)])
            if self.listed:
                factors = arguments[len(self.given)]
                dims += in_dims[len(self.given)] or [None] * len(factors)
            return self.batched(info.batch_size, dims, tensors, statics)

        def legacy_vmap(*arguments: Any) -> Any:
            tensors, statics = self.flat(arguments)
            level = torch._C._vmapmode_increment_nesting() - 1
            torch._C._vmapmode_decrement_nesting()
            mapped = [tensor is not None and is_legacy_batchedtensor(tensor) for tensor in tensors]
            physical = [
                torch._remove_batch_dim(tensor, level, 1, 0) if each else tensor
                for tensor, each in zip(tensors, mapped, strict=True)
            ]
            size = next(
                tensor.shape[0] for tensor, each in zip(physical, mapped, strict=True) if each
            )
            dims = [0 if each else None for each in mapped]
            result, _ = self.batched(size, dims, physical, statics)
            if isinstance(result, tuple):
                return tuple(torch._add_batch_dim(part, 0, level) for part in result)
            return torch._add_batch_dim(result, 0, level)

        torch.library.register_autograd(name, backward, setup_context=setup_context, lib=LIBRARY)
        torch.library.register_vmap(name, vmap, lib=LIBRARY)
        # torch.autograd.grad(is_grads_batched=True) still runs under the older vmap, whose fallback
        # takes no lists of tensors.
        LIBRARY.impl(self.name, legacy_vmap, "Batched")


def _functions(operation: Operation) -> tuple[Any, Any]:
    """Two `autograd.Function`s of one operation: with all transforms, and the cheaper to call."""

    class Full(torch.autograd.Function):
        @staticmethod
        def forward(statics: tuple[Any, ...], *tensors: Tensor | None) -> Any:
            return operation.call_raw(tensors, statics, False)

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
            gradients = operation.backward(unpack(operation, ctx), ctx.statics, needs, cotangents)
            return (None, *gradients)

        @staticmethod
        def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> Any:
            tensors = ctx.saved_tensors
            found = operation.jvp(tensors, ctx.statics, tangents)
            found = [
                tensors[-1].new_zeros(shape) if part is None else part
                for part, shape in zip(found, ctx.output_shapes, strict=True)
            ]
            return tuple(found) if len(found) > 1 else found[0]

        @staticmethod
        def vmap(info: Any, in_dims: tuple[Any, ...], statics: Any, *tensors: Any) -> Any:
            return operation.batched(info.batch_size, in_dims[1:], tensors, statics)

    class Light(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, statics: tuple[Any, ...], *tensors: Tensor | None) -> Any:
            ctx.statics = statics
            save(ctx, tensors)
            if operation.direct is not None and statics[-1] is None:
                found = operation.direct(tensors)
                if found is not None:
                    return found
            if plain(tensors):
                return operation.call_raw(tensors, statics, True)
            with torch._C._AutoDispatchBelowAutograd():
                return operation.call_raw(tensors, statics, False)

        @staticmethod
        def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
            if operation.joined is None and not torch.is_grad_enabled():
                needs = ctx.needs_input_grad[1:]
                tensors = unpack(operation, ctx)
                gradients = operation.first_order(tensors, ctx.statics, needs, cotangents)
                return (None, *gradients)
            result: tuple[Any, ...] = Full.backward(ctx, *cotangents)
            return result

    name = "".join(word.capitalize() for word in operation.name.split("_"))
    for function in (Full, Light):
        function.__name__ = function.__qualname__ = name
    # apply binds its arguments to this signature, and would otherwise rebuild it on every call.
    Full.forward.__signature__ = inspect.signature(Full.forward)  # type: ignore[attr-defined]
    return Full, Light
