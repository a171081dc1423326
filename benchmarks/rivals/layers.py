"""The methods of `layers.py`: the library's operation, and the forms in which layers are written.

TuckER (Balazevic, Allen and Hospedales, 2019) scores every object entity of a subject and a
relation by a core tensor, `W x_1 e_s x_2 w_r x_3 e_o`. The tensor fusion network (Zadeh, Chen,
Poria, Cambria and Morency, 2017) gives a linear layer the outer product of its modalities, each
with a one appended. Both are timed whole; every other layer is a projection alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.cases import Case
from harness.methods import Method, compiled, compiled_methods, ours, step_of
from harness.problem import Problem, ProjectionProblem, Reference, projection_reference
from harness.runner import Suite
from harness.timing import Clock, Step
from rivals import forms
from rivals.bilinear import library_step as bilinear_step
from rivals.bilinear import matrix_a_sample
from rivals.layouts import COLUMNS, ORDERS, Layout, einsum_step, read_equation, step_in
from rivals.synthesis import (
    bytes_of,
    chain_bytes,
    compiled_broadcast,
    einsums,
    fresh_of,
    plain_forms,
    tensorly,
    torch_bilinear,
)

# Of the data sets FB15k-237 and WN18RR.
ENTITIES = {"tucker-fb15k237": 14541, "tucker-wn18rr": 40943}
FEW_ENTITIES = 50
Form = Callable[..., tuple[Tensor]]


def methods(case: Case, device: torch.device, backends: Iterable[str]) -> list[Method]:
    """All methods of a case, those that cannot run here with their reason."""
    backends = list(backends)
    if case.operation in WHOLE:
        return _of_whole_layer(case, device, backends)
    fresh, equation = fresh_of(case), case.layout
    is_mttkrp = read_equation(equation)[0].factor == COLUMNS
    is_bilinear = len(case.shape.factor_sizes) == 2 and not is_mttkrp
    step = _mttkrp_step if is_mttkrp else bilinear_step if is_bilinear else _projection_step

    def spelled(problem: ProjectionProblem, backend: str | None, gradient: str) -> Step:
        import ntensor

        def einsum(*arguments: object) -> Tensor:
            with ntensor.use_backend(backend):
                return ntensor.einsum(*arguments)

        return einsum_step(problem, equation, einsum, gradient)

    listed = ours(case, device, backends, step, [fresh])
    listed += [
        replace(method, name=method.name.replace("ntensor", "ntensor.einsum", 1))
        for method in ours(case, device, backends, spelled, [fresh])
    ]
    rivals = [
        *plain_forms(case),
        _plain("outer product by bmm", forms.outer_product, fresh, chain_bytes(case)),
        *([matrix_a_sample(case)] if is_bilinear else []),
        *einsums(case, equation),
        *compiled_broadcast(case, device),
        *([tensorly(case)] if is_mttkrp else []),
        *torch_bilinear(case),
    ]
    return listed + [method for method in rivals if method.gradient == fresh]


def _plain(name: str, form: Form, gradient: str, extra: int) -> Method:
    return Method(
        name, "torch", lambda p: step_in(p, ORDERS["linear"], form, gradient), gradient, extra
    )


def _projection_step(problem: ProjectionProblem, backend: str | None, gradient: str) -> Step:
    import ntensor

    def forward(core: Tensor, *z: Tensor) -> tuple[Tensor]:
        return (ntensor.synthesis_projection(core, *z, backend=backend),)

    return step_in(problem, ORDERS["linear"], forward, gradient)


def _mttkrp_step(problem: ProjectionProblem, backend: str | None, gradient: str) -> Step:
    import ntensor

    def forward(tensor: Tensor, *factors: Tensor) -> tuple[Tensor]:
        return (ntensor.mttkrp(tensor, [None, *factors], 0, backend=backend),)

    return step_in(problem, ORDERS["columns"], forward, gradient)


class LayerProblem(Problem):
    """The parameters and inputs of a whole layer, all differentiated, and a cotangent."""

    @cached_property
    def entities(self) -> int:
        return ENTITIES.get(self.case.shape.name, FEW_ENTITIES)

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        shape, n = self.case.shape, self.case.n
        scale = 1 / math.sqrt(shape.features)
        core = self.random(shape.out_features, *shape.factor_sizes, seed=0, scale=scale)
        if self.case.operation == "tucker":
            relation_size, size = shape.factor_sizes
            return {
                "core": core,
                "entities": self.random(self.entities, size, seed=1),
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
        is_tucker = self.case.operation == "tucker"
        width = self.entities if is_tucker else self.case.shape.out_features
        return self.random(self.case.n, width, seed=100)


def tucker(project: Form, core: Tensor, entities: Tensor, *vectors: Tensor) -> Tensor:
    """Scores of all entities; `core` is (object, relation, subject), `vectors` the last two's."""
    return project(core, *vectors)[0] @ entities.t()


def fusion(project: Form, core: Tensor, bias: Tensor, *modalities: Tensor) -> Tensor:
    return project(core, *(F.pad(z, (0, 1), value=1.0) for z in modalities))[0] + bias


WHOLE = {"tucker": tucker, "fusion": fusion}
# Each with the storage of its core.
FORMS = {
    "tucker": {
        "as published": (forms.from_the_first, Layout(core=(1, 0, 2))),
        "outer product by bmm": (forms.outer_product, Layout()),
        "broadcast + matmul": (forms.broadcast, Layout()),
        "F.bilinear": (forms.torch_bilinear, Layout()),
    },
    "fusion": {
        "as published": (forms.outer_product, Layout()),
        "broadcast + matmul": (forms.broadcast, Layout()),
        "hoisted matmul": (forms.hoisted, Layout()),
    },
}


def _of_whole_layer(case: Case, device: torch.device, backends: list[str]) -> list[Method]:
    fresh = "fresh" if case.differentiates else ""
    _, product, output = bytes_of(case)
    extra = 4 * max(product, output * case.shape.factor_sizes[0])
    of_case = FORMS[case.operation]
    listed = ours(case, device, backends, _library_step, [fresh])
    listed += [
        Method(name, "torch", lambda p, name=name: _step(p, *of_case[name]), fresh, extra)
        for name in of_case
    ]
    for name in ("as published", "broadcast + matmul"):

        def build(problem: LayerProblem, tune: bool, name: str = name) -> Step:
            form, layout = of_case[name]
            return _step(problem, form, layout, lambda forward: compiled(forward, tune))

        listed += compiled_methods(case, device, name.partition(" +")[0], build, fresh, extra)
    return listed


def _library_step(problem: LayerProblem, backend: str | None, gradient: str) -> Step:
    import ntensor

    def project(core: Tensor, *factors: Tensor) -> tuple[Tensor]:
        return (ntensor.synthesis_projection(core, *factors, backend=backend),)

    return _step(problem, project, Layout())


def _step(
    problem: LayerProblem,
    form: Form,
    layout: Layout,
    change: Callable[[Callable], Callable] = lambda forward: forward,
) -> Step:
    layer = WHOLE[problem.case.operation]
    inputs = {**problem.inputs, "core": problem.stored(problem.inputs["core"], layout.core)}
    forward = change(lambda *inputs: (layer(form, *inputs),))
    return step_of(problem, forward, inputs, (problem.grad,), layout.canonical)


def problem_of(case: Case, device: torch.device, clock: Clock) -> Problem:
    return (LayerProblem if case.operation in WHOLE else ProjectionProblem)(case, device, clock)


def reference(problem: Problem) -> Reference:
    """Outputs and gradients in float64; of a whole layer all of them, by its broadcast form."""
    if isinstance(problem, ProjectionProblem):
        return projection_reference(problem)
    inputs = [value.double().requires_grad_() for value in problem.inputs.values()]
    output = WHOLE[problem.case.operation](forms.broadcast, *inputs)
    found = Reference()
    for name in problem.case.output_names:
        found.add(name, output.detach(), lambda x: x)
    if problem.case.differentiates:
        gradients = torch.autograd.grad(output, inputs, problem.grad.double())
        for name, gradient in zip(problem.inputs, gradients, strict=True):
            found.add(name, gradient, lambda g: g)
    return found


SUITE = Suite(problem_of, reference, methods)
