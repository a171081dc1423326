"""The methods of `rotation.py`: the library and every rival at its best, on `rotation(y, R)`,
`rotated_synthesis(z_exp, z_id, R)` and `synthesis(z_exp, z_id)`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property

import torch
from torch import Tensor

from harness.cases import ITEM_BYTES, Case
from harness.methods import Method, compiled, compiled_methods, ours, step_of
from harness.problem import Problem, Reference, khatri_rao, sampled
from harness.runner import Suite
from harness.timing import Step
from rivals import forms
from rivals.functions import ColumnRotatedSynthesis, RowRotatedSynthesis, Synthesis


class RotationProblem(Problem):
    """Matrices `(n, 3, 3)`, a feature `(n, K)` or its factors, and a cotangent `(n, K)`."""

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        """The arguments of the operation, by the names of their gradients."""
        if self.case.operation == "rotation":
            operands = {"y_grad": self.random(self.case.n, self.case.shape.features, seed=1)}
        else:
            operands = dict(zip(("z_exp_grad", "z_id_grad"), self.factors, strict=True))
        if self.case.operation == "synthesis":
            return operands
        return {**operands, "R_grad": self.random(self.case.n, 3, 3, seed=50)}

    @cached_property
    def grad(self) -> Tensor:
        return self.random(self.case.n, self.case.shape.features, seed=100)


def rotation_reference(problem: RotationProblem) -> Reference:
    """Output and gradients in float64 on sampled samples (each depends on its own sample only)."""
    samples = sampled(problem.case.n, problem.device)
    inputs = [value[samples].double().requires_grad_() for value in problem.inputs.values()]
    output = _ways(problem.case)["matmul"](*inputs)
    reference = Reference()
    for name in problem.case.output_names:
        reference.add(name, output.detach(), lambda x: x[samples])
    if problem.case.differentiates:
        gradients = torch.autograd.grad(output, inputs, problem.grad[samples].double())
        for name, gradient in zip(problem.inputs, gradients, strict=True):
            reference.add(name, gradient, lambda g: g[samples])
    return reference


def methods(case: Case, device: torch.device, backends: Iterable[str]) -> list[Method]:
    """All methods of a case, those that cannot run here with their reason."""
    feature = ITEM_BYTES[case.dtype] * case.n * case.shape.features
    fresh = "fresh" if case.differentiates else ""
    listed = [
        *ours(case, device, backends, _library_step, [fresh], lambda _: 2 * feature),
        Method("broadcast + matmul", "torch", _eager, fresh, 5 * feature),
        *compiled_methods(case, device, "broadcast", _compiled, fresh, 5 * feature),
    ]
    name, function = "Function over torch.bmm", None
    if case.operation == "synthesis":
        function = Synthesis
    elif case.operation == "rotated_synthesis":
        function = ColumnRotatedSynthesis
        if case.layout == "row" and case.shape.factor_sizes[0] % 3 == 0:
            name, function = "rotate z_exp (Function)", RowRotatedSynthesis
            if not case.differentiates:
                listed.append(Method("rotate z_exp", "torch", _rotate_factor, "", feature))
    if function is not None and case.differentiates:
        listed.append(Method(name, "torch", lambda p: _function(p, function), fresh, 3 * feature))
    return listed


def _step(problem: RotationProblem, forward: Callable[..., Tensor]) -> Step:
    return step_of(problem, lambda *inputs: (forward(*inputs),), problem.inputs, (problem.grad,))


def _library_step(problem: RotationProblem, backend: str | None, gradient: str) -> Step:
    import ntensor

    operation = getattr(ntensor, problem.case.operation)
    options = {"backend": backend}
    if problem.case.layout:
        options["layout"] = problem.case.layout
    return _step(problem, lambda *inputs: operation(*inputs, **options))


def _ways(case: Case) -> dict[str, Callable[..., Tensor]]:
    """Broadcast to the feature (unless it is given), then rotate it, in several ways."""
    if case.operation == "synthesis":
        return {"matmul": lambda *z: khatri_rao(z), "einsum": _einsum_synthesis}

    def way(rotate: Callable[[Tensor, Tensor, str], Tensor]) -> Callable[..., Tensor]:
        if case.operation == "rotation":
            return lambda y, R: rotate(y, R, case.layout)
        return lambda z_exp, z_id, R: rotate(khatri_rao((z_exp, z_id)), R, case.layout)

    return {name: way(rotate) for name, rotate in forms.ROTATIONS.items()}


def _einsum_synthesis(z_exp: Tensor, z_id: Tensor) -> Tensor:
    return torch.einsum("na,nb->nab", z_exp, z_id).flatten(1)


def _eager(problem: RotationProblem) -> Step:
    ways = _ways(problem.case)
    return problem.fastest({name: _step(problem, way) for name, way in ways.items()})


def _compiled(problem: RotationProblem, autotune: bool) -> Step:
    ways = _ways(problem.case)
    return problem.fastest(
        {
            name: _step(problem, compiled(ways[name], autotune))
            for name in ("matmul", "three products")
            if name in ways
        }
    )


def _rotate_factor(problem: RotationProblem) -> Step:
    return _step(problem, forms.rotate_z_exp)


def _function(problem: RotationProblem, function: type[torch.autograd.Function]) -> Step:
    return _step(problem, function.apply)


SUITE = Suite(RotationProblem, rotation_reference, methods)
