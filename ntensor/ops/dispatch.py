"""From an operation of the namespace `ntensor` to the backend that serves it.

The dispatcher of torch leads there; a plain eager call takes the direct way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C import (
    _dispatch_keys,
    _get_tracing_state,
    _is_any_autocast_enabled,
    _len_torch_dispatch_stack,
)
from torch._C._autograd import _profiler_enabled
from torch.autograd import forward_ad
from torch.overrides import has_torch_function

from ntensor import backends

from . import checks, decomposition
from .deferred import when_imported

LIBRARY = torch.library.Library("ntensor", "DEF")


def define(
    schema: str,
    stem: str,
    check: Callable[..., None],
    fake: Callable[..., Any],
    flops: Callable[..., int],
    *,
    operand: int,
    mutated: int | None = None,
) -> tuple[Any, Callable[..., Any], Callable[..., Any]]:
    """Defines an operation whose last argument is `str? backend`, served by the chosen backend.

    Returns the operation; the function that it calls, once its arguments are checked, for tensors
    in memory; and the same in operations of torch.

    Args:
        check: of the operation's name and its arguments without `backend`; raises where a kernel
            must not see them.
        fake: from the arguments without `backend`, empty outputs of the right shape.
        flops: from the shapes of these arguments, the floating-point operations, as
            `torch.utils.flop_counter.FlopCounterMode` counts them: two a multiply-add.
        operand: the place of an argument that is a tensor or a list of them, and never None.
        mutated: the place of a tensor that the operation writes to.
    """
    name = schema.partition("(")[0]
    LIBRARY.define(schema)
    raw = getattr(torch.ops.ntensor, name).default
    arity = len(raw._schema.arguments) - 1

    def run(*arguments: Any) -> Any:
        # The dispatcher leaves out a trailing argument that equals its default.
        backend = None
        if len(arguments) > arity:
            backend = arguments[arity]
            arguments = arguments[:arity]
        tensor = arguments[operand]
        if isinstance(tensor, list):
            tensor = tensor[0]
        if mutated is not None and not arguments[mutated].is_inference():
            torch.autograd.graph.increment_version(arguments[mutated])
        device = tensor.device
        serve = backends.implementation(stem, name, device, tensor.dtype, backend)
        if torch._C._is_any_autocast_enabled() and torch.is_autocast_enabled(device.type):
            # The operands have their dtype; a backend's own matrix products must keep to it.
            with torch.autocast(device.type, enabled=False):
                return serve(*arguments)
        return serve(*arguments)

    # The dispatcher lets None through where the schema has a tensor.
    required = [
        (place, argument.name)
        for place, argument in enumerate(raw._schema.arguments)
        if str(argument.type) == "Tensor"
    ]

    def net(arguments: Sequence[Any], backend: str | None) -> None:
        backends.check_name(backend)
        for place, argument in required:
            if arguments[place] is None:
                checks.tensors(name, (argument,), (None,))
        check(name, *arguments[:arity])

    def checked(*arguments: Any) -> Any:
        net(arguments, arguments[arity] if len(arguments) > arity else None)
        return run(*arguments)

    def empty(*arguments: Any, backend: str | None = None) -> Any:
        net(arguments, arguments[arity] if len(arguments) > arity else backend)
        return fake(*arguments[:arity])

    for key in ("CPU", "CUDA"):
        LIBRARY.impl(name, checked, key)
    torch.library.register_fake(f"ntensor::{name}", empty, lib=LIBRARY)
    decompose = decomposition.decomposition(stem, name, arity)
    if mutated is None:
        decomposition.register(raw, decompose, empty)

    def count() -> None:
        from torch.utils.flop_counter import register_flop_formula

        @register_flop_formula(getattr(torch.ops.ntensor, name))
        def formula(*shapes: Any, **_: Any) -> int:
            return flops(*shapes[:arity])

    when_imported("torch.utils.flop_counter", count)
    return raw, run, decompose


def _keys_of_memory() -> Iterator[int]:
    """The dispatch keys of a tensor that is nothing but memory, on each device, as one number."""
    keys = torch._C.DispatchKey
    for device in ("CPU", "CUDA"):
        inference = torch._C.DispatchKeySet(getattr(keys, device))
        inference = inference.add(getattr(keys, f"Autocast{device}"))
        yield inference.raw_repr()
        yield inference.add(keys.ADInplaceOrView).add(getattr(keys, f"Autograd{device}")).raw_repr()


PLAIN_KEYS = frozenset(_keys_of_memory())


def plain(tensors: Sequence[Tensor | None]) -> bool:
    """Whether the dispatcher has nothing to add to a call, which then goes straight to its backend.

    That is: no subclass, no transform's wrapper, no lazy negation among the tensors, no mode that
    looks on, no autocast, no tracer, no profiler. It saves a third of a small step's host time.
    """
    if (
        _len_torch_dispatch_stack()
        or has_torch_function(tensors)
        or _get_tracing_state()
        or _is_any_autocast_enabled()
        or _profiler_enabled()
    ):
        return False
    for tensor in tensors:
        if tensor is not None and _dispatch_keys(tensor).raw_repr() not in PLAIN_KEYS:
            return False
    return True


def eager(tensors: Sequence[Tensor]) -> bool:
    """Whether they are plain and nothing differentiates or transforms them."""
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return False
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor.requires_grad:
                return False
    return plain(tensors)
