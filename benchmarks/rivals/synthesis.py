"""The methods of `synthesis.py`: the library, the GEMM limit, and every rival at its best.

A rival with several storage orders (`forms.py`) is tried in each and keeps the fastest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor

from harness.cases import ITEM_BYTES, Case, plain_equation
from harness.methods import Method, compiled, compiled_methods, missing_module, ours
from harness.problem import ProjectionProblem, projection_reference
from harness.runner import Suite
from harness.timing import Step
from rivals import forms
from rivals.functions import HoistedMatmul, ProductMatmul
from rivals.gemm import gemm_step
from rivals.gpu_libraries import gpu_libraries
from rivals.layouts import ORDERS, einsum_step, step_in, torch_einsum

Form = Callable[..., tuple[Tensor, ...]]
# From so many bytes on a C library gives all that is released back to the system, and the table
# shows what the library gains by keeping it, as much as the variable says.
LARGE_BYTES, KEPT = 32 << 20, "NTENSOR_KEPT_MEMORY"


def methods(case: Case, device: torch.device, backends: Iterable[str]) -> list[Method]:
    """All methods of a case, those that cannot run here with their reason."""
    listed = [*_ours(case, device, backends), *limits(case, device)]
    if case.mean:
        return [*listed, *_mean_rivals(case, device)]
    return [
        *listed,
        *plain_forms(case),
        *einsums(case, plain_equation(len(case.shape.factor_sizes))),
        *compiled_broadcast(case, device),
        tensorly(case),
        *torch_bilinear(case),
        *gpu_libraries(case, device),
        *functions(case),
    ]


def fresh_of(case: Case) -> str:
    return "fresh" if case.core_grad else ""


def bytes_of(case: Case) -> tuple[int, int, int]:
    """Of the core, of the product `(n, K)`, and of an output."""
    size = ITEM_BYTES[case.dtype]
    core = size * case.shape.out_features * case.shape.features
    return core, size * case.n * case.shape.features, size * case.n * case.shape.out_features


def chain_bytes(case: Case) -> int:
    """What a chain of products over the whole batch takes."""
    core, product, output = bytes_of(case)
    if case.mean:
        return 4 * product + 2 * output + core + case.differentiates * (core + 4 * product)
    return product + output + case.differentiates * (core + 4 * product)


def _ours(case: Case, device: torch.device, backends: Iterable[str]) -> list[Method]:
    core, _, output = bytes_of(case)
    gradients = ("fresh", "adds") if case.core_grad else ("",)

    def extra(gradient: str) -> int:
        return output + core * (gradient == "fresh")

    listed = ours(case, device, backends, _library_step, gradients, extra)
    if not case.core_grad or device.type != "cpu" or core < LARGE_BYTES:
        return listed
    native = [name for name in backends if name in ("auto", "native")]
    return listed + [
        replace(method, name=f"{method.name}, no kept memory")
        for method in ours(case, device, native, _step_without_kept_memory, ["fresh"], extra)
    ]


def _step_without_kept_memory(problem: ProjectionProblem, backend: str | None, g: str) -> Step:
    step = _library_step(problem, backend, g)

    def call(prepared: object) -> object:
        before = os.environ.get(KEPT)
        os.environ[KEPT] = "0"
        try:
            return step.call(prepared)
        finally:
            if before is None:
                del os.environ[KEPT]
            else:
                os.environ[KEPT] = before

    return replace(step, call=call)


def _library_step(problem: ProjectionProblem, backend: str | None, gradient: str) -> Step:
    import ntensor

    options = {"backend": backend, "accumulate_core_grad": gradient == "adds"}
    if problem.case.mean:
        return step_in(
            problem,
            ORDERS["linear"],
            lambda core, *z: ntensor.synthesis_projection_with_mean(core, *z, **options),
            gradient,
        )
    return step_in(
        problem,
        ORDERS["linear"],
        lambda core, *z: (ntensor.synthesis_projection(core, *z, **options),),
        gradient,
    )


def limits(case: Case, device: torch.device) -> list[Method]:
    _, product, output = bytes_of(case)
    no_numpy = ""
    if case.dtype == "bfloat16":
        no_numpy = "numpy has no bfloat16"
    elif case.dtype == "float16":
        no_numpy = "numpy has no BLAS for float16"
    return [
        Method(
            f"GEMM limit, {library}",
            "limit",
            lambda problem, library=library: gemm_step(problem, library),
            "overwrites" if case.core_grad else "",
            4 * (product + output),
            missing,
            numpy=library == "numpy",
        )
        for library, missing in (("torch", ""), ("numpy", no_numpy))
        if library == "torch" or device.type == "cpu"
    ]


def plain_forms(case: Case) -> list[Method]:
    fresh, chain = fresh_of(case), chain_bytes(case)
    return [
        *(
            Method("broadcast + matmul", "torch", lambda p, g=g: _broadcast(p, g), g, chain)
            for g in ((fresh, "adds") if case.core_grad else (fresh,))
        ),
        Method("hoisted matmul", "torch", lambda p: _hoisted(p, fresh), fresh, chain),
    ]


def einsums(case: Case, equation: str) -> list[Method]:
    """`torch.einsum` of the equation in both orders of its products."""
    fresh, chain = fresh_of(case), chain_bytes(case)
    output = bytes_of(case)[2]
    first = output * case.shape.features // case.shape.factor_sizes[0]
    left_to_right = 2 * first * (1 + case.differentiates) + chain - output
    available = torch.backends.opt_einsum.is_available()

    def build(optimised: bool) -> Callable[[ProjectionProblem], Step]:
        return lambda problem: einsum_step(problem, equation, torch_einsum(optimised), fresh)

    return [
        Method(
            "einsum, opt_einsum",
            "torch",
            build(True),
            fresh,
            chain,
            "" if available else "opt_einsum is not installed",
        ),
        Method("einsum, left to right", "torch", build(False), fresh, left_to_right),
    ]


def compiled_broadcast(case: Case, device: torch.device) -> list[Method]:
    return _compiled(case, device, "broadcast", forms.broadcast)


def tensorly(case: Case) -> Method:
    fresh, missing = fresh_of(case), missing_module("tensorly")
    return Method(
        "TensorLy", "library", lambda p: _tensorly(p, fresh), fresh, chain_bytes(case), missing
    )


def torch_bilinear(case: Case) -> list[Method]:
    """`F.bilinear`, where there are two factors."""
    if len(case.shape.factor_sizes) != 2:
        return []
    fresh = fresh_of(case)
    _, product, output = bytes_of(case)
    extra = 2 * output * max(case.shape.factor_sizes) + chain_bytes(case) - product - output

    def build(problem: ProjectionProblem) -> Step:
        return step_in(problem, ORDERS["linear"], forms.torch_bilinear, fresh)

    return [Method("F.bilinear", "torch", build, fresh, extra)]


def _mean_rivals(case: Case, device: torch.device) -> list[Method]:
    fresh, chain = fresh_of(case), chain_bytes(case)
    listed = [
        Method(name, "torch", lambda p, form=form: in_orders(p, form, fresh), fresh, chain)
        for name, form in forms.MEAN_FORMS.items()
    ]
    listed.append(Method("hoisted matmul", "torch", lambda p: _hoisted(p, fresh), fresh, chain))
    if device.type != "cpu":
        listed += _compiled(case, device, "two matmuls", forms.two_matmuls)
    return listed + functions(case)


def functions(case: Case) -> list[Method]:
    """Hand-written backward passes, with every treatment of the core's gradient."""
    if not case.differentiates:
        return []
    core, chain = bytes_of(case)[0], chain_bytes(case)
    return [
        Method(
            "Function over torch.mm",
            "torch",
            lambda problem, mode=mode: _function(problem, mode),
            mode if case.core_grad else "",
            chain - core * (mode != "fresh"),
        )
        for mode in (("fresh", "adds", "overwrites") if case.core_grad else ("fresh",))
    ]


def _compiled(case: Case, device: torch.device, name: str, form: Form) -> list[Method]:
    fresh = fresh_of(case)
    return compiled_methods(
        case,
        device,
        name,
        lambda p, tune: step_in(p, ORDERS["linear"], compiled(form, tune), fresh),
        fresh,
        chain_bytes(case),
    )


def in_orders(problem: ProjectionProblem, form: Form, gradient: str, family: str = "") -> Step:
    """The fastest order of `form(core, *factors, order=)`."""
    return problem.fastest(_every_order(problem, form, gradient), family)


def _every_order(problem: ProjectionProblem, form: Form, gradient: str) -> dict[str, Step]:
    def step(order: str) -> Step:
        return step_in(problem, ORDERS[order], lambda *given: form(*given, order=order), gradient)

    return {order: step(order) for order in ORDERS}


def _broadcast(problem: ProjectionProblem, gradient: str) -> Step:
    return in_orders(problem, forms.broadcast, gradient, "broadcast")


def _hoisted(problem: ProjectionProblem, gradient: str) -> Step:
    mean = problem.case.mean
    steps = _every_order(
        problem, lambda *given, order: forms.hoisted(*given, order=order, mean=mean), gradient
    )
    if not problem.case.differentiates:
        steps["columns, loop"] = step_in(
            problem,
            ORDERS["columns"],
            lambda *given: forms.hoisted_loop(*given, mean=mean),
            gradient,
        )
    return problem.fastest(steps)


def _tensorly(problem: ProjectionProblem, gradient: str) -> Step:
    import tensorly
    from tensorly.tenalg.core_tenalg import unfolding_dot_khatri_rao

    tensorly.set_backend("pytorch")

    def forward(core: Tensor, *factors: Tensor) -> tuple[Tensor]:
        return (unfolding_dot_khatri_rao(core, (None, [None, *factors]), 0),)

    return step_in(problem, ORDERS["columns"], forward, gradient)


def _function(problem: ProjectionProblem, mode: str) -> Step:
    mean = problem.case.mean
    buffer = None if mode == "fresh" else problem.core_grad

    def hoisted(*inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = HoistedMatmul.apply(mean, mode, buffer, *inputs)
        return outputs if mean else (outputs,)

    def whole(*inputs: Tensor, order: str) -> tuple[Tensor]:
        return (ProductMatmul.apply(order, mode, buffer, *inputs),)

    steps = {"hoisted": step_in(problem, ORDERS["columns"], hoisted, mode)}
    if not mean:
        steps |= _every_order(problem, whole, mode)
    return problem.fastest(steps, "function")


SUITE = Suite(ProjectionProblem, projection_reference, methods)
