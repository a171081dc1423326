"""The methods of `bilinear.py`: `ntensor.bilinear`, the limit, `F.bilinear`, what replaces it.

Each makes a fresh gradient of the weight, as a layer's backward after `zero_grad()` does.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from harness.cases import Case, plain_equation
from harness.methods import Method, ours
from harness.problem import ProjectionProblem, projection_reference
from harness.runner import Suite
from harness.timing import Step
from rivals import forms
from rivals.gpu_libraries import gpu_libraries
from rivals.layouts import ORDERS, Layout, step_in
from rivals.synthesis import (
    bytes_of,
    compiled_broadcast,
    einsums,
    fresh_of,
    functions,
    limits,
    plain_forms,
    torch_bilinear,
)


def methods(case: Case, device: torch.device, backends: Iterable[str]) -> list[Method]:
    """All methods of a case, those that cannot run here with their reason."""
    rivals = [
        *plain_forms(case),
        matrix_a_sample(case),
        *einsums(case, plain_equation(2)),
        *compiled_broadcast(case, device),
        *torch_bilinear(case),
        *gpu_libraries(case, device),
        *functions(case),
    ]
    fresh = fresh_of(case)
    return [
        *ours(case, device, backends, library_step, [fresh]),
        *limits(case, device),
        *(method for method in rivals if method.gradient == fresh),
    ]


def library_step(problem: ProjectionProblem, backend: str | None, gradient: str) -> Step:
    import ntensor

    return step_in(
        problem,
        ORDERS["linear"],
        lambda weight, *x: (ntensor.bilinear(*x, weight, backend=backend),),
        gradient,
    )


def matrix_a_sample(case: Case) -> Method:
    """`W x_1`, or `W x_2`, for each sample by one product; then that matrix times the other."""
    fresh, output = fresh_of(case), bytes_of(case)[2]
    matrices = output * max(case.shape.factor_sizes)

    def build(problem: ProjectionProblem) -> Step:
        stored = Layout(core=(1, 0, 2))
        return problem.fastest(
            {
                "from the first": step_in(problem, stored, forms.from_the_first, fresh),
                "from the second": step_in(problem, ORDERS["linear"], forms.last_first, fresh),
            }
        )

    return Method("matrix a sample", "torch", build, fresh, matrices * (1 + 3 * bool(fresh)))


SUITE = Suite(ProjectionProblem, projection_reference, methods)
