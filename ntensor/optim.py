r"""Optimizers that take a step for a core without its gradient in memory.

The gradient of a core is as large as the core, and an optimizer writes and reads it once more. It
is the sum of few outer products, `sum_s g_s (z_1s (x) ... (x) z_Ms)`: these optimizers keep
its terms, which are as small as the batch, and form it in the caches, part by part, where the step
takes it. They are those of `torch.optim` in everything else: the same arguments, states and
results, but for rounding, and any other parameter beside the cores.

    layer = ntensor.nn.MultilinearProjection((10, 15, 20), 12288, accumulate_core_grad=True)
    optimizer = ntensor.optim.AdamW(layer.parameters(), lr=1e-3)
    layer(z_1, z_2, z_3).square().mean().backward()  # layer.core.grad stays None
    optimizer.step()
    optimizer.zero_grad()

Of a core that is used with `accumulate_core_grad=True` and belongs to such an optimizer, backward
notes the terms instead of adding to `core.grad`; `step` takes them, `zero_grad` drops them. A core
that has a `core.grad` too, from elsewhere in the model, gets the sum of both. What reads
`core.grad` sees nothing of the terms: clip by the optimizer's own `clip_grad_norm_`, clear by its
own `zero_grad`, and do not scale the loss by a `GradScaler`.

Without a gradient in memory is what fits the kernel: cores on a CPU, of up to 256 samples between
two steps. Anything else is added up in `core.grad` for the step, with the same result.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ntensor import backends
from ntensor.backends.native import core_step, library
from ntensor.backends.native.core_step import MOST_SAMPLES, Rule
from ntensor.ops import deferred
from ntensor.ops.accumulate import PROJECTION_CORE_GRAD_
from ntensor.ops.deferred import Term

__all__ = ["SGD", "Adam", "AdamW"]


class _StepsByTerms(torch.optim.Optimizer):
    """Steps by the terms of gradients, for a class that is one of torch's optimizers too."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        if options.get("differentiable"):
            raise ValueError(f"{type(self).__name__}: differentiable: wanted False, got True")
        super().__init__(*arguments, **options)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        self._defer(self.param_groups[-1])

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            self._defer(group)

    def _defer(self, group: dict[str, Any]) -> None:
        for parameter in group["params"]:
            if deferred.terms_of(parameter) is None:
                deferred.defer(parameter, self)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes one step for every parameter that has a gradient, or terms of one.

        Args:
            closure: evaluates the model again and returns the loss, with gradients enabled.

        Returns:
            What `closure` returns; None without one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        made = []
        for group in self.param_groups:
            for parameter in group["params"]:
                terms = deferred.terms_of(parameter)
                if not terms:
                    continue
                if self._fits(group, parameter, terms):
                    self._step_by(group, parameter, deferred.join(terms))
                    terms.clear()
                else:
                    if parameter.grad is None:
                        made.append(parameter)
                    _add_up(parameter, terms)
        # Without the hooks of the optimizer, which run around this function already.
        inspect.unwrap(super().step.__func__)(self)  # type: ignore[attr-defined]
        for parameter in made:
            parameter.grad = None
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clears the gradients, and drops the terms of those of cores.

        Args:
            set_to_none (bool): gradients become None, as in `torch.optim`; else 0.
        """
        super().zero_grad(set_to_none)
        for terms in self._all_terms():
            terms.clear()

    @torch.no_grad()
    def clip_grad_norm_(self, max_norm: float, error_if_nonfinite: bool = False) -> Tensor:
        """Scales all gradients such that their common 2-norm is at most `max_norm`, as
        `torch.nn.utils.clip_grad_norm_`. The norm of a core's gradient comes from the products of
        its terms, and no gradient is formed, up to 2048 samples.

        Args:
            max_norm (float): above 0.
            error_if_nonfinite (bool): raise where the norm is not finite.

        Returns:
            Tensor[]: the norm before, in float64.

        Raises:
            ValueError: `max_norm` is not above 0.
            RuntimeError: the norm is not finite, and `error_if_nonfinite`.
        """
        if not max_norm > 0:
            raise ValueError(f"clip_grad_norm_: max_norm: wanted a number above 0, got {max_norm}")
        squares = []
        for group in self.param_groups:
            for parameter in group["params"]:
                terms = deferred.terms_of(parameter)
                norm = deferred.norm(terms) if terms and parameter.grad is None else None
                if terms and norm is None:
                    _add_up(parameter, terms)
                if norm is None and parameter.grad is not None:
                    norm = torch.linalg.vector_norm(parameter.grad, dtype=torch.float64)
                if norm is not None:
                    squares.append(norm.cpu().square())
        total = (
            torch.stack(squares).sum().sqrt() if squares else torch.zeros((), dtype=torch.float64)
        )
        if error_if_nonfinite and not total.isfinite():
            raise RuntimeError(f"clip_grad_norm_: wanted a finite norm, got {total.item()}")
        scale = (max_norm / (total + 1e-6)).clamp(max=1.0).item()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.mul_(scale)
        for terms in self._all_terms():
            for term in terms:
                for grad in (term.grad, term.grad_mean):
                    if grad is not None:
                        grad.mul_(scale)
        return total

    def _all_terms(self) -> Iterable[list[Term]]:
        for group in self.param_groups:
            for parameter in group["params"]:
                terms = deferred.terms_of(parameter)
                if terms:
                    yield terms

    def _fits(self, group: dict[str, Any], core: Tensor, terms: list[Term]) -> bool:
        """Whether the kernel takes the step."""
        if core.grad is not None or group.get("capturable") or not _is_plain(core):
            return False
        if getattr(self, "grad_scale", None) is not None:  # what GradScaler leaves to the step
            return False
        samples = sum(term.samples for term in terms)
        if not 0 < samples <= MOST_SAMPLES or core.numel() == 0 or not _has_kernel():
            return False
        if any(term.grad is None and term.grad_mean is None for term in terms):
            return False
        if not all(_belongs(term, core) for term in terms):
            return False  # the operation that adds them says what is wrong
        if any(backends.requested(term.backend) not in (None, "native") for term in terms):
            return False
        state = self.state.get(core, {}).values()
        arrays = [each for each in state if isinstance(each, Tensor) and each.dim() > 0]
        return all(_is_plain(each) and each.dtype is core.dtype for each in arrays)

    def _step_by(self, group: dict[str, Any], core: Tensor, term: Term) -> None:
        raise NotImplementedError


def _is_plain(tensor: Tensor) -> bool:
    return tensor.is_cpu and tensor.is_contiguous() and tensor.dtype in backends.DTYPES


def _belongs(term: Term, core: Tensor) -> bool:
    """Whether the core still has the shape, dtype and device of backward."""
    grads = [grad for grad in (term.grad, term.grad_mean) if grad is not None]
    extents = [z.shape[1] for z in term.factors]
    return all(list(core.shape) == [grad.shape[1], *extents] for grad in grads) and all(
        each.dtype is core.dtype and each.device == core.device for each in (*grads, *term.factors)
    )


def _has_kernel() -> bool:
    try:
        library.cpu_module()
    except ImportError:
        return False
    return True


def _add_up(core: Tensor, terms: list[Term]) -> None:
    """Adds the terms to `core.grad`, which is made where there is none."""
    if core.grad is None:
        core.grad = torch.zeros_like(core, memory_format=torch.contiguous_format)
    for term in terms:
        if term.grad is not None or term.grad_mean is not None:
            given = (term.grad, term.grad_mean, list(term.factors), term.backend)
            PROJECTION_CORE_GRAD_(core.grad, *given)
    terms.clear()


class _Adam(_StepsByTerms):
    _is_decoupled = False

    def _step_by(self, group: dict[str, Any], core: Tensor, term: Term) -> None:
        state = self.state[core]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(core)
            state["exp_avg_sq"] = torch.zeros_like(core)
            if group["amsgrad"]:
                state["max_exp_avg_sq"] = torch.zeros_like(core)
        state["step"] += 1
        count, (beta_1, beta_2) = float(state["step"]), map(float, group["betas"])
        rate, decay = float(group["lr"]), float(group["weight_decay"])
        is_decoupled = group.get("decoupled_weight_decay", self._is_decoupled)
        rule = Rule(
            is_adam=True,
            sign=-1.0 if group["maximize"] else 1.0,
            coupled=0.0 if is_decoupled else decay,
            kept=1 - rate * decay if is_decoupled else 1.0,
            rate=rate / (1 - beta_1**count),
            taken=1 - beta_1,
            kept_square=beta_2,
            taken_square=1 - beta_2,
            correction=math.sqrt(1 - beta_2**count),
            epsilon=float(group["eps"]),
        )
        largest = state["max_exp_avg_sq"] if group["amsgrad"] else None
        states = state["exp_avg"], state["exp_avg_sq"], largest
        core_step.step(core, states, term.grad, term.grad_mean, term.factors, rule)


class Adam(_Adam, torch.optim.Adam):
    """`torch.optim.Adam`, with steps for cores by terms of gradients (`ntensor.optim`).

    Example:
        >>> import torch, ntensor
        >>> core = torch.nn.Parameter(torch.ones(2, 3, 4))
        >>> optimizer = ntensor.optim.Adam([core], lr=0.1)
        >>> z = torch.ones(1, 3), torch.ones(1, 4)
        >>> ntensor.synthesis_projection(core, *z, accumulate_core_grad=True).sum().backward()
        >>> core.grad is None
        True
        >>> optimizer.step()
        >>> round(core[0, 0, 0].item(), 6)
        0.9
    """


class AdamW(_Adam, torch.optim.AdamW):
    """`torch.optim.AdamW`, with steps for cores by terms of gradients (`ntensor.optim`)."""

    _is_decoupled = True


class SGD(_StepsByTerms, torch.optim.SGD):
    """`torch.optim.SGD`, with steps for cores by terms of gradients (`ntensor.optim`)."""

    def _step_by(self, group: dict[str, Any], core: Tensor, term: Term) -> None:
        momentum = float(group["momentum"])
        buffer = self.state.get(core, {}).get("momentum_buffer")
        is_first = momentum != 0 and buffer is None  # it is the gradient itself then
        if is_first:
            buffer = self.state[core]["momentum_buffer"] = torch.zeros_like(core)
        rule = Rule(
            is_adam=False,
            sign=-1.0 if group["maximize"] else 1.0,
            coupled=float(group["weight_decay"]),
            rate=float(group["lr"]),
            momentum=momentum,
            taken=1.0 if is_first else 1 - float(group["dampening"]),
            is_nesterov=bool(group["nesterov"]),
        )
        states = buffer if momentum else None, None, None
        core_step.step(core, states, term.grad, term.grad_mean, term.factors, rule)
