"""How the operands of a projection are stored, and its step by autograd in any storage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.methods import step_of
from harness.problem import ProjectionProblem
from harness.timing import Step


@dataclass(frozen=True)
class Layout:
    """The modes of core, factors and output in the order of their storage; () as the library's."""

    core: tuple[int, ...] = ()
    factor: tuple[int, ...] = ()
    output: tuple[int, ...] = ()

    def canonical(self, name: str, result: Tensor) -> Tensor:
        """A result (output_mean, core_grad, factor_grad_0, ...) with its modes as the library's."""
        order = getattr(self, name.partition("_")[0], ())
        return result.permute([*map(order.index, range(len(order)))]) if order else result


COLUMNS = (1, 0)
ORDERS = {
    "linear": Layout(),
    "rows": Layout(output=COLUMNS),
    "columns": Layout(factor=COLUMNS, output=COLUMNS),
}


def step_in(
    problem: ProjectionProblem,
    layout: Layout,
    forward: Callable[..., tuple[Tensor, ...]],
    gradient: str,
) -> Step:
    """`forward(core, *factors)` as a step, its operands and outputs stored as `layout` says."""
    inputs = {"core_grad": problem.stored(problem.core, layout.core)}
    for m, z in enumerate(problem.factors):
        inputs[f"factor_grad_{m}"] = problem.stored(z, layout.factor)
    grads: tuple[Tensor, ...] = ()
    if problem.case.differentiates:
        grads = tuple(problem.stored(g, layout.output) for g in problem.grads)

    reused = {"core_grad": problem.core_grad} if gradient in ("adds", "overwrites") else {}
    return step_of(problem, forward, inputs, grads, layout.canonical, reused)


def einsum_step(
    problem: ProjectionProblem,
    equation: str,
    einsum: Callable[..., Tensor],
    gradient: str,
) -> Step:
    """`einsum(equation, ...)`, every operand contiguous in the order of its labels."""
    layout, place = read_equation(equation)

    def forward(core: Tensor, *factors: Tensor) -> tuple[Tensor]:
        return (einsum(equation, *factors[:place], core, *factors[place:]),)

    return step_in(problem, layout, forward, gradient)


def read_equation(equation: str) -> tuple[Layout, int]:
    """The layout of an equation, and the place of the core among its operands.

    The core is the longest term; the factors stand in the order of its modes.
    """
    operands, _, output = equation.partition("->")
    terms = operands.split(",")
    place = max(range(len(terms)), key=lambda number: len(terms[number]))
    core = terms.pop(place)
    (sample,) = set(output) - set(core)
    (row,) = set(output) - {sample}
    modes = row + "".join(term.replace(sample, "") for term in terms)

    def order(plain: str, term: str) -> tuple[int, ...]:
        found = tuple(plain.index(label) for label in term)
        return () if found == tuple(range(len(term))) else found

    (factor,) = {order(sample + term.replace(sample, ""), term) for term in terms}
    return Layout(order(modes, core), factor, order(sample + row, output)), place


def torch_einsum(optimised: bool) -> Callable[..., Tensor]:
    """`torch.einsum` with opt_einsum's order of the products, or from left to right."""

    def einsum(equation: str, *operands: Tensor) -> Tensor:
        with torch.backends.opt_einsum.flags(enabled=optimised):
            return torch.einsum(equation, *operands)

    return einsum
