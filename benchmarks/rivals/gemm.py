"""The GEMM limit: matrix products alone, their operands given, `out=` preallocated.

Every product is tried in every storage order of its free operands and its output; the fastest is
kept.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import torch
from torch import Tensor

from harness.problem import ProjectionProblem, factor_grads
from harness.timing import Step


def gemm_step(problem: ProjectionProblem, library: str) -> Step:
    """The limit of the case's pass with torch's or numpy's matrix product."""
    case, core = problem.case, problem.core.flatten(1)
    steps: list[Step] = []
    if not case.only_backward:
        steps.append(_forward(problem, core, library))
    if case.differentiates:
        steps += _backward(problem, core, library)
    return _sequence(steps)


def _forward(problem: ProjectionProblem, core: Tensor, library: str) -> Step:
    names = ("output", "output_mean")
    outputs = [
        _product(problem, library, core, (y, kr.t()), (name,))
        for y, kr, name in zip(problem.products, problem.product_columns, names, strict=False)
    ]
    if not problem.case.mean:
        return _sequence(outputs)
    joined = torch.cat(problem.products)
    joined_columns = torch.cat(problem.product_columns, 1)
    return problem.fastest(
        {
            "two GEMMs:": _sequence(outputs),
            "concatenated:": _product(problem, library, core, (joined, joined_columns.t()), names),
            "mean core:": _mean_core(problem, core, library, outputs[0]),
        }
    )


def _mean_core(problem: ProjectionProblem, core: Tensor, library: str, output: Step) -> Step:
    """The mean output from the core's mean over its leading mode, formed in every call."""
    leading = problem.case.shape.factor_sizes[0]
    slices = core.view(core.shape[0], leading, -1)
    mean_core = problem.empty(core.shape[0], slices.shape[2])
    weights = problem.products[1][:, : slices.shape[2]] * leading
    rows, columns = weights.contiguous(), weights.t().contiguous().t()
    mean_product = _product(problem, library, mean_core, (rows, columns), ("output_mean",))

    def average(_: object) -> None:
        if library == "torch":
            torch.mean(slices, 1, out=mean_core)
        else:
            np.mean(slices.numpy(), 1, out=mean_core.numpy())

    return _sequence([output, Step(average, lambda _: {}, held=(mean_core,)), mean_product])


def _backward(problem: ProjectionProblem, core: Tensor, library: str) -> list[Step]:
    """`dcore = G^T Y` into the existing `.grad`, and `dY = G core`; both outputs concatenated."""
    grads = torch.cat(problem.grads), torch.cat(problem.grad_columns, 1).t()
    steps = []
    if problem.case.core_grad:
        steps.append(_core_step(problem, grads, library))
    if problem.case.factor_grads:
        steps.append(_product_grad_step(problem, core, grads, library))
    return steps


def _core_step(problem: ProjectionProblem, grads: tuple[Tensor, Tensor], library: str) -> Step:
    products = torch.cat(problem.products), torch.cat(problem.product_columns, 1).t()
    core_grad = problem.core_grad.flatten(1)
    return problem.fastest(
        {
            f"{_order(g)}{_order(y)}": Step(
                _call(library, g.t(), y, core_grad),
                lambda _: {"core_grad": problem.core_grad},
                held=(y,),
            )
            for g, y in product(grads, products)
        }
    )


def _product_grad_step(
    problem: ProjectionProblem, core: Tensor, grads: tuple[Tensor, Tensor], library: str
) -> Step:
    size = len(grads[0]), problem.case.shape.features
    outs = problem.empty(*size), problem.empty(size[1], size[0]).t()

    def results(out: Tensor) -> dict[str, Tensor]:
        parts = out.double().split(problem.case.n)
        return factor_grads(problem.case, parts, problem.outputs_factors)

    return problem.fastest(
        {
            f"{_order(g)}{_order(out)}": Step(
                _call(library, g, core, out), lambda _, out=out: results(out), held=(out,)
            )
            for g, out in product(grads, outs)
        }
    )


def _product(
    problem: ProjectionProblem,
    library: str,
    core: Tensor,
    operands: tuple[Tensor, Tensor],
    names: tuple[str, ...],
) -> Step:
    """`operand core^T` for an operand `(n, K)` in both storage orders, result split by `names`."""
    n, rows = len(operands[0]), core.shape[0]
    outs = problem.empty(n, rows), problem.empty(rows, n).t()

    def results(out: Tensor) -> dict[str, Tensor]:
        return dict(zip(names, out.split(problem.case.n), strict=True))

    steps = {
        f"{_order(y)}{_order(out)}": Step(
            _call(library, y, core.t(), out), lambda _, out=out: results(out), held=(y, out)
        )
        for y, out in product(operands, outs)
    }
    if n == 1:
        steps["mv"] = Step(
            _matrix_vector(library, core, operands[0][0], outs[0][0]),
            lambda _: results(outs[0]),
            held=(operands[0], outs[0]),
        )
    return problem.fastest(steps)


def _order(matrix: Tensor) -> str:
    return "r" if matrix.is_contiguous() else "c"


def _call(library: str, left: Tensor, right: Tensor, out: Tensor) -> Callable[[object], object]:
    """`out = left right` by one BLAS call; `out` is row-major or column-major."""
    if not out.is_contiguous():
        left, right, out = right.t(), left.t(), out.t()
    if library == "torch":
        return lambda _: torch.mm(left, right, out=out)
    a, b, c = left.numpy(), right.numpy(), out.numpy()
    return lambda _: np.matmul(a, b, out=c)


def _matrix_vector(library: str, matrix: Tensor, vector: Tensor, out: Tensor):
    if library == "torch":
        return lambda _: torch.mv(matrix, vector, out=out)
    a, b, c = matrix.numpy(), vector.numpy(), out.numpy()
    return lambda _: np.dot(a, b, out=c)


def _sequence(steps: list[Step]) -> Step:
    """The calls of several steps one after the other."""
    if len(steps) == 1:
        return steps[0]
    calls = [step.call for step in steps]

    def call(_: object) -> None:
        for one in calls:
            one(None)

    def results(_: object) -> dict[str, Tensor]:
        return {name: value for step in steps for name, value in step.results(None).items()}

    held = {id(tensor): tensor for step in steps for tensor in step.held}
    note = " ".join(step.note for step in steps if step.note)
    return Step(call, results, held=tuple(held.values()), note=note)
