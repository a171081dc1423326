"""Synthesis: the Khatri-Rao (sample-wise Kronecker) product of factors."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence, Set
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from ntensor import backends

from . import checks, direct
from .by_torch import scaled_rows
from .forms import Form, Slot, Values, split_columns
from .operation import Operation


def synthesis(*factors: Tensor, backend: str | None = None) -> Tensor:
    r"""The Khatri-Rao product of the factors: per sample, the Kronecker product of their rows.

    .. math:: y = z_1 \otimes z_2 \otimes \dots \otimes z_M, \qquad
              y_{(\dots (i_1 k_2 + i_2) \dots) k_M + i_M} = z_1[i_1]\, z_2[i_2] \cdots z_M[i_M]

    The last factor varies fastest. These are the paper's 2-way and 3-way synthesis of section 3.5,
    batch first. One factor gives a copy of it. Products are computed in float32 (float64 for
    float64) and rounded once.

    Args:
        factors (Tensor[n, k_m]): one or more, any strides; float32, float64, bfloat16 or float16,
            the same for all. `n` and any `k_m` may be 0. Under autocast they are cast to its dtype.
        backend (str or None): `"native"`, `"triton"`, `"reference"`; None: as in
            `ntensor.use_backend`, or automatic.

    Returns:
        Tensor[n, K]: with `K = k_1 ... k_M`, in the factors' dtype. Differentiable any number of
            times.

    Raises:
        TypeError: no tensor, or a dtype that is unsupported or differs between factors.
        ValueError: no factor, a wrong rank, a different `n` or device.
        RuntimeError: the requested backend cannot serve; the message gives the reason.

    Example:
        >>> import torch, ntensor
        >>> ntensor.synthesis(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0, 5.0]]))
        tensor([[ 3.,  4.,  5.,  6.,  8., 10.]])
    """
    if backend is None and not torch.compiler.is_compiling():
        found = synthesise_directly(factors)
        if found is not None:
            return found
    result: Tensor
    if checks.overridden(factors):
        result = handle_torch_function(synthesis, factors, *factors, backend=backend)
        return result
    values = checked_factors("synthesis", factors)
    result = SYNTHESIS(values, backends.requested(backend))
    return result


def synthesise_directly(factors: Sequence[Tensor]) -> Tensor | None:
    """By the shortest way, None where it is not open. Code under `torch.compile` must not come
    here."""
    found: Tensor | None = direct.synthesise(factors)
    if found is None and len(factors) == 2:
        found = scaled_rows(*factors)
    return found


def checked_factors(operation: str, factors: tuple[Tensor, ...]) -> Any:
    """The factors after all checks, cast where autocast says so."""
    checks.factor_count(operation, len(factors))
    checks.tensors(operation, checks.factor_names(len(factors)), factors)
    values = checks.autocast(factors)
    checks.factors(operation, values)
    return values


class SynthesisForm(Form):
    """`s(G, z_1, ..., z_M) = <G, z_1 (x) ... (x) z_M>`."""

    heads = ("grad",)

    def axes(self, slot: Slot, factors: int) -> tuple[Hashable | None, ...]:
        # Equal parts of the K features belong to equal parts of the leading factor alone.
        return ("n", 0 if slot in ("grad", 0) else None)

    def partials(
        self, values: Values, wanted: Set[Slot], options: tuple[Any, ...]
    ) -> dict[Slot, Tensor]:
        factors = self.factors(values)
        found: dict[Slot, Tensor] = {}
        if "grad" in wanted:
            found["grad"] = SYNTHESIS(factors, *options)
        needs = [mode in wanted for mode in range(len(factors))]
        if any(needs):
            joined = SYNTHESIS_GRADS((values["grad"], *factors), needs, *options)
            like: Any = {mode: factors[mode] for mode, need in enumerate(needs) if need}
            found |= split_columns(joined, like)
        return found


def _gradients_at_once(
    factors: Sequence[Tensor],
    cotangents: Sequence[Tensor | None],
    needs: Sequence[bool],
    backend: str | None,
) -> Sequence[Tensor | None] | None:
    if backend is not None:
        return None
    return direct.synthesis_gradients(factors, cotangents[0], needs)


def fake_joined(like: Tensor, widths: list[int], needs: list[bool]) -> Tensor:
    width = sum(width for width, need in zip(widths, needs, strict=True) if need)
    return like.new_empty((like.shape[0], width))


def _check_grads(operation: str, grad: Tensor, factors: list[Tensor], needs: list[bool]) -> None:
    checks.factors(operation, factors)
    checks.needs(operation, needs, len(factors))
    K = math.prod(factor.shape[1] for factor in factors)
    checks.fits(operation, "grad", grad, (factors[0].shape[0], K), factors[0])


def _fake(factors: list[Tensor]) -> Tensor:
    return factors[0].new_empty(
        (factors[0].shape[0], math.prod(factor.shape[1] for factor in factors))
    )


def _fake_grads(grad: Tensor, factors: list[Tensor], needs: list[bool]) -> Tensor:
    return fake_joined(factors[0], [factor.shape[1] for factor in factors], needs)


def _size(factors: list[torch.Size]) -> int:
    """`n K`."""
    return factors[0][0] * math.prod(extent for _, extent in factors)


_FORM = SynthesisForm()

SYNTHESIS = Operation(
    _FORM,
    "synthesis(Tensor[] factors, str? backend=None) -> Tensor",
    stem="synthesis",
    returns=("grad",),
    check=checks.factors,
    fake=_fake,
    at_once=_gradients_at_once,
    direct=lambda tensors: direct.synthesise(tensors),
    flops=lambda factors: (len(factors) - 1) * _size(factors),
)

SYNTHESIS_GRADS = Operation(
    _FORM,
    "synthesis_grads(Tensor grad, Tensor[] factors, bool[] needs, str? backend=None) -> Tensor",
    stem="synthesis",
    returns=("factors",),
    check=_check_grads,
    fake=_fake_grads,
    flops=lambda grad, factors, needs: 2 * sum(needs) * _size(factors),
)
