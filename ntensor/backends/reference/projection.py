"""Projection of the synthesis by a core, `x = core_(1) y`, with its gradients.

`core_(1)` is the core as a `(k_x, K)` matrix. In the mean output the leading factor is the constant
`1/k_1`.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from . import narrow, widen
from .synthesis import feature_grads, features, join


def synthesis_projection(core: Tensor, factors: list[Tensor]) -> Tensor:
    """`x = y core_(1)^T`: `(k_x, k_1, ..., k_M), (n, k_m)... -> (n, k_x)`."""
    return narrow(features(factors) @ _matrix(core).T, core.dtype)


def synthesis_projection_with_mean(core: Tensor, factors: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The projection, and the projection with the leading factor replaced by `1/k_1`."""
    mean = features(_constant_lead(factors)) @ _matrix(core).T
    return synthesis_projection(core, factors), narrow(mean, core.dtype)


def projection_factor_grads(
    core: Tensor,
    grad: Tensor | None,
    grad_mean: Tensor | None,
    factors: list[Tensor],
    needs: list[bool],
) -> Tensor:
    """The needed gradients of the factors: `-> (n, sum of k_m over the needed m)`.

    Those of the synthesis at `dy = grad core_(1)`, plus those of the synthesis with constant
    leading factor at `grad_mean core_(1)`; the leading factor gets nothing from `grad_mean`.
    """
    matrix = _matrix(core)
    totals: list[Tensor | None] = [
        torch.zeros_like(widen(factor)) if need else None
        for factor, need in zip(factors, needs, strict=True)
    ]
    for upstream, leading, inner in (
        (grad, factors, needs),
        (grad_mean, _constant_lead(factors), [False, *needs[1:]]),
    ):
        if upstream is None:
            continue
        parts = feature_grads(widen(upstream) @ matrix, leading, inner)
        for mode, part in enumerate(parts):
            total = totals[mode]
            if part is not None and total is not None:
                totals[mode] = total + part
    return join(totals, factors[0])


def projection_core_grad(
    grad: Tensor | None, grad_mean: Tensor | None, factors: list[Tensor]
) -> Tensor:
    """`dcore_(1) = grad^T y + grad_mean^T y_mean`: `-> (k_x, k_1, ..., k_M)`."""
    return narrow(_core_grad(grad, grad_mean, factors), factors[0].dtype)


def projection_core_grad_(
    core_grad: Tensor, grad: Tensor | None, grad_mean: Tensor | None, factors: list[Tensor]
) -> None:
    """Adds `projection_core_grad` into `core_grad`."""
    core_grad.copy_(widen(core_grad) + _core_grad(grad, grad_mean, factors))


def grouped_projection(core: Tensor, factors: list[Tensor], groups: int) -> Tensor:
    """`(groups k_x, k_1, ..., k_M), (groups n, k_m)... -> (groups n, k_x)`: group by group."""
    parts = _by_group(groups, core, *factors)
    return torch.cat([synthesis_projection(core, z) for core, *z in parts])


def grouped_projection_core_grad(grad: Tensor, factors: list[Tensor], groups: int) -> Tensor:
    """`-> (groups k_x, k_1, ..., k_M)`."""
    parts = _by_group(groups, grad, *factors)
    return torch.cat([projection_core_grad(grad, None, z) for grad, *z in parts])


def grouped_projection_factor_grads(
    core: Tensor, grad: Tensor, factors: list[Tensor], groups: int, needs: list[bool]
) -> Tensor:
    """`-> (groups n, sum of k_m over the needed m)`."""
    parts = _by_group(groups, core, grad, *factors)
    return torch.cat(
        [projection_factor_grads(core, grad, None, z, needs) for core, grad, *z in parts]
    )


def _by_group(groups: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Each group's rows of the tensors."""
    return zip(*(tensor.tensor_split(groups) for tensor in tensors), strict=True)


def _core_grad(grad: Tensor | None, grad_mean: Tensor | None, factors: list[Tensor]) -> Tensor:
    terms = [
        widen(upstream).T @ features(leading)
        for upstream, leading in ((grad, factors), (grad_mean, _constant_lead(factors)))
        if upstream is not None
    ]
    total = sum(terms[1:], terms[0])
    return total.reshape(total.shape[0], *(factor.shape[1] for factor in factors))


def _constant_lead(factors: list[Tensor]) -> list[Tensor]:
    samples, extent = factors[0].shape
    wide = widen(factors[0])
    constant = wide.new_full((samples, extent), 1 / extent if extent else 0.0)
    return [constant, *factors[1:]]


def _matrix(core: Tensor) -> Tensor:
    return widen(core).reshape(core.shape[0], core.shape[1:].numel())
