"""The core's gradient added in place: backward writes into `core.grad`, and returns None for it.

A fresh gradient of the core's size costs its page faults and one more pass over memory; adding into
the one that exists costs neither. Where an optimizer of `ntensor.optim` has the core, backward
notes the terms of the gradient for it instead.
"""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ntensor.backends._torch import (
    are_functorch_transforms_active,
    in_forward_mode,
    is_in_ddp_forward,
    will_execute,
)

from . import checks, deferred, derivatives
from .dispatch import define, plain
from .operation import Operation
from .saved import save, unpack

# Reading, adding and writing is one step among threads: a kernel runs without the interpreter's
# lock. This one is reentrant, since a finaliser may run another backward meanwhile, and a single
# one, so that no two threads wait for each other's.
_adding = threading.RLock()


def _renew() -> None:
    global _adding
    _adding = threading.RLock()


if hasattr(os, "register_at_fork"):
    # The thread that holds the lock is not there in a forked process.
    os.register_at_fork(after_in_child=_renew)


def ensure_grad(core: Tensor) -> None:
    """Creates `core.grad` where it is None and no optimizer of `ntensor.optim` has the core; of
    several threads one does."""
    if core.grad is None and deferred.terms_of(core) is None:
        with _adding:
            if core.grad is None:
                core.grad = torch.zeros_like(core)


def check_accumulation(operation: str, core: Tensor, cast: Tensor) -> bool:
    """Whether there is a gradient to accumulate; raises where it cannot be accumulated in place."""
    if not torch.is_grad_enabled():
        return False
    if are_functorch_transforms_active():
        raise _refusal(operation, "does not work under torch.func")
    if not core.requires_grad:
        return False
    if checks.recorded():
        raise _refusal(operation, "does not work under torch.jit.trace")
    if torch.compiler.is_compiling():
        raise _refusal(operation, "does not work under torch.compile or torch.export")
    if in_forward_mode():
        raise _refusal(operation, "does not work under forward-mode differentiation")
    if is_in_ddp_forward():
        raise _refusal(operation, "does not work under DistributedDataParallel")
    tensor = sys.modules.get("torch.distributed.tensor")
    if tensor is not None and isinstance(core, tensor.DTensor):
        raise _refusal(operation, "does not work with DTensor")
    if not core.is_leaf:
        raise _refusal(operation, "needs a core that is a leaf, got the result of an operation")
    if cast is not core:
        raise _refusal(
            operation, f"needs a core in autocast's dtype, {cast.dtype}, got {core.dtype}"
        )
    if deferred.terms_of(core) is None:
        check_grad(operation, core, core)
    return True


def check_grad(operation: str, core: Tensor, values: Tensor) -> Tensor:
    """`core.grad`, which must exist, contiguous, and fit the values that the core had in forward.

    Autograd compares the two where `.grad` is set, but not where `.data` is.
    """
    grad = core.grad
    if grad is None:
        raise _refusal(
            operation,
            "needs core.grad, got None; create it once, core.grad = torch.zeros_like(core), and "
            "clear it by zero_grad(set_to_none=False)",
        )
    if (
        grad.dtype is not values.dtype
        or grad.shape != values.shape
        or grad.device != values.device
        or not grad.is_contiguous()
    ):
        raise _refusal(
            operation,
            f"needs a contiguous core.grad of the core's shape, dtype and device, "
            f"{tuple(values.shape)}, {values.dtype}, {values.device}, got {tuple(grad.shape)}, "
            f"{grad.dtype}, {grad.device} with strides {tuple(grad.stride())}",
        )
    return grad


def _refusal(operation: str, reason: str) -> RuntimeError:
    return RuntimeError(f"{operation}: accumulate_core_grad {reason}")


def accumulating_projection(
    operation: Operation, core: Tensor, factors: Sequence[Tensor], backend: str | None
) -> Any:
    """The projection, with or without mean, whose backward adds the core's gradient in place."""
    # The graph must not reach the core, or autograd would run its hooks with None; the anchor makes
    # the result require a gradient where no factor does.
    anchor = core.new_empty(0).requires_grad_()
    return _AccumulatingProjection.apply(
        (operation, core, backend), anchor, core.detach(), *factors
    )


class _AccumulatingProjection(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, statics: tuple[Any, ...], anchor: Tensor, values: Tensor, *factors: Tensor
    ) -> Any:
        operation, core, backend = ctx.statics = statics
        ctx.core_node = torch.autograd.graph.get_gradient_edge(core).node
        tensors = (values, *factors)
        save(ctx, tensors)
        return operation.without_autograd(tensors, (backend,))

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, grad_mean: Tensor | None = None) -> Any:
        operation, core, backend = ctx.statics
        if torch.is_grad_enabled():
            raise _refusal(operation.name, "does not work under create_graph")
        tensors: Any = unpack(operation, ctx)
        values, *factors = tensors
        given = grad is not None or grad_mean is not None
        if given and _is_asked(operation.name, ctx.next_functions[0][0], ctx.core_node):
            terms = deferred.terms_of(core)
            if terms is None:
                core_grad = check_grad(operation.name, core, values)
                are_plain = plain((*tensors, grad, grad_mean))
                add = _ADD_CORE_GRAD if are_plain else PROJECTION_CORE_GRAD_
            with _adding:
                if terms is None:
                    add(core_grad, grad, grad_mean, factors, backend)
                else:
                    deferred.note(terms, grad, grad_mean, factors, backend)
        cotangents = (grad, grad_mean)[: len(operation.returns)]
        needs = (False, *ctx.needs_input_grad[3:])
        gradients = derivatives.first_order(operation, tensors, (backend,), needs, cotangents)
        return (None, None, None, *gradients[1:])


def _is_asked(operation: str, anchor: Any, core: Any) -> bool:
    """False where backward runs for chosen inputs only, and the core is none of them.

    Without chosen inputs it runs for the whole graph, with the anchor; else never for the anchor.
    """
    try:
        return bool(will_execute(anchor) or will_execute(core))
    except RuntimeError as error:
        raise _refusal(operation, "does not work with torch.autograd.grad for the core") from error


def _fake(
    core_grad: Tensor, grad: Tensor | None, grad_mean: Tensor | None, factors: list[Tensor]
) -> None:
    return None


def _check(
    operation: str,
    core_grad: Tensor,
    grad: Tensor | None,
    grad_mean: Tensor | None,
    factors: list[Tensor],
) -> None:
    checks.core_and_factors(operation, (core_grad, *factors), "core_grad")
    extents = (factors[0].shape[0], core_grad.shape[0])
    checks.upstream(operation, grad, grad_mean, extents, core_grad)


def core_grad_flops(
    grad: torch.Size | None, grad_mean: torch.Size | None, factors: list[torch.Size]
) -> int:
    n, k_x = grad or grad_mean or (0, 0)
    return 2 * n * k_x * math.prod(extent for _, extent in factors)


PROJECTION_CORE_GRAD_, _ADD_CORE_GRAD, _ = define(
    "projection_core_grad_(Tensor(a!) core_grad, Tensor? grad, Tensor? grad_mean, "
    "Tensor[] factors, str? backend=None) -> ()",
    "projection",
    _check,
    _fake,
    lambda _, *shapes: core_grad_flops(*shapes),
)
