"""The methods of `synthesis.py`: the library, the GEMM limit, and every rival at its best.

A rival with several storage orders is tried in each and keeps the fastest ("rows": factors
`(n, k_m)`, "columns": factors `(k_m, n)`, "linear": output `(n, k_x)` by `F.linear`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.cases import ITEM_BYTES, Case
from harness.methods import (
    Method,
    compiled,
    missing_backend,
    missing_compiler,
    missing_module,
    step_of,
)
from harness.problem import (
    ProjectionProblem,
    khatri_rao,
    projection_reference,
    without_leading,
)
from harness.runner import Suite
from harness.timing import Step
from rivals.functions import HoistedMatmul, ProductMatmul
from rivals.gemm import gemm_step

ORDERS = ("linear", "rows", "columns")


def methods(case: Case, device: torch.device, backends: Iterable[str]) -> list[Method]:
    """All methods of a case, those that cannot run here with their reason."""
    listed = [*_ours(case, device, backends), *_limits(case, device)]
    return [*listed, *(_mean_rivals(case, device) if case.mean else _rivals(case, device))]


def _sizes(case: Case) -> tuple[int, int, int]:
    """Bytes of the core, of the product `(n, K)`, and of an output."""
    size = ITEM_BYTES[case.dtype]
    core = size * case.shape.out_features * case.shape.features
    return core, size * case.n * case.shape.features, size * case.n * case.shape.out_features


def _ours(case: Case, device: torch.device, backends: Iterable[str]) -> list[Method]:
    core, _, output = _sizes(case)
    return [
        Method(
            "ntensor" if backend == "auto" else f"ntensor ({backend})",
            "ours",
            lambda problem, b=backend, g=gradient: _library_step(problem, b, g),
            gradient,
            output + core * (gradient == "fresh"),
            missing_backend(backend, case, device),
        )
        for backend in backends
        for gradient in (("fresh", "adds") if case.core_grad else ("",))
    ]


def _library_step(problem: ProjectionProblem, backend: str, gradient: str) -> Step:
    import ntensor

    backend = None if backend == "auto" else backend
    options = {"backend": backend, "accumulate_core_grad": gradient == "adds"}
    if problem.case.mean:
        return _autograd(
            problem,
            lambda core, *z: ntensor.synthesis_projection_with_mean(core, *z, **options),
            "linear",
            gradient,
        )
    return _autograd(
        problem,
        lambda core, *z: (ntensor.synthesis_projection(core, *z, **options),),
        "linear",
        gradient,
    )


def _limits(case: Case, device: torch.device) -> list[Method]:
    _, product, output = _sizes(case)
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


def _rivals(case: Case, device: torch.device) -> list[Method]:
    core, product, output = _sizes(case)
    fresh = "fresh" if case.core_grad else ""
    backward = case.differentiates * (core + 4 * product)
    chain = product + output + backward
    first_step = output * case.shape.features // case.shape.factor_sizes[0]
    letters = "abcdefg"[: len(case.shape.factor_sizes)]
    equation = f"k{letters},{','.join('n' + letter for letter in letters)}->nk"

    def einsum(optimise: bool) -> Callable[[ProjectionProblem], Step]:
        def forward(*operands: Tensor) -> tuple[Tensor]:
            with torch.backends.opt_einsum.flags(enabled=optimise):
                return (torch.einsum(equation, *operands),)

        return lambda problem: _autograd(problem, forward, "linear", fresh)

    no_opt_einsum = (
        "" if torch.backends.opt_einsum.is_available() else "opt_einsum is not installed"
    )
    listed = [Method("broadcast + matmul", "torch", lambda p: _broadcast(p, fresh), fresh, chain)]
    if case.core_grad:
        listed.append(
            Method("broadcast + matmul", "torch", lambda p: _broadcast(p, "adds"), "adds", chain)
        )
    listed += [
        Method("hoisted matmul", "torch", lambda p: _hoisted(p, fresh), fresh, chain),
        Method("einsum, opt_einsum", "torch", einsum(True), fresh, chain, no_opt_einsum),
        Method(
            "einsum, left to right",
            "torch",
            einsum(False),
            fresh,
            2 * first_step * (1 + case.differentiates) + backward,
        ),
        *_compiled_methods(case, device, "broadcast", _broadcast_way, chain),
        Method(
            "TensorLy",
            "library",
            lambda p: _tensorly(p, fresh),
            fresh,
            chain,
            missing_module("tensorly"),
        ),
    ]
    if len(case.shape.factor_sizes) == 2:
        bilinear = 2 * output * max(case.shape.factor_sizes) + backward
        listed.append(Method("F.bilinear", "torch", lambda p: _bilinear(p, fresh), fresh, bilinear))
    if case.differentiates:
        listed += _functions(case, chain, core)
    return listed


def _mean_rivals(case: Case, device: torch.device) -> list[Method]:
    core, product, output = _sizes(case)
    fresh = "fresh" if case.core_grad else ""
    extra = 4 * product + 2 * output + core + case.differentiates * (core + 4 * product)
    ways = {
        "two matmuls": _two_matmuls,
        "one concatenated matmul": _concatenated,
        "matmul + mean core": _mean_core,
    }
    listed = [
        Method(name, "torch", lambda p, way=way: _orders(p, way, fresh), fresh, extra)
        for name, way in ways.items()
    ]
    listed.append(Method("hoisted matmul", "torch", lambda p: _hoisted(p, fresh), fresh, extra))
    if device.type != "cpu":
        listed += _compiled_methods(case, device, "two matmuls", _two_matmuls, extra)
    return listed + (_functions(case, extra, core) if case.differentiates else [])


def _compiled_methods(
    case: Case, device: torch.device, name: str, way: Callable[..., tuple[Tensor, ...]], extra: int
) -> list[Method]:
    """`way` by torch.compile; on a GPU also with its own choice of every product's kernel."""
    fresh = "fresh" if case.core_grad else ""
    missing = missing_compiler(device)
    listed = [
        Method(
            f"torch.compile({name})",
            "torch",
            lambda p: _compiled(p, way, fresh, False),
            fresh,
            extra,
            missing,
            compiles=True,
            compile_seconds=20.0,
        )
    ]
    if device.type != "cpu":
        listed.append(
            Method(
                f"torch.compile({name}), max-autotune",
                "torch",
                lambda p: _compiled(p, way, fresh, True),
                fresh,
                extra,
                missing or ("" if case.autotune else "tunes for minutes; --autotune asks for it"),
                compiles=True,
                compile_seconds=120.0,
            )
        )
    return listed


def _functions(case: Case, extra: int, core: int) -> list[Method]:
    if not case.core_grad:
        return [
            Method("Function over torch.mm", "torch", lambda p: _function(p, "fresh"), "", extra)
        ]
    return [
        Method(
            "Function over torch.mm",
            "torch",
            lambda problem, mode=mode: _function(problem, mode),
            mode,
            extra - core * (mode != "fresh"),
        )
        for mode in ("fresh", "adds", "overwrites")
    ]


def _autograd(
    problem: ProjectionProblem,
    forward: Callable[..., tuple[Tensor, ...]],
    order: str,
    gradient: str,
) -> Step:
    """`forward(core, *factors)` as a step, in the storage order `order` of factors and outputs."""
    columns = order == "columns"
    factors = problem.factor_columns if columns else problem.factors
    inputs = {"core_grad": problem.core}
    inputs |= {f"factor_grad_{m}": z for m, z in enumerate(factors)}
    grads: tuple[Tensor, ...] = ()
    if problem.case.differentiates:
        grads = problem.grads if order == "linear" else problem.grad_columns

    def canonical(name: str, tensor: Tensor) -> Tensor:
        if name.startswith("output"):
            return tensor if order == "linear" else tensor.t()
        return tensor.t() if columns and name != "core_grad" else tensor

    reused = {"core_grad": problem.core_grad} if gradient in ("adds", "overwrites") else {}
    return step_of(problem, forward, inputs, grads, canonical, reused)


def _orders(
    problem: ProjectionProblem,
    way: Callable[..., tuple[Tensor, ...]],
    gradient: str,
    family: str = "",
) -> Step:
    """The fastest order of `way(order, core, *factors)`."""
    return problem.fastest(
        {
            order: _autograd(
                problem, lambda *inputs, order=order: way(order, *inputs), order, gradient
            )
            for order in ORDERS
        },
        family,
    )


def _matmul(order: str, core: Tensor, product: Tensor) -> Tensor:
    if order == "linear":
        return F.linear(product, core)
    return torch.mm(core, product if order == "columns" else product.t())


def _broadcast(problem: ProjectionProblem, gradient: str) -> Step:
    return _orders(problem, _broadcast_way, gradient, "broadcast")


def _broadcast_way(order: str, core: Tensor, *factors: Tensor) -> tuple[Tensor]:
    return (_matmul(order, core.flatten(1), khatri_rao(factors, order == "columns")),)


def _hoisted(problem: ProjectionProblem, gradient: str) -> Step:
    """`core_l W` for all l by one product, then the leading factor (and the mean over l)."""
    mean = problem.case.mean

    def one_product(order: str, core: Tensor, leading: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        columns = order == "columns"
        weights = khatri_rao(rest, columns)
        slices = torch.mm(core.flatten(0, 1).flatten(1), weights if columns else weights.t())
        slices = slices.view(len(core), core.shape[1], -1)
        output = (slices * (leading if columns else leading.t())).sum(1)
        return (output, slices.mean(1)) if mean else (output,)

    def loop(core: Tensor, leading: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        weights = khatri_rao(rest, columns=True)
        output = core.new_zeros(len(core), weights.shape[1])
        total = torch.zeros_like(output)
        for core_slice, scale in zip(core.flatten(2).unbind(1), leading, strict=True):
            product = torch.mm(core_slice, weights)
            output.addcmul_(product, scale)
            if mean:
                total += product
        return (output, total / len(leading)) if mean else (output,)

    steps = {
        order: _autograd(
            problem, lambda *inputs, order=order: one_product(order, *inputs), order, gradient
        )
        for order in ("rows", "columns")
    }
    if not problem.case.differentiates:
        steps["columns, loop"] = _autograd(problem, loop, "columns", gradient)
    return problem.fastest(steps)


def _compiled(
    problem: ProjectionProblem, way: Callable[..., tuple[Tensor, ...]], gradient: str, tune: bool
) -> Step:
    def forward(core: Tensor, *factors: Tensor) -> tuple[Tensor, ...]:
        return way("linear", core, *factors)

    return _autograd(problem, compiled(forward, tune), "linear", gradient)


def _tensorly(problem: ProjectionProblem, gradient: str) -> Step:
    import tensorly
    from tensorly.tenalg.core_tenalg import unfolding_dot_khatri_rao

    tensorly.set_backend("pytorch")

    def forward(core: Tensor, *factors: Tensor) -> tuple[Tensor]:
        return (unfolding_dot_khatri_rao(core, (None, [None, *factors]), 0),)

    return _autograd(problem, forward, "columns", gradient)


def _bilinear(problem: ProjectionProblem, gradient: str) -> Step:
    return _autograd(problem, lambda core, z, w: (F.bilinear(z, w, core),), "linear", gradient)


def _function(problem: ProjectionProblem, mode: str) -> Step:
    mean = problem.case.mean
    buffer = None if mode == "fresh" else problem.core_grad

    def hoisted(*inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = HoistedMatmul.apply(mean, mode, buffer, *inputs)
        return outputs if mean else (outputs,)

    steps = {"hoisted": _autograd(problem, hoisted, "columns", mode)}
    if not mean:
        for order in ORDERS:

            def whole(*inputs: Tensor, order: str = order) -> tuple[Tensor]:
                return (ProductMatmul.apply(order, mode, buffer, *inputs),)

            steps[order] = _autograd(problem, whole, order, mode)
    return problem.fastest(steps, "function")


def _two_matmuls(order: str, core: Tensor, *factors: Tensor) -> tuple[Tensor, ...]:
    columns = order == "columns"
    core = core.flatten(1)
    return (
        _matmul(order, core, khatri_rao(factors, columns)),
        _matmul(order, core, _mean_product(factors, columns)),
    )


def _concatenated(order: str, core: Tensor, *factors: Tensor) -> tuple[Tensor, ...]:
    columns = order == "columns"
    products = khatri_rao(factors, columns), _mean_product(factors, columns)
    both = _matmul(order, core.flatten(1), torch.cat(products, dim=int(columns)))
    return both.chunk(2, dim=0 if order == "linear" else 1)


def _mean_core(order: str, core: Tensor, *factors: Tensor) -> tuple[Tensor, ...]:
    columns = order == "columns"
    return (
        _matmul(order, core.flatten(1), khatri_rao(factors, columns)),
        _matmul(order, core.flatten(2).mean(1), khatri_rao(factors[1:], columns)),
    )


def _mean_product(factors: tuple[Tensor, ...], columns: bool) -> Tensor:
    if columns:
        rest = khatri_rao(factors[1:], columns=True) / len(factors[0])
        return rest.repeat(len(factors[0]), 1)
    return khatri_rao(without_leading(factors))


SUITE = Suite(ProjectionProblem, projection_reference, methods)
