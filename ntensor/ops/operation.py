"""Registers the operations: schema, fake kernel, autograd and transforms.

The formulas of a form are the derivatives of its operations, in two `autograd.Function`s
(`functions.py`). The dispatcher's kernel for autograd is the cheaper one, for direct calls of
`torch.ops.ntensor` and for what torch.compile and export make of a model; eager mode, torch.func
and forward mode call both without the dispatcher. Forward-mode tangents do not pass through a
direct call of a raw operation, nor does `torch.func.grad`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ntensor import backends
from ntensor.backends._torch import below_autograd, in_forward_mode, is_transformed, tracing_state

from . import checks, late
from .batching import batched, legacy_batched
from .dispatch import LIBRARY, PLAIN_TYPES, define, differentiated, plain
from .forms import Form
from .functions import functions_of
from .sharding import register_sharding
from .signature import Signature

# Every operation by its name.
OPERATIONS: dict[str, Operation] = {}


class Operation(Signature):
    """An operation of the namespace `ntensor`, a partial derivative of a form, fully registered.

    Args:
        form: whose partial derivative it is.
        schema: its arguments are tensors, named and ordered as the form's heads, then the list
            `factors` where the form has them, then the options of the form, then `bool[] needs`
            where gradients are chosen, then `str? backend`.
        stem: name of the backends' module that holds its function.
        returns: the slots whose partial derivatives it returns; see `Signature`.
        check: of its name and its arguments without `backend`; raises where a kernel must not see
            them.
        fake: from its arguments without `backend`, empty outputs of the right shape.
        flops: from the shapes of its arguments without `backend`, its floating-point operations.
        at_once: its gradients for plain tensors that nobody differentiates again, by a backend
            that has all of them in one function; None where the backend has none, or a tensor is
            not plain.
        direct: from its tensors and options, its result for plain tensors by the shortest way, None
            where it is not open (`direct.py`).
    """

    def __init__(
        self,
        form: Form,
        schema: str,
        *,
        stem: str,
        returns: tuple[str, ...],
        check: Callable[..., None],
        fake: Callable[..., Any],
        flops: Callable[..., int],
        at_once: Callable[..., Sequence[Tensor | None] | None] | None = None,
        direct: Callable[..., Any] | None = None,
    ) -> None:
        self.name = schema.partition("(")[0]
        self.stem = stem
        self.check = check
        self.at_once = at_once
        self.direct = direct
        # A rule of vmap of its own: from the arguments of `batched` after the first, None where
        # the general one holds.
        self.batching: Callable[..., tuple[Tensor, int] | None] | None = None
        self.raw, self.run, self.decompose = define(schema, stem, check, fake, flops, self._record)
        super().__init__(form, self.raw, returns)
        self.full, self.light, self.plain_light = functions_of(self)
        torch.library.register_vmap(f"ntensor::{self.name}", self._vmap, lib=LIBRARY)
        # torch.autograd.grad(is_grads_batched=True) still runs under the older vmap, whose fallback
        # takes no lists of tensors.
        LIBRARY.impl(self.name, functools.partial(legacy_batched, self), "Batched")
        late.shard(lambda: register_sharding(self))
        OPERATIONS[self.name] = self

    def __call__(self, tensors: Sequence[Tensor | None], *statics: Any) -> Any:
        """The operation on its tensors (factors not in a list) and its other arguments."""
        if not torch.compiler.is_compiling():
            if tracing_state() is not None:
                return self.decompose(*self.nested(tensors), *statics)
            if is_transformed():
                return self.full.apply(statics, *tensors)
            if differentiated(tensors):
                return self.light.apply(statics, *tensors)
            return self.without_autograd(tensors, statics)
        if in_forward_mode():
            # The traced operation would drop the tangents without an error.
            raise RuntimeError(
                f"ntensor.{self.name}: forward-mode differentiation (jvp, jacfwd, hessian) does "
                "not work inside torch.compile; take it outside of the compiled function"
            )
        return self.call_raw(tensors, statics)

    def short(self, values: Sequence[Any], backend: str | None) -> Any:
        """The operation on core and factors that fit each other, where autograd alone looks on;
        None where it is not so: the ordinary way then serves the call, or raises.

        On a GPU what a call asks before it is served takes as long as all else that it does on the
        host, so it is asked once. Code under `torch.compile` must not come here.
        """
        if is_transformed() or not plain(values, PLAIN_TYPES) or not checks.fit(values):
            return None
        backend = backends.requested(backend)
        if differentiated(values):
            return self.plain_light.apply((backend,), *values)
        return self.serve(values, backend)

    def serve(self, values: Sequence[Tensor], backend: str | None) -> Any:
        """The result for plain core and factors that fit, from the backend's function."""
        core, *factors = values
        name, device = self.name, core.device
        return backends.implementation(self.stem, name, device, core.dtype, backend)(core, factors)

    def without_autograd(self, tensors: Sequence[Tensor | None], statics: tuple[Any, ...]) -> Any:
        """The result in eager mode, where autograd has nothing to record or has recorded it."""
        if plain(tensors):
            return self.run(*self.nested(tensors), *statics)
        late.tell()
        with below_autograd():
            return self.call_raw(tensors, statics)

    def call_raw(self, tensors: Sequence[Tensor | None], statics: tuple[Any, ...]) -> Any:
        """The result by way of the dispatcher."""
        return self.raw(*self.nested(tensors), *statics)

    def checked(self, tensors: Sequence[Tensor | None], *statics: Any) -> Any:
        """The operation on what a raw call may hold, under vmap."""
        self.check(self.name, *self.nested(tensors), *statics[:-1])
        return self(tensors, *statics)

    def argument(self, place: int) -> str:
        """The name of a tensor among the operation's."""
        heads = len(self.heads)
        return self.heads[place] if place < heads else f"factors[{place - heads}]"

    def _record(self, arguments: Sequence[Any]) -> Any:
        """A raw call, recorded for autograd."""
        tensors, statics = self.flat(arguments)
        return self.light.apply(statics, *tensors)

    def _vmap(self, info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        tensors, statics = self.flat(arguments)
        heads = len(self.heads)
        dims: list[int | None] = list(in_dims[:heads])
        if self.listed:
            dims += in_dims[heads] or [None] * len(arguments[heads])
        return batched(self, info.batch_size, dims, tensors, statics)
