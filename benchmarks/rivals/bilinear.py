"""The methods of `bilinear.py`: `ntensor.bilinear`, the limit, `F.bilinear`, what replaces it.

Each makes a fresh gradient of the weight, as a layer's backward after `zero_grad()` does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from harness.cases import ITEM_BYTES, Case
from harness.methods import Method, step_of
from harness.problem import ProjectionProblem, projection_reference
from harness.runner import Suite
from harness.timing import Step
from rivals import synthesis


def methods(case: Case, device: torch.device, backends: Iterable[str]) -> list[Method]:
    """All methods of a case, those that cannot run here with their reason."""
    fresh = "fresh" if case.core_grad else ""
    listed = []
    for method in synthesis.methods(case, device, backends):
        if method.kind == "ours" and method.gradient == fresh:
            backend = method.name.partition("(")[2].rstrip(")") or None
            listed.append(replace(method, build=lambda p, b=backend: _library_step(p, b)))
        elif method.kind == "limit" or (method.kind == "torch" and method.gradient == fresh):
            listed.append(method)
    matrices = ITEM_BYTES[case.dtype] * case.n * case.shape.out_features
    matrices *= case.shape.factor_sizes[1]
    listed.append(
        Method(
            "matrix a sample", "torch", _matrix_a_sample, fresh, matrices * (1 + 3 * bool(fresh))
        )
    )
    return listed


def _library_step(problem: ProjectionProblem, backend: str | None) -> Step:
    import ntensor

    return _step(problem, lambda weight, *x: (ntensor.bilinear(*x, weight, backend=backend),))


def _matrix_a_sample(problem: ProjectionProblem) -> Step:
    """`W x_1` for each sample, by one product; then that matrix times `x_2`."""
    return problem.fastest(
        {
            f"from the {word}": _step(problem, lambda *inputs, way=way: (way(*inputs),))
            for word, way in {"first": _from_the_first, "second": _from_the_second}.items()
        }
    )


def _from_the_first(weight: Tensor, x1: Tensor, x2: Tensor) -> Tensor:
    k_x, k_1, k_2 = weight.shape
    matrices = torch.mm(x1, weight.transpose(0, 1).reshape(k_1, -1)).view(-1, k_x, k_2)
    return torch.bmm(matrices, x2.unsqueeze(2)).squeeze(2)


def _from_the_second(weight: Tensor, x1: Tensor, x2: Tensor) -> Tensor:
    k_x, k_1, k_2 = weight.shape
    matrices = torch.mm(x2, weight.view(-1, k_2).t()).view(-1, k_x, k_1)
    return torch.bmm(matrices, x1.unsqueeze(2)).squeeze(2)


def _step(problem: ProjectionProblem, forward) -> Step:
    inputs = {"core_grad": problem.core}
    inputs |= {f"factor_grad_{m}": z for m, z in enumerate(problem.factors)}
    return step_of(problem, forward, inputs, problem.grads)


SUITE = Suite(ProjectionProblem, projection_reference, methods)
