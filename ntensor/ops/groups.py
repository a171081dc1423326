"""Several cores at once: each group of samples is projected by a core of its own.

Groups lie behind one another in the first dimension of every tensor: `(groups k_x, k_1, ..., k_M)`
for the cores, `(groups n, k_m)` for the factors. One call of a kernel serves them all; only the
CUDA kernels are launched for one group after another.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence, Set
from typing import Any

import torch
from torch import Tensor

from ntensor import backends
from ntensor.backends._torch import is_transformed

from . import checks, direct
from .derivatives import backward, first_order
from .forms import Form, Slot, Values, split_columns
from .operation import Operation
from .projection import PROJECTION_CORE_GRAD, PROJECTION_FACTOR_GRADS, SYNTHESIS_PROJECTION
from .saved import save, unpack
from .synthesis import fake_joined


def grouped_projection(
    operation: str, core: Tensor, factors: tuple[Tensor, ...], backend: str | None
) -> Tensor:
    """`x[g] = core[g]_(1) (z_1[g] ⊗ ... ⊗ z_M[g])`: `(g, k_x, ...), (g, n, k_m)... -> (g, n, k_x)`.

    Raises:
        TypeError, ValueError: as `ntensor.synthesis_projection`, and for groups that differ.
    """
    if backend is None and not torch.compiler.is_compiling():
        found = direct.project_groups((core, *factors), 0)
        if found is None and torch.is_grad_enabled() and not is_transformed():
            found = _RecordedGroups.apply(core, *factors)
        if found is not None:
            return found
    names = checks.core_and_factor_names(len(factors))
    values = checks.autocast((core, *factors))
    core, *others = values
    for name, factor in zip(names[1:], others, strict=True):
        if factor.dim() != 3 or factor.shape[:2] != (core.shape[0], others[0].shape[1]):
            wanted = f"shape ({core.shape[0]}, {others[0].shape[1]}, k_m), one matrix a group"
            checks.shape(operation, name, f"{wanted} of the core", factor)
    checks.contiguous(operation, "core", core)
    groups, k_x = core.shape[:2]
    n = others[0].shape[1]
    flat = [each.flatten(0, 1) for each in (core, *others)]
    checks.core_and_factors(operation, flat)
    # No groups are one group of no samples and no outputs.
    x: Tensor = GROUPED_PROJECTION(flat, max(1, groups), backends.requested(backend))
    return x.view(groups, n, k_x)


class _RecordedGroups(torch.autograd.Function):
    """The shortest way as one node of the graph, without views of the operands; None where it is
    not open."""

    @staticmethod
    def forward(ctx: Any, *values: Tensor) -> Tensor | None:
        found = direct.project_groups(values, 0)
        if found is not None:
            save(ctx, values)
        return found

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        values: Any = unpack(GROUPED_PROJECTION, ctx)
        needs = ctx.needs_input_grad
        if grad is None:
            return (None,) * len(values)
        if not torch.is_grad_enabled():
            found = direct.gradients(values, grad, needs, 0)
            if found is not None:
                return tuple(found)
        flat = [value.flatten(0, 1) for value in values]
        statics = (values[0].shape[0], None)
        compute = backward if torch.is_grad_enabled() else first_order
        # The older vmap has no flatten.
        cotangents = (grad.reshape(flat[-1].shape[0], grad.shape[2]),)
        parts = compute(GROUPED_PROJECTION, flat, statics, needs, cotangents)
        return tuple(
            None if part is None else part.view(value.shape)
            for part, value in zip(parts, values, strict=True)
        )


class GroupedProjectionForm(Form):
    """`s(core, G, z_1, ..., z_M) = sum over the groups of <G, x>`."""

    heads = ("core", "grad")
    shared = ("core",)

    def axes(self, slot: Slot, factors: int) -> tuple[Hashable | None, ...]:
        # A part of the first axis would hold parts of groups.
        if slot == "core":
            return (None, *range(factors))
        return (None, None) if slot == "grad" else (None, slot)

    def replace(self, values: Values, wanted: Set[Slot], term: Values) -> tuple[Values, Set[Slot]]:
        core = term.get("core")
        if core is not None:
            term = {"core": core.contiguous()}
        return super().replace(values, wanted, term)

    def partials(
        self, values: Values, wanted: Set[Slot], options: tuple[Any, ...]
    ) -> dict[Slot, Tensor]:
        groups, backend = options
        core, grad = (values[head] for head in self.heads)
        factors = self.factors(values)
        found: dict[Slot, Tensor] = {}
        if "grad" in wanted:
            found["grad"] = GROUPED_PROJECTION((core, *factors), groups, backend)
        if grad is None:
            return found
        if "core" in wanted:
            found["core"] = GROUPED_CORE_GRAD((grad, *factors), groups, backend)
        needs = [mode in wanted for mode in range(len(factors))]
        if any(needs):
            joined = GROUPED_FACTOR_GRADS((core, grad, *factors), groups, needs, backend)
            like: Any = {mode: factors[mode] for mode, need in enumerate(needs) if need}
            found |= split_columns(joined, like)
        return found


def _gradients_at_once(
    tensors: Sequence[Tensor],
    cotangents: Sequence[Tensor | None],
    needs: Sequence[bool],
    groups: int,
    backend: str | None,
) -> Sequence[Tensor | None] | None:
    if backend is not None:
        return None
    return direct.gradients(tensors, cotangents[0], needs, groups)


def _check_groups(operation: str, groups: int, **extents: int) -> None:
    if groups < 1:
        raise ValueError(f"{operation}: groups: wanted at least 1, got {groups}")
    for name, extent in extents.items():
        if extent % groups:
            raise ValueError(
                f"{operation}: {name}: wanted a first dimension that {groups} groups divide, "
                f"got {extent}"
            )


def _check_projection(operation: str, core: Tensor, factors: list[Tensor], groups: int) -> None:
    checks.core_and_factors(operation, (core, *factors))
    _check_groups(operation, groups, core=core.shape[0], factors=factors[0].shape[0])


def _check_factor_grads(
    operation: str,
    core: Tensor,
    grad: Tensor,
    factors: list[Tensor],
    groups: int,
    needs: list[bool],
) -> None:
    _check_projection(operation, core, factors, groups)
    extents = (factors[0].shape[0], core.shape[0] // groups)
    checks.upstream(operation, grad, None, extents, core)
    checks.needs(operation, needs, len(factors))


def _check_core_grad(operation: str, grad: Tensor, factors: list[Tensor], groups: int) -> None:
    checks.factors(operation, factors)
    checks.matrices(operation, ("grad",), (grad,), ("k_x",))
    checks.upstream(operation, grad, None, (factors[0].shape[0], grad.shape[1]), factors[0])
    _check_groups(operation, groups, factors=factors[0].shape[0])


def _flops(core: torch.Size, factors: list[torch.Size], groups: int) -> int:
    return 2 * factors[0][0] // groups * math.prod(core)


_FORM = GroupedProjectionForm()

GROUPED_PROJECTION = Operation(
    _FORM,
    "grouped_projection(Tensor core, Tensor[] factors, int groups, str? backend=None) -> Tensor",
    stem="projection",
    returns=("grad",),
    check=_check_projection,
    fake=lambda core, factors, groups: core.new_empty(
        (factors[0].shape[0], core.shape[0] // groups)
    ),
    flops=_flops,
    at_once=_gradients_at_once,
    direct=lambda tensors, groups: direct.project_groups(tensors, groups),
)

GROUPED_FACTOR_GRADS = Operation(
    _FORM,
    "grouped_projection_factor_grads(Tensor core, Tensor grad, Tensor[] factors, int groups, "
    "bool[] needs, str? backend=None) -> Tensor",
    stem="projection",
    returns=("factors",),
    check=_check_factor_grads,
    fake=lambda core, grad, factors, groups, needs: fake_joined(
        factors[0], [factor.shape[1] for factor in factors], needs
    ),
    flops=lambda core, grad, factors, groups, needs: _flops(core, factors, groups) * any(needs),
)

GROUPED_CORE_GRAD = Operation(
    _FORM,
    "grouped_projection_core_grad(Tensor grad, Tensor[] factors, int groups, str? backend=None) "
    "-> Tensor",
    stem="projection",
    returns=("core",),
    check=_check_core_grad,
    fake=lambda grad, factors, groups: grad.new_empty(
        (groups * grad.shape[1], *(factor.shape[1] for factor in factors))
    ),
    flops=lambda grad, factors, groups: (
        2 * grad[0] * grad[1] * math.prod([factor[1] for factor in factors])
    ),
)


def _mapped_first(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """The tensor of each element of the mapped dimension, in front."""
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def _batch_into_groups(
    grouped: Operation,
    size: int,
    dims: Sequence[int | None],
    tensors: Sequence[Tensor],
    statics: tuple[Any, ...],
) -> tuple[Tensor, int]:
    """The rule of vmap: elements of the mapped dimension become groups."""
    groups, *rest = statics
    flat = []
    for tensor, dim in zip(tensors, dims, strict=True):
        whole = _mapped_first(tensor, dim, size)
        flat.append(whole.reshape(size * whole.shape[1], *whole.shape[2:]).contiguous())
    result = grouped.checked(flat, size * groups, *rest)
    return result.reshape(size, result.shape[0] // size, *result.shape[1:]), 0


def _batch_into_samples(
    grouped: Operation,
    size: int,
    dims: Sequence[int | None],
    tensors: Sequence[Tensor],
    statics: tuple[Any, ...],
) -> tuple[Tensor, int]:
    """The same where the core is not mapped: they become samples of each group."""
    groups = statics[0]
    flat = [tensors[0]]
    for tensor, dim in zip(tensors[1:], dims[1:], strict=True):
        whole = _mapped_first(tensor, dim, size)
        rows, width = whole.shape[1:]
        split = whole.reshape(size, groups, rows // groups, width).movedim(0, 1)
        flat.append(split.reshape(size * rows, width))
    result = grouped.checked(flat, *statics)
    rows, width = result.shape[0] // size, result.shape[1]
    split = result.reshape(groups, size, rows // groups, width).movedim(1, 0)
    return split.reshape(size, rows, width), 0


def _batch_groups(grouped: Operation) -> Any:
    def rule(size: int, dims: Any, tensors: Any, statics: Any) -> tuple[Tensor, int]:
        alone = not grouped.shared_output and dims[0] is None
        batch = _batch_into_samples if alone else _batch_into_groups
        return batch(grouped, size, dims, tensors, statics)

    return rule


def _batch_cores(operation: Operation, grouped: Operation) -> Any:
    """Of an operation with one core, where that is mapped, or the output is one."""

    def rule(size: int, dims: Any, tensors: Any, statics: Any) -> tuple[Tensor, int] | None:
        if not operation.shared_output and dims[0] is None:
            return None
        heads = operation.heads
        mean = heads.index("grad_mean") if "grad_mean" in heads else None
        kept = [place for place in range(len(tensors)) if place != mean]
        if any(tensors[place] is None for place in kept) or (
            mean is not None and tensors[mean] is not None
        ):
            return None  # with the mean output
        picked = [tensors[place] for place in kept]
        return _batch_into_groups(
            grouped, size, [dims[place] for place in kept], picked, (1, *statics)
        )

    return rule


for _alone, _grouped in (
    (SYNTHESIS_PROJECTION, GROUPED_PROJECTION),
    (PROJECTION_FACTOR_GRADS, GROUPED_FACTOR_GRADS),
    (PROJECTION_CORE_GRAD, GROUPED_CORE_GRAD),
):
    _alone.batching = _batch_cores(_alone, _grouped)
    _grouped.batching = _batch_groups(_grouped)
