"""The methods of `consumers.py`: whole layers with the library's operation, and plain forms."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.cases import ITEM_BYTES, Case
from harness.methods import Method, compiled, missing_compiler, missing_module, step_of
from harness.problem import Problem, Reference
from harness.runner import Suite
from harness.timing import Step
from rivals import literature

# Entities of the data sets FB15k-237 and WN18RR.
ENTITIES = {"tucker-fb15k237": 14541, "tucker-wn18rr": 40943, "tucker-quick": 50}

INTERACTIONS = {
    "as published": literature.interact_as_published,
    "outer product": literature.interact_by_outer_product,
    "broadcast": lambda r, s, core: literature.project_broadcast(core, r, s),
    "F.bilinear": F.bilinear,
}
PROJECTIONS = {
    "as published": literature.project_outer_product,
    "broadcast": literature.project_broadcast,
    "hoisted": literature.project_hoisted,
}


class LayerProblem(Problem):
    """The parameters and inputs of a layer, all differentiated, and the cotangent of its output."""

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        shape, n = self.case.shape, self.case.n
        scale = 1 / math.sqrt(shape.features)
        core = self.random(shape.out_features, *shape.factor_sizes, seed=0, scale=scale)
        if self.case.operation == "tucker":
            relation_size, size = shape.factor_sizes
            return {
                "core": core,
                "entities": self.random(ENTITIES[shape.name], size, seed=1),
                "relation": self.random(n, relation_size, seed=2),
                "subject": self.random(n, size, seed=3),
            }
        modalities = {
            f"modality_{m}": self.random(n, size - 1, seed=2 + m)
            for m, size in enumerate(shape.factor_sizes)
        }
        return {"core": core, "bias": self.random(shape.out_features, seed=1), **modalities}

    @cached_property
    def grad(self) -> Tensor:
        shape = self.case.shape
        width = ENTITIES.get(shape.name, shape.out_features)
        return self.random(self.case.n, width, seed=100)


def reference(problem: LayerProblem) -> Reference:
    """All outputs and gradients of the broadcast form in float64."""
    inputs = [value.double().requires_grad_() for value in problem.inputs.values()]
    output = _plain(problem.case, "broadcast")(*inputs)[0]
    found = Reference()
    for name in problem.case.output_names:
        found.add(name, output.detach(), lambda x: x)
    if problem.case.differentiates:
        gradients = torch.autograd.grad(output, inputs, problem.grad.double())
        for name, gradient in zip(problem.inputs, gradients, strict=True):
            found.add(name, gradient, lambda g: g)
    return found


def methods(case: Case, device: torch.device, backends: Iterable[str]) -> list[Method]:
    """All methods of a case, those that cannot run here with their reason."""
    fresh = "fresh" if case.differentiates else ""
    size = ITEM_BYTES[case.dtype]
    product = size * case.n * case.shape.features
    slices = size * case.n * case.shape.out_features * case.shape.factor_sizes[0]
    extra = 4 * max(product, slices)
    listed = [
        Method(
            "ntensor" if backend == "auto" else f"ntensor ({backend})",
            "ours",
            lambda p, b=None if backend == "auto" else backend: _library_step(p, b),
            fresh,
            0,
            missing_module("ntensor"),
        )
        for backend in backends
    ]
    forms = INTERACTIONS if case.operation == "tucker" else PROJECTIONS
    listed += [
        Method(name, "torch", lambda p, n=name: _step(p, _plain(p.case, n)), fresh, extra)
        for name in forms
    ]
    for name in ("as published", "broadcast"):
        listed.append(
            Method(
                f"torch.compile({name})",
                "torch",
                lambda p, n=name: _step(p, compiled(_plain(p.case, n), autotune=False)),
                fresh,
                extra,
                missing_compiler(device),
                compiles=True,
                compile_seconds=20.0,
            )
        )
    return listed


def _plain(case: Case, name: str) -> Callable[..., tuple[Tensor]]:
    if case.operation == "tucker":
        interact = INTERACTIONS[name]
        return lambda *inputs: (literature.tucker_scores(*inputs, interact=interact),)
    project = PROJECTIONS[name]
    return lambda *inputs: (literature.fusion(*inputs, project=project),)


def _library_step(problem: LayerProblem, backend: str | None) -> Step:
    import ntensor

    layer = literature.tucker_scores if problem.case.operation == "tucker" else literature.fusion

    def forward(*inputs: Tensor) -> tuple[Tensor]:
        with ntensor.use_backend(backend):
            return (layer(*inputs),)

    return _step(problem, forward)


def _step(problem: LayerProblem, forward: Callable[..., tuple[Tensor, ...]]) -> Step:
    return step_of(problem, forward, problem.inputs, (problem.grad,))


SUITE = Suite(LayerProblem, reference, methods)
