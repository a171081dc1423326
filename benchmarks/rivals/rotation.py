"""The methods of `rotation.py`: the library and every rival at its best, on `rotation(y, R)`,
`rotated_synthesis(z_exp, z_id, R)` and `synthesis(z_exp, z_id)`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property

import torch
from torch import Tensor

from harness.cases import ITEM_BYTES, Case
from harness.methods import Method, compiled, missing_backend, missing_compiler, step_of
from harness.problem import Problem, Reference, khatri_rao, sampled
from harness.runner import Suite
from harness.timing import Step
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
    (output,) = _matmul_ways(problem.case)["matmul"](*inputs)
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
    missing = missing_compiler(device)
    listed = [
        Method(
            "ntensor" if backend == "auto" else f"ntensor ({backend})",
            "ours",
            lambda problem, b=backend: _library_step(problem, b),
            fresh,
            2 * feature,
            missing_backend(backend, case, device),
        )
        for backend in backends
    ]
    listed.append(Method("broadcast + matmul", "torch", _eager, fresh, 5 * feature))
    listed.append(
        Method(
            "torch.compile(broadcast)",
            "torch",
            _compiled,
            fresh,
            5 * feature,
            missing,
            compiles=True,
            compile_seconds=20.0,
        )
    )
    if case.operation == "synthesis" and case.differentiates:
        listed.append(
            Method(
                "Function over torch.bmm",
                "torch",
                lambda p: _function(p, Synthesis),
                fresh,
                3 * feature,
            )
        )
    if case.operation == "rotated_synthesis":
        if case.layout == "row" and case.shape.factor_sizes[0] % 3 == 0:
            name, function = "rotate z_exp (Function)", RowRotatedSynthesis
            if not case.differentiates:
                listed.append(Method("rotate z_exp", "torch", _rotate_factor, "", feature))
        else:
            name, function = "Function over torch.bmm", ColumnRotatedSynthesis
        if case.differentiates:
            listed.append(
                Method(name, "torch", lambda p: _function(p, function), fresh, 3 * feature)
            )
    return listed


def _step(problem: RotationProblem, forward: Callable[..., tuple[Tensor, ...]]) -> Step:
    return step_of(problem, forward, problem.inputs, (problem.grad,))


def _library_step(problem: RotationProblem, backend: str) -> Step:
    import ntensor

    operation = getattr(ntensor, problem.case.operation)
    options = {"backend": None if backend == "auto" else backend}
    if problem.case.layout:
        options["layout"] = problem.case.layout
    return _step(problem, lambda *inputs: (operation(*inputs, **options),))


def _matmul_ways(case: Case) -> dict[str, Callable[..., tuple[Tensor, ...]]]:
    """Broadcast to the feature (unless it is given), then rotate it, in several ways."""

    if case.operation == "synthesis":
        return {"matmul": lambda *z: (khatri_rao(z),), "einsum": _einsum_synthesis}

    def feature(operands: tuple[Tensor, ...]) -> Tensor:
        y = operands[0] if case.operation == "rotation" else khatri_rao(operands)
        return y.unflatten(1, (3, -1) if case.layout == "row" else (-1, 3))

    def matmul(*inputs: Tensor) -> tuple[Tensor]:
        *operands, matrix = inputs
        y = feature(tuple(operands))
        rotated = matrix @ y if case.layout == "row" else y @ matrix.transpose(1, 2)
        return (rotated.flatten(1),)

    def einsum(*inputs: Tensor) -> tuple[Tensor]:
        *operands, matrix = inputs
        equation = "nab,nbj->naj" if case.layout == "row" else "nab,njb->nja"
        return (torch.einsum(equation, matrix, feature(tuple(operands))).flatten(1),)

    def three_products(*inputs: Tensor) -> tuple[Tensor]:
        *operands, matrix = inputs
        y = feature(tuple(operands))
        if case.layout == "row":
            terms = (matrix[:, :, b, None] * y[:, b, None, :] for b in range(3))
        else:
            terms = (y[:, :, b, None] * matrix[:, None, :, b] for b in range(3))
        first, second, third = terms
        return ((first + second + third).flatten(1),)

    return {"matmul": matmul, "einsum": einsum, "three products": three_products}


def _einsum_synthesis(z_exp: Tensor, z_id: Tensor) -> tuple[Tensor]:
    return (torch.einsum("na,nb->nab", z_exp, z_id).flatten(1),)


def _eager(problem: RotationProblem) -> Step:
    ways = _matmul_ways(problem.case)
    return problem.fastest({name: _step(problem, way) for name, way in ways.items()})


def _compiled(problem: RotationProblem) -> Step:
    ways = _matmul_ways(problem.case)
    return problem.fastest(
        {
            name: _step(problem, compiled(ways[name], autotune=False))
            for name in ("matmul", "three products")
            if name in ways
        }
    )


def _rotate_factor(problem: RotationProblem) -> Step:
    def forward(z_exp: Tensor, z_id: Tensor, matrix: Tensor) -> tuple[Tensor]:
        rotated = torch.bmm(matrix, z_exp.view(len(z_exp), 3, -1)).flatten(1)
        return (khatri_rao((rotated, z_id)),)

    return _step(problem, forward)


def _function(problem: RotationProblem, function: type[torch.autograd.Function]) -> Step:
    return _step(problem, lambda *inputs: (function.apply(*inputs),))


SUITE = Suite(RotationProblem, rotation_reference, methods)
