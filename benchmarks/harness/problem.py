"""Inputs of a case, its float64 reference, and the check that every method has to pass first."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from harness.cases import Case
from harness.timing import Clock, Step, rank

# Largest relative Frobenius error of a right result: sums of up to 12288 terms in any order, and in
# half precision rivals that round every product and every partial sum. A wrong formula is off by 1.
TOLERANCE = {"float32": 1e-4, "float64": 1e-12, "bfloat16": 6e-2, "float16": 1e-2}
CHECKED = 64


def khatri_rao(factors: tuple[Tensor, ...], columns: bool = False) -> Tensor:
    """Khatri-Rao product of `(n, k_m)` factors to `(n, K)`, or of `(k_m, n)` to `(K, n)`."""
    result = factors[0]
    for z in factors[1:]:
        if columns:
            result = (result.unsqueeze(1) * z.unsqueeze(0)).flatten(0, 1)
        else:
            result = (result.unsqueeze(2) * z.unsqueeze(1)).flatten(1)
    return result


def without_leading(factors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The factors of the mean output: the leading one replaced by `1/k_1`."""
    leading = factors[0]
    return (torch.full_like(leading, 1 / leading.shape[1]), *factors[1:])


@dataclass
class Problem:
    """Inputs in the layout of the library (`(n, k_m)`), shared by all methods of a case."""

    case: Case
    device: torch.device
    clock: Clock

    def __post_init__(self) -> None:
        self.dtype = getattr(torch, self.case.dtype)
        self._ranked: dict[str, list[str]] = {}
        self._stored: dict[tuple, tuple[Tensor, Tensor]] = {}

    def fastest(self, steps: dict[str, Step], family: str = "") -> Step:
        """The fastest of several ways of one method. A later method of the same `family` (the same
        ways with another treatment of the gradient) tries only the two that were fastest."""
        if family in self._ranked:
            steps = {label: steps[label] for label in self._ranked[family][:2]}
        if len(steps) == 1:
            return next(iter(steps.values()))
        ranked = rank(steps, self.clock)
        if family:
            self._ranked.setdefault(family, ranked)
        return steps[ranked[0]]

    def random(self, *size: int, seed: int, scale: float = 1.0) -> Tensor:
        generator = torch.Generator(self.device).manual_seed(seed)
        values = torch.randn(*size, generator=generator, device=self.device)
        return values.mul_(scale).to(self.dtype)

    def stored(self, tensor: Tensor, order: tuple[int, ...]) -> Tensor:
        """`tensor` with its modes in this order in memory, () as they are; one copy serves all."""
        if not order:
            return tensor
        key = id(tensor), order
        if key not in self._stored:
            self._stored[key] = tensor, tensor.permute(order).contiguous()
        return self._stored[key][1]

    def empty(self, *size: int) -> Tensor:
        return torch.empty(*size, dtype=self.dtype, device=self.device)

    @cached_property
    def factors(self) -> tuple[Tensor, ...]:
        sizes = self.case.shape.factor_sizes
        return tuple(self.random(self.case.n, k, seed=m + 1) for m, k in enumerate(sizes))


class ProjectionProblem(Problem):
    """`core` `(k_x, k_1..k_M)`, cotangents `grads` of the outputs, `.grad` to reuse."""

    _core: tuple[tuple, Tensor] | None = None

    @cached_property
    def core(self) -> Tensor:
        shape = self.case.shape
        key = (shape, self.dtype, self.device)
        if ProjectionProblem._core is None or ProjectionProblem._core[0] != key:
            ProjectionProblem._core = None
            values = self.random(
                shape.out_features, *shape.factor_sizes, seed=0, scale=1 / math.sqrt(shape.features)
            )
            ProjectionProblem._core = key, values
        return ProjectionProblem._core[1]

    @cached_property
    def core_grad(self) -> Tensor:
        """The `.grad` that every method of a reusing mode writes to, in turn."""
        return torch.zeros_like(self.core)

    @cached_property
    def grads(self) -> tuple[Tensor, ...]:
        """Cotangents `(n, k_x)` of the outputs: one, or two with the mean output."""
        size = self.case.n, self.case.shape.out_features
        return tuple(self.random(*size, seed=100 + i) for i in range(1 + self.case.mean))

    @cached_property
    def grad_columns(self) -> tuple[Tensor, ...]:
        return tuple(self.stored(g, (1, 0)) for g in self.grads)

    @cached_property
    def outputs_factors(self) -> tuple[tuple[Tensor, ...], ...]:
        """The factors of each output."""
        return (self.factors, *((without_leading(self.factors),) if self.case.mean else ()))

    @cached_property
    def products(self) -> tuple[Tensor, ...]:
        """Khatri-Rao product `(n, K)` of each output, rounded once."""
        return tuple(
            khatri_rao(tuple(z.double() for z in factors)).to(self.dtype)
            for factors in self.outputs_factors
        )

    @cached_property
    def product_columns(self) -> tuple[Tensor, ...]:
        return tuple(y.t().contiguous() for y in self.products)


class Reference:
    """Float64 results on a sample of the rows and samples, ends included.

    `expected[name]` belongs to `index[name](results[name])`; `rows` are the core's sampled rows.
    """

    def __init__(self, rows: Tensor | None = None) -> None:
        self.rows = rows
        self.index: dict[str, Callable[[Tensor], Tensor]] = {}
        self.expected: dict[str, Tensor] = {}

    def add(self, name: str, expected: Tensor, index: Callable[[Tensor], Tensor]) -> None:
        self.expected[name] = expected
        self.index[name] = index

    def errors(self, results: dict[str, Tensor], before: dict[str, Tensor]) -> dict[str, float]:
        """Relative Frobenius errors of all results; `before` is what a result was added to."""
        if set(results) != set(self.expected):
            raise ValueError(f"results {sorted(results)}, expected {sorted(self.expected)}")
        errors = {}
        for name, expected in self.expected.items():
            got = self.index[name](results[name]).double()
            wanted = expected + before[name] if name in before else expected
            errors[name] = (torch.linalg.norm(got - wanted) / torch.linalg.norm(wanted)).item()
        return errors


def sampled(count: int, device: torch.device) -> Tensor:
    """Up to `CHECKED` sorted indices below `count`, the first and the last among them."""
    if count <= CHECKED:
        return torch.arange(count, device=device)
    inner = torch.randperm(count - 2, generator=torch.Generator().manual_seed(0))[: CHECKED - 2] + 1
    return torch.cat([torch.tensor([0]), inner.sort().values, torch.tensor([count - 1])]).to(device)


def projection_reference(problem: ProjectionProblem) -> Reference:
    """Outputs and, where the case differentiates, gradients, on sampled rows and samples."""
    case, core = problem.case, problem.core.flatten(1)
    rows, samples = sampled(core.shape[0], problem.device), sampled(case.n, problem.device)
    reference = Reference(rows)
    core_rows = core[rows].double()
    some = [tuple(z[samples].double() for z in factors) for factors in problem.outputs_factors]
    for name, factors in zip(case.output_names, some, strict=False):
        reference.add(name, khatri_rao(factors) @ core_rows.t(), lambda x: x[samples][:, rows])
    if not case.differentiates:
        return reference

    if case.core_grad:
        _add_core_grad(reference, problem, core_rows)
    if case.factor_grads:
        _add_factor_grads(reference, problem, samples, some)
    return reference


def _add_core_grad(reference: Reference, problem: ProjectionProblem, core_rows: Tensor) -> None:
    case, rows = problem.case, reference.rows
    core_grad = torch.zeros_like(core_rows)
    for start in range(0, case.n, 256):
        part = slice(start, start + 256)
        for grad, factors in zip(problem.grads, problem.outputs_factors, strict=True):
            product = khatri_rao(tuple(z[part].double() for z in factors))
            core_grad += grad[part][:, rows].double().t() @ product
    reference.add("core_grad", core_grad, lambda g: g.flatten(1)[rows])


def _add_factor_grads(
    reference: Reference,
    problem: ProjectionProblem,
    samples: Tensor,
    some: list[tuple[Tensor, ...]],
) -> None:
    case, core = problem.case, problem.core.flatten(1)
    cotangents = torch.cat([g[samples] for g in problem.grads]).double()
    product_grads = torch.zeros(
        len(cotangents), core.shape[1], dtype=torch.float64, device=problem.device
    )
    for start in range(0, core.shape[0], 1024):
        part = slice(start, start + 1024)
        product_grads += cotangents[:, part] @ core[part].double()
    found = factor_grads(case, product_grads.split(len(samples)), some)
    for name, grad in found.items():
        reference.add(name, grad, lambda g: g[samples])


def factor_grads(
    case: Case, product_grads: Sequence[Tensor], factors: Sequence[tuple[Tensor, ...]]
) -> dict[str, Tensor]:
    """Those that follow from the gradients `(n, K)` of the products of each output, in float64.

    The leading factor of the mean output is a constant.
    """
    sizes = case.shape.factor_sizes
    labels = list(range(1, len(sizes) + 1))
    found = {}
    for m in range(len(sizes)):
        parts = []
        for i, (product_grad, given) in enumerate(zip(product_grads, factors, strict=True)):
            if i == 1 and m == 0:
                continue
            operands = [product_grad.unflatten(1, sizes), [0, *labels]]
            for j, z in enumerate(given):
                if j != m:
                    operands += [z.double(), [0, 1 + j]]
            parts.append(torch.einsum(*operands, [0, 1 + m]))
        found[f"factor_grad_{m}"] = sum(parts)
    return found
