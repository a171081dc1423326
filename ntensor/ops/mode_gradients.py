"""The gradient of one factor of a projection as an output, and its gradients.

The form is symmetric in the incoming gradient and the factors. So the gradient of the factor `z_m`
is a projection with the output at mode m of the factors. With its cotangent in the place of `z_m`
its own gradients are those of the projection, and that of the incoming gradient is the projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ntensor import backends

from . import direct
from .dispatch import eager, plain


def rows(tensors: Sequence[Any], outputs: Sequence[bool]) -> Tensor | None:
    """`(n, k_m)` by the shortest way; None where it is not open, or there are other outputs.

    Args:
        tensors: core, incoming gradients and factors, as `projection_factor_grads` takes them.
        outputs: whose gradients are wanted.
    """
    core, grad, grad_mean, *factors = tensors
    if grad is None or grad_mean is not None or sum(outputs) != 1:
        return None
    mode = outputs.index(True)
    return rows_of(core, [grad, *factors[:mode], *factors[mode + 1 :]], mode + 1, None)


def rows_of(core: Tensor, others: list[Tensor], mode: int, backend: str | None) -> Tensor | None:
    """`(n, k_mode)` for the matrices of the other modes of the core, in one call of a backend that
    has it, for plain tensors that nobody differentiates; None where there is none."""
    if backend is None:
        found = direct.mttkrp(core, others, mode, True)
        if found is not None:
            return found
    if len(others) < 2 or not eager((core, *others)):
        return None
    where = core.device, core.dtype, backend
    serve = backends.shortcut("projection", "rows_of_mode", "projection_factor_grads", *where)
    return None if serve is None else serve(core, others, mode)


def at_once(
    tensors: Sequence[Any],
    cotangents: Sequence[Tensor | None],
    needs: Sequence[bool],
    outputs: Sequence[bool],
    backend: str | None,
) -> Sequence[Tensor | None] | None:
    """The gradients of `tensors`, which are as in `rows`; None where there are other outputs."""
    core, grad, grad_mean, *factors = tensors
    if grad is None or grad_mean is not None or sum(outputs) != 1:
        return None
    mode = outputs.index(True)
    factors[mode] = cotangents[0]
    if backend is None:
        wanted = (*needs[:2], *needs[3:])
        found = direct.mode_gradients((core, grad, *factors), mode + 1, wanted)
        if found is not None:
            return [*found[:2], None, *found[2:]]
    needed = list(needs[3:])
    needed[mode] = False
    if not plain((core, grad, *factors)):
        return None
    where = core.device, core.dtype, backend
    serve = backends.shortcut("projection", "projection_grads", "projection_factor_grads", *where)
    if serve is None:
        return None
    of_core, *of_factors = serve(core, grad, None, factors, needs[0], needed)
    of_grad = None
    if needs[1]:
        of_grad = backends.implementation("projection", "synthesis_projection", *where)(
            core, factors
        )
    return [of_core, of_grad, None, *of_factors]
