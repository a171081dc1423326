"""A case of `sweep.py`: its numbers, the calls to compare, and what float64 says."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.sizes import Sizes, differentiates
from rivals.sweep_forms import MOST_BETWEEN, Form, Operation, operation

# A value of the library may differ from the exact one by this part of itself and of the root of the
# sum of the squares of the terms that it adds up, as in tests/fuzz.py.
PART = {"float64": 2.0**-42, "float32": 2.0**-15, "bfloat16": 2.0**-5}


@dataclass(frozen=True)
class Problem:
    """Calls without arguments: the library's under "ntensor", then the plain forms."""

    calls: dict[str, Callable[[], list[Tensor]]]
    exact: Callable[[], list[Tensor]]
    terms: Callable[[], list[Tensor]]


def problem(
    kind: str,
    sizes: Sizes,
    dtype: str,
    generator: torch.Generator,
    compiles: bool = False,
    einsum: bool = False,
) -> Problem:
    """The case with normal random numbers; with the rivals that are asked for."""
    case = operation(kind, sizes)
    forms = dict(case.forms)
    if einsum and case.equations and _largest_between(case) <= MOST_BETWEEN:
        forms["einsum"] = _einsum(case)
    if compiles:
        torch._dynamo.reset()
        forms["torch.compile"] = torch.compile(case.reference, dynamic=False)

    def tensors(shapes: list[tuple[int, ...]]) -> list[Tensor]:
        return [torch.randn(each, generator=generator).to(getattr(torch, dtype)) for each in shapes]

    values, cotangents = tensors(case.shapes), tensors(case.outputs)

    def calling(form: Form, change: Callable[[Tensor], Tensor]) -> Callable[[], list[Tensor]]:
        operands, along = [[change(each) for each in group] for group in (values, cotangents)]
        if not differentiates(kind):
            return lambda: form(*operands)
        operands = [each.detach().requires_grad_() for each in operands]

        def call() -> list[Tensor]:
            results = form(*operands)
            gradients = torch.autograd.grad(results, operands, along)
            return [*(each.detach() for each in results), *gradients]

        return call

    calls = {
        name: calling(form, lambda x: x) for name, form in {"ntensor": case.ours, **forms}.items()
    }
    return Problem(
        calls,
        lambda: calling(case.reference, lambda x: x.double())(),
        lambda: calling(case.squares, lambda x: x.double().square())(),
    )


def _einsum(case: Operation) -> Form:
    def form(*values: Tensor) -> list[Tensor]:
        return case.finish(
            [
                torch.einsum(equation, *(values[place] for place in places))
                for equation, places in case.equations
            ]
        )

    return form


def _largest_between(case: Operation) -> int:
    import opt_einsum

    return max(
        opt_einsum.contract_path(equation, *(case.shapes[place] for place in places), shapes=True)[
            1
        ].largest_intermediate
        for equation, places in case.equations
    )


def largest_error(found: list[Tensor], wanted: list[Tensor], terms: list[Tensor]) -> float:
    """Of all values, as a part of their size and of the root of the sum of their terms' squares.

    A sum that cancels is no smaller than its terms here; NaN counts as infinite.
    """
    worst = 0.0
    for value, exact, squares in zip(found, wanted, terms, strict=True):
        if value.shape != exact.shape:
            return math.inf
        size = exact.abs() + squares.abs().sqrt()
        error = (value.double() - exact).abs() / size.clamp(min=1e-300)
        worst = max(worst, float(error.nan_to_num(math.inf, math.inf).max()))
    return worst
