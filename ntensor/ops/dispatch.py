"""From an operation of the namespace `ntensor` to the backend that serves it.

The dispatcher of torch leads there; a plain eager call takes the direct way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from ntensor import backends
from ntensor.backends._torch import (
    arguments_of,
    below_autograd,
    count_dispatch_modes,
    count_function_modes,
    is_any_autocast_enabled,
    is_profiler_enabled,
    is_transformed,
    keys_of,
    plain_keys,
    tracing_state,
)

from . import checks, decomposition, late

LIBRARY = torch.library.Library("ntensor", "DEF")


def define(
    schema: str,
    stem: str,
    check: Callable[..., None],
    fake: Callable[..., Any],
    flops: Callable[..., int],
    record: Callable[[Sequence[Any]], Any] | None = None,
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
        record: the operation on its arguments, recorded for autograd; None: it has no derivative.
    """
    name = schema.partition("(")[0]
    LIBRARY.define(schema)
    packet = getattr(torch.ops.ntensor, name)
    raw = packet.default
    arguments_in_schema = arguments_of(raw)
    arity = len(arguments_in_schema) - 1
    # The dispatcher lets None through where the schema has a tensor.
    required = [
        place for place, each in enumerate(arguments_in_schema) if str(each.type) == "Tensor"
    ]
    # A tensor, or a list of them, that is always given.
    operand = next(
        place
        for place, each in enumerate(arguments_in_schema)
        if str(each.type) in ("Tensor", "List[Tensor]")
    )
    written = [
        place
        for place, each in enumerate(arguments_in_schema)
        if each.alias_info is not None and each.alias_info.is_write
    ]

    def run(*arguments: Any) -> Any:
        # The dispatcher leaves out a trailing argument that equals its default.
        backend = None
        if len(arguments) > arity:
            backend = arguments[arity]
            arguments = arguments[:arity]
        tensor = arguments[operand]
        if isinstance(tensor, list):
            tensor = tensor[0]
        for place in written:
            if not arguments[place].is_inference():
                torch.autograd.graph.increment_version(arguments[place])
        device = tensor.device
        serve = backends.implementation(stem, name, device, tensor.dtype, backend)
        if is_any_autocast_enabled() and torch.is_autocast_enabled(device.type):
            # The operands have their dtype; a backend's own matrix products must keep to it.
            with torch.autocast(device.type, enabled=False):
                return serve(*arguments)
        return serve(*arguments)

    def net(arguments: Sequence[Any], backend: str | None) -> None:
        backends.check_name(backend)
        for place in required:
            if arguments[place] is None:
                checks.tensors(name, (arguments_in_schema[place].name,), (None,))
        check(name, *arguments[:arity])

    def checked(*arguments: Any) -> Any:
        net(arguments, arguments[arity] if len(arguments) > arity else None)
        return run(*arguments)

    def empty(*arguments: Any, backend: str | None = None) -> Any:
        decomposition.offer()
        net(arguments, arguments[arity] if len(arguments) > arity else backend)
        return fake(*arguments[:arity])

    def differentiable(*arguments: Any) -> Any:
        late.tell()
        if record is not None and torch.is_grad_enabled() and _any_requires_grad(arguments):
            return record(arguments)
        with below_autograd():
            return raw(*arguments)

    for key, kernel in (("CPU", checked), ("CUDA", checked), ("Autograd", differentiable)):
        LIBRARY.impl(name, kernel, key)
    torch.library.register_fake(f"ntensor::{name}", empty, lib=LIBRARY)
    late.count(packet, lambda *shapes, **_: flops(*shapes[:arity]))
    decompose = decomposition.decomposition(stem, name, arity)
    if not written:
        decomposition.register(raw, decompose, empty)
    return raw, run, decompose


def _any_requires_grad(arguments: Sequence[Any]) -> bool:
    return any(
        _any_requires_grad(each)
        if isinstance(each, (list, tuple))
        else isinstance(each, Tensor) and each.requires_grad
        for each in arguments
    )


PLAIN_KEYS = frozenset(keys.raw_repr() for device in ("CPU", "CUDA") for keys in plain_keys(device))
PLAIN_TYPES = frozenset((Tensor, Parameter))
_PLAIN_OR_NONE = PLAIN_TYPES | {type(None)}


def plain(tensors: Sequence[Any], types: frozenset[type] = _PLAIN_OR_NONE) -> bool:
    """Whether all are of these types, and the dispatcher has nothing to add to a call, which then
    goes straight to its backend.

    That is: no subclass, no transform's wrapper, no lazy negation among the tensors, no mode that
    looks on, no autocast, no tracer, no profiler. It saves a third of a small step's host time.
    """
    if (
        count_dispatch_modes()
        or count_function_modes()
        or tracing_state()
        or is_any_autocast_enabled()
        or is_profiler_enabled()
    ):
        return False
    if not types.issuperset(map(type, tensors)):
        return False
    for tensor in tensors:
        if tensor is not None and keys_of(tensor).raw_repr() not in PLAIN_KEYS:
            return False
    return True


def differentiated(tensors: Sequence[Tensor | None]) -> bool:
    """Whether autograd records what is done with them."""
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor is not None and tensor.requires_grad:
                return True
    return False


def eager(tensors: Sequence[Tensor]) -> bool:
    """Whether they are plain and nothing differentiates or transforms them."""
    if is_transformed():
        return False
    return not differentiated(tensors) and plain(tensors)
