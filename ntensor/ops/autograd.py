"""Registers the operations: schema, fake kernel, autograd and transforms.

Each operation is registered twice from the formulas of its form (`forms.py`): with `torch.library`,
for torch.compile, export and direct calls of `torch.ops.ntensor`; and as an `autograd.Function`,
for eager mode, torch.func and forward-mode differentiation. Forward-mode tangents do not pass
through a direct call of a raw operation, nor does `torch.func.grad`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C import _get_tracing_state
from torch.autograd import forward_ad

from .batching import batched, legacy_batched
from .dispatch import LIBRARY, define, plain
from .forms import Form, Slots, as_columns, directional, split_columns
from .functions import functions_of
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
        self.raw, self.run, self.decompose = define(
            schema, stem, check, fake, flops, operand=len(given) if listed else 0
        )
        self.arity = len(self.raw._schema.arguments) - 1
        self.full, self.light = functions_of(self)
        self._register()
        OPERATIONS[self.name] = self

    def __call__(self, tensors: Sequence[Tensor | None], *statics: Any) -> Any:
        """The operation on its tensors (factors not in a list) and its other arguments."""
        if not torch.compiler.is_compiling():
            if _get_tracing_state() is not None:
                return self.decompose(*self._arguments(tensors), *statics)
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

    def checked(self, tensors: Sequence[Tensor | None], *statics: Any) -> Any:
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
            return batched(self, info.batch_size, dims, tensors, statics)

        torch.library.register_autograd(name, backward, setup_context=setup_context, lib=LIBRARY)
        torch.library.register_vmap(name, vmap, lib=LIBRARY)
        # torch.autograd.grad(is_grads_batched=True) still runs under the older vmap, whose fallback
        # takes no lists of tensors.
        LIBRARY.impl(self.name, functools.partial(legacy_batched, self), "Batched")
