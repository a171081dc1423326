"""The core's gradient added in place: backward writes into `core.grad`, and returns None for it.

A fresh gradient of the core's size costs its page faults and one more pass over memory; adding into
the one that exists costs neither.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .autograd import Operation, define
from .forms import Form


def check_accumulation(operation: str, core: Tensor, cast: Tensor) -> bool:
    """Whether there is a gradient to accumulate; raises where it cannot be accumulated in place."""
    if not (core.requires_grad and torch.is_grad_enabled()):
        return False
    if torch.compiler.is_compiling():
        raise _refusal(operation, "does not work under torch.compile or torch.export")
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        raise _refusal(operation, "does not work under torch.func or forward-mode differentiation")
    if torch.nn.parallel.DistributedDataParallel._get_active_ddp_module() is not None:
        raise _refusal(operation, "does not work under DistributedDataParallel")
    if not core.is_leaf:
        raise _refusal(operation, "needs a core that is a leaf, got the result of an operation")
    if cast is not core:
        raise _refusal(
            operation, f"needs a core in autocast's dtype, {cast.dtype}, got {core.dtype}"
        )
    check_grad(operation, core)
    return True


def check_grad(operation: str, core: Tensor) -> Tensor:
    """`core.grad`, which must exist, contiguous and of the core's dtype."""
    grad = core.grad
    if grad is None:
        raise _refusal(
            operation,
            "needs core.grad, got None; create it once, core.grad = torch.zeros_like(core), and "
            "clear it by zero_grad(set_to_none=False)",
        )
    if grad.dtype is not core.dtype or not grad.is_contiguous():
        raise _refusal(
            operation,
            f"needs a contiguous core.grad of the core's dtype, {core.dtype}, got {grad.dtype} "
            f"with strides {tuple(grad.stride())}",
        )
    return grad


def _refusal(operation: str, reason: str) -> RuntimeError:
    return RuntimeError(f"{operation}: accumulate_core_grad {reason}")


class AccumulatingProjection(torch.autograd.Function):
    """A projection, with or without mean, that adds the core's gradient into `core.grad`."""

    @staticmethod
    def forward(
        ctx: Any,
        form: Form,
        operation: Operation,
        backend: str | None,
        core: Tensor,
        *factors: Tensor,
    ) -> Any:
        ctx.form, ctx.operation, ctx.backend = form, operation, backend
        # Checkpointing and offloading give saved tensors back as copies, without .grad.
        ctx.core = core
        ctx.save_for_backward(core, *factors)
        ctx.set_materialize_grads(False)
        return operation.call_raw((core, *factors), (backend,))

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, grad_mean: Tensor | None = None) -> Any:
        name = ctx.operation.name
        if torch.is_grad_enabled():
            raise _refusal(name, "does not work under create_graph")
        core, *factors = ctx.saved_tensors
        needs = list(ctx.needs_input_grad[4:])
        values = [core, grad, grad_mean, *factors]
        if (grad is not None or grad_mean is not None) and _core_is_asked(ctx, name):
            PROJECTION_CORE_GRAD_(check_grad(name, ctx.core), grad, grad_mean, factors, ctx.backend)
        gradients = ctx.form.partials(values, [False, False, False, *needs], (ctx.backend,))
        return (None, None, None, None, *gradients[3:])


def _core_is_asked(ctx: Any, name: str) -> bool:
    """False where torch.autograd.grad runs for other inputs only."""
    node = ctx.next_functions[0][0]
    try:
        return bool(torch._C._will_engine_execute_node(node))
    except RuntimeError as error:
        raise _refusal(name, "does not work with torch.autograd.grad for the core") from error


def _fake(
    core_grad: Tensor, grad: Tensor | None, grad_mean: Tensor | None, factors: list[Tensor]
) -> None:
    return None


PROJECTION_CORE_GRAD_ = define(
    "projection_core_grad_(Tensor(a!) core_grad, Tensor? grad, Tensor? grad_mean, "
    "Tensor[] factors, str? backend=None) -> ()",
    "projection",
    _fake,
    operand=0,
    contiguous=0,
    mutated=0,
)
