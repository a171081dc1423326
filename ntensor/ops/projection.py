"""Projection of the synthesis by a core tensor, alone and together with its mean output."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence, Set
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from ntensor import backends

from . import checks, direct, mode_gradients
from .accumulate import accumulating_projection, check_accumulation, core_grad_flops
from .by_torch import one_output
from .dispatch import plain
from .forms import Form, Slot, Values, split_columns
from .operation import Operation
from .synthesis import fake_joined


def synthesis_projection(
    core: Tensor,
    *factors: Tensor,
    accumulate_core_grad: bool = False,
    backend: str | None = None,
) -> Tensor:
    r"""Projects the synthesis of the factors by a core tensor.

    The synthesis of the batch is formed only where it is small compared with the result (`K` at
    most half of `k_x`) and plain products of torch are faster; `ntensor.scratch_bytes` counts it.
    One output of two factors that autograd records keeps an array of a factor's size for backward,
    where that is faster.

    .. math:: x = \mathcal{C}_{(1)} (z_1 \otimes \dots \otimes z_M)
                = \mathcal{C} \times_2 z_1 \times_3 \dots \times_{M+1} z_M

    Equations 2, 4 and 15 of the paper; its gradients are equations 16 and 25. With `M = 1` it is
    `torch.nn.functional.linear`, with `M = 2` the unbiased `torch.nn.functional.bilinear`.

    With a leading group index, core `(g, k_x, k_1, ..., k_M)` and factors `(g, n, k_m)`, each group
    of samples is projected by its own core, in one call of the kernel; the result is `(g, n, k_x)`.

    Args:
        core (Tensor[k_x, k_1, ..., k_M]): contiguous; float32, float64, bfloat16 or float16.
        factors (Tensor[n, k_m]): one or more, any strides, of the core's dtype. `n` and any extent
            may be 0. Under autocast all operands are cast to its dtype.
        accumulate_core_grad (bool): if true, backward adds the core's gradient into `core.grad`,
            without an intermediate tensor of the core's size. The core must then be a leaf whose
            `core.grad` exists, contiguous and of the core's dtype. Autograd does not see the core:
            its hooks do not fire, and `torch.autograd.grad` or `backward(inputs=...)` for the core
            alone does not find it. Backward passes of several threads add one after the other.
            Without effect where the core does not require a gradient.
        backend (str or None): `"native"`, `"triton"`, `"reference"`; None: as in
            `ntensor.use_backend`, or automatic.

    Returns:
        Tensor[n, k_x]: in the core's dtype; sums are accumulated in float32 (float64 for float64).
        Differentiable in all operands any number of times.

    Raises:
        TypeError: no tensor, or a dtype that is unsupported or differs between operands.
        ValueError: no factor, a wrong rank or extent, two devices, a core that is not contiguous.
        RuntimeError: the requested backend cannot serve; the message gives the reason. With
            `accumulate_core_grad` also: a core that is not a leaf or has no suitable `.grad`,
            `create_graph`, `torch.autograd.grad` for the core, `torch.func`, forward mode,
            `torch.compile`, DDP, FSDP.

    Example:
        >>> import torch, ntensor
        >>> core = torch.arange(12.0).reshape(2, 2, 3)
        >>> ntensor.synthesis_projection(core, torch.tensor([[1.0, 2.0]]), torch.ones(1, 3))
        tensor([[27., 81.]])
    """
    operation = "synthesis_projection"
    if not torch.compiler.is_compiling():
        values = (core, *factors)
        found: Tensor | None = None
        if backend is None:
            found = direct.project(values, False)
            if found is None and len(factors) == 2 and not accumulate_core_grad:
                found = one_output(core, *factors, most_dimensions=2)
        if found is None and not accumulate_core_grad:
            found = SYNTHESIS_PROJECTION.short(values, backend)
        if found is not None:
            return found
    result: Tensor
    if checks.overridden((core, *factors)):
        result = handle_torch_function(
            synthesis_projection,
            (core, *factors),
            core,
            *factors,
            accumulate_core_grad=accumulate_core_grad,
            backend=backend,
        )
        return result
    if _grouped(core, factors):
        from .groups import grouped_projection  # it is made of the operations of this module

        if accumulate_core_grad:
            raise ValueError(f"{operation}: accumulate_core_grad: wanted one core, got groups")
        return grouped_projection(operation, core, factors, backend)
    values = _checked(operation, core, factors)
    backend = backends.requested(backend)
    if accumulate_core_grad and check_accumulation(operation, core, values[0]):
        result = accumulating_projection(SYNTHESIS_PROJECTION, core, values[1:], backend)
    else:
        result = SYNTHESIS_PROJECTION(values, backend)
    return result


def synthesis_projection_with_mean(
    core: Tensor,
    *factors: Tensor,
    accumulate_core_grad: bool = False,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    r"""The projection, and the projection with the leading factor replaced by `1/k_1`.

    .. math:: x = \mathcal{C}_{(1)} (z_1 \otimes z_2 \otimes \dots \otimes z_M), \qquad
              x_{mean} = \mathcal{C}_{(1)} (\tfrac{1}{k_1} 1 \otimes z_2 \otimes \dots \otimes z_M)

    Equations 5 and 14 of the paper, where texture and normals share one core. Both outputs come
    from one pass over the core; or `x_mean` from the mean of the core over `k_1`, or from samples
    of its own beside the others, where that takes at most 2 MiB and is faster. With one factor each
    row of `x_mean` is that mean.

    Args:
        core, factors, accumulate_core_grad, backend: as in `ntensor.synthesis_projection`.

    Returns:
        (Tensor[n, k_x], Tensor[n, k_x]): `x` and `x_mean`, in the core's dtype. Both are
        differentiable in all operands any number of times; `x_mean` does not depend on the leading
        factor.

    Raises:
        As `ntensor.synthesis_projection`.

    Example:
        >>> import torch, ntensor
        >>> core = torch.arange(12.0).reshape(2, 2, 3)
        >>> z = torch.tensor([[1.0, 2.0]]), torch.ones(1, 3)
        >>> x, x_mean = ntensor.synthesis_projection_with_mean(core, *z)
        >>> x_mean
        tensor([[ 7.5000, 25.5000]])
    """
    operation = "synthesis_projection_with_mean"
    if not torch.compiler.is_compiling():
        values = (core, *factors)
        found: tuple[Tensor, Tensor] | None = None
        if backend is None:
            found = direct.project(values, True)
        if found is None and not accumulate_core_grad:
            found = SYNTHESIS_PROJECTION_WITH_MEAN.short(values, backend)
        if found is not None:
            return found
    result: tuple[Tensor, Tensor]
    if checks.overridden((core, *factors)):
        result = handle_torch_function(
            synthesis_projection_with_mean,
            (core, *factors),
            core,
            *factors,
            accumulate_core_grad=accumulate_core_grad,
            backend=backend,
        )
        return result
    values = _checked(operation, core, factors)
    backend = backends.requested(backend)
    if accumulate_core_grad and check_accumulation(operation, core, values[0]):
        result = accumulating_projection(SYNTHESIS_PROJECTION_WITH_MEAN, core, values[1:], backend)
    else:
        result = SYNTHESIS_PROJECTION_WITH_MEAN(values, backend)
    return result


def _grouped(core: Any, factors: tuple[Any, ...]) -> bool:
    """Whether each factor has a group index, and the core too."""
    if not factors or not isinstance(core, Tensor) or core.dim() != len(factors) + 2:
        return False
    return all(isinstance(factor, Tensor) and factor.dim() == 3 for factor in factors)


def _checked(operation: str, core: Tensor, factors: tuple[Tensor, ...]) -> Any:
    """Core and factors in one sequence after all checks, cast where autocast says so."""
    checks.factor_count(operation, len(factors))
    values: Any = (core, *factors)
    checks.tensors(operation, checks.core_and_factor_names(len(factors)), values)
    values = checks.autocast(values)
    checks.core_and_factors(operation, values)
    return values


class ProjectionForm(Form):
    """`s(core, G, G_mean, z_1, ..., z_M) = <G, x> + <G_mean, x_mean>`.

    `x_mean` does not depend on `z_1`, so with another tensor in the place of `z_1` it vanishes.
    """

    heads = ("core", "grad", "grad_mean")
    shared = ("core",)
    joint = ("grad", "grad_mean")
    uneven = ("n", "x")

    def axes(self, slot: Slot, factors: int) -> tuple[Hashable | None, ...]:
        if slot == "core":
            return ("x", *range(factors))
        return ("n", "x") if slot in self.joint else ("n", slot)

    def divides(self, label: Hashable, slots: Set[Slot]) -> bool:
        # The mean of a part of the leading mode is not a part of the mean.
        return label != 0 or "grad_mean" not in slots

    def replace(self, values: Values, wanted: Set[Slot], term: Values) -> tuple[Values, Set[Slot]]:
        core = term.get("core")
        if core is not None:
            term = {"core": core.contiguous()}
        elif 0 in term:
            term = {**term, "grad_mean": None}
        elif "grad" in term or "grad_mean" in term:
            term = {"grad": None, "grad_mean": None, **term}
        return super().replace(values, wanted, term)

    def partials(
        self, values: Values, wanted: Set[Slot], options: tuple[Any, ...]
    ) -> dict[Slot, Tensor]:
        core, grad, grad_mean = values["core"], values["grad"], values["grad_mean"]
        factors = self.factors(values)
        found: dict[Slot, Tensor] = {}
        if "grad_mean" in wanted:
            x, found["grad_mean"] = SYNTHESIS_PROJECTION_WITH_MEAN((core, *factors), *options)
            if "grad" in wanted:
                found["grad"] = x
        elif "grad" in wanted:
            found["grad"] = SYNTHESIS_PROJECTION((core, *factors), *options)
        if grad is None and grad_mean is None:
            return found
        if "core" in wanted:
            found["core"] = PROJECTION_CORE_GRAD((grad, grad_mean, *factors), *options)
        needs = [mode in wanted for mode in range(len(factors))]
        if grad is None:
            needs[0] = False
        if any(needs):
            tensors = (core, grad, grad_mean, *factors)
            joined = PROJECTION_FACTOR_GRADS(tensors, needs, *options)
            like: Any = {mode: factors[mode] for mode, need in enumerate(needs) if need}
            found |= split_columns(joined, like)
        return found


def _gradients_at_once(
    tensors: Sequence[Tensor],
    cotangents: Sequence[Tensor | None],
    needs: Sequence[bool],
    backend: str | None,
) -> Sequence[Tensor | None] | None:
    """The gradients of core and factors, described to the kernels once."""
    core = tensors[0]
    if backend is None:
        found = direct.gradients(tensors, cotangents[0], needs, 1, *cotangents[1:])
        if found is not None:
            return found
    if not plain((*tensors, *cotangents)):
        return None
    serve = backends.shortcut(
        "projection",
        "projection_grads",
        "projection_factor_grads",
        core.device,
        core.dtype,
        backend,
    )
    if serve is None:
        return None
    grad = cotangents[0]
    grad_mean = cotangents[1] if len(cotangents) > 1 else None
    needed = list(needs[1:])
    if grad is None:
        needed[0] = False
    by_backend: Sequence[Tensor | None] = serve(
        core, grad, grad_mean, tensors[1:], needs[0], needed
    )
    return by_backend


def _check_projection(operation: str, core: Tensor, factors: list[Tensor]) -> None:
    checks.core_and_factors(operation, (core, *factors))


def _check_factor_grads(
    operation: str,
    core: Tensor,
    grad: Tensor | None,
    grad_mean: Tensor | None,
    factors: list[Tensor],
    needs: list[bool],
) -> None:
    checks.core_and_factors(operation, (core, *factors))
    checks.upstream(operation, grad, grad_mean, (factors[0].shape[0], core.shape[0]), core)
    checks.needs(operation, needs, len(factors))


def _check_core_grad(
    operation: str, grad: Tensor | None, grad_mean: Tensor | None, factors: list[Tensor]
) -> None:
    checks.factors(operation, factors)
    n, k_x = factors[0].shape[0], 0
    given = grad_mean if grad is None else grad
    if given is not None:
        name = "grad_mean" if grad is None else "grad"
        checks.matrices(operation, (name,), (given,), ("k_x",))
        k_x = given.shape[1]
    checks.upstream(operation, grad, grad_mean, (n, k_x), factors[0])


def _fake_projection(core: Tensor, factors: list[Tensor]) -> Tensor:
    return core.new_empty((factors[0].shape[0], core.shape[0]))


def _fake_core_grad(grad: Tensor | None, grad_mean: Tensor | None, factors: list[Tensor]) -> Tensor:
    given: Any = grad_mean if grad is None else grad
    return given.new_empty((given.shape[1], *(factor.shape[1] for factor in factors)))


def _fake_factor_grads(
    core: Tensor,
    grad: Tensor | None,
    grad_mean: Tensor | None,
    factors: list[Tensor],
    needs: list[bool],
) -> Tensor:
    return fake_joined(factors[0], [factor.shape[1] for factor in factors], needs)


def _flops(core: torch.Size, factors: list[torch.Size]) -> int:
    """Those of one matrix product: the second output and the synthesis are small beside it."""
    return 2 * factors[0][0] * math.prod(core)


_PROJECTION_FORM = ProjectionForm()

SYNTHESIS_PROJECTION = Operation(
    _PROJECTION_FORM,
    "synthesis_projection(Tensor core, Tensor[] factors, str? backend=None) -> Tensor",
    stem="projection",
    returns=("grad",),
    check=_check_projection,
    fake=_fake_projection,
    at_once=_gradients_at_once,
    direct=lambda tensors: direct.project(tensors, False),
    flops=_flops,
)

SYNTHESIS_PROJECTION_WITH_MEAN = Operation(
    _PROJECTION_FORM,
    "synthesis_projection_with_mean(Tensor core, Tensor[] factors, str? backend=None) "
    "-> (Tensor, Tensor)",
    stem="projection",
    returns=("grad", "grad_mean"),
    check=_check_projection,
    fake=lambda core, factors: (_fake_projection(core, factors), _fake_projection(core, factors)),
    at_once=_gradients_at_once,
    direct=lambda tensors: direct.project(tensors, True),
    flops=_flops,
)

PROJECTION_FACTOR_GRADS = Operation(
    _PROJECTION_FORM,
    "projection_factor_grads(Tensor core, Tensor? grad, Tensor? grad_mean, Tensor[] factors, "
    "bool[] needs, str? backend=None) -> Tensor",
    stem="projection",
    returns=("factors",),
    check=_check_factor_grads,
    fake=_fake_factor_grads,
    at_once=mode_gradients.at_once,
    direct=mode_gradients.rows,
    flops=lambda core, grad, grad_mean, factors, needs: _flops(core, factors) * any(needs),
)

PROJECTION_CORE_GRAD = Operation(
    _PROJECTION_FORM,
    "projection_core_grad(Tensor? grad, Tensor? grad_mean, Tensor[] factors, "
    "str? backend=None) -> Tensor",
    stem="projection",
    returns=("core",),
    check=_check_core_grad,
    fake=_fake_core_grad,
    flops=core_grad_flops,
)
