"""Gradients of cores that stay the terms that they are sums of, until an optimizer takes them.

For a core of an optimizer of `ntensor.optim`, backward with `accumulate_core_grad` notes what the
gradient is made of, which is as small as the batch: the incoming gradients and the factors.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

# Terms are joined up to so many samples; the norm of a gradient is made of the products of all.
MOST_GRAM_SAMPLES = 2048


class Term(NamedTuple):
    """`sum_s (G z_1 + G_mean / k_1) z_2 ... z_M`, in copies of its own: what backward was given may
    change before the step, and a fused optimizer's writes count nowhere."""

    grad: Tensor | None  # (n, k_x)
    grad_mean: Tensor | None
    factors: tuple[Tensor, ...]  # (n, k_m)
    backend: str | None

    @property
    def samples(self) -> int:
        return self.factors[0].shape[0]


_terms: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def defer(core: Tensor, optimizer: object) -> None:
    """From now on the core's gradients are noted for this optimizer, as long as it lives."""
    _terms[core] = weakref.ref(optimizer), []


def terms_of(core: Tensor) -> list[Term] | None:
    """Those that wait for a step; None where no optimizer of `ntensor.optim` has the core."""
    found = _terms.get(core)
    if found is None or found[0]() is None:
        return None
    terms: list[Term] = found[1]
    return terms


def note(
    terms: list[Term],
    grad: Tensor | None,
    grad_mean: Tensor | None,
    factors: Sequence[Tensor],
    backend: str | None,
) -> None:
    copies = [None if each is None else _copy(each) for each in (grad, grad_mean)]
    terms.append(Term(copies[0], copies[1], tuple(map(_copy, factors)), backend))


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def join(terms: Sequence[Term]) -> Term:
    """One term of all samples."""
    if len(terms) == 1:
        return terms[0]
    incoming: list[Tensor | None] = []
    for grads in ([term.grad for term in terms], [term.grad_mean for term in terms]):
        like = next((grad for grad in grads if grad is not None), None)
        if like is None:
            incoming.append(None)
            continue
        k_x = like.shape[1]
        parts = [
            like.new_zeros((term.samples, k_x)) if grad is None else grad
            for term, grad in zip(terms, grads, strict=True)
        ]
        incoming.append(torch.cat(parts))
    factors = tuple([torch.cat(z) for z in zip(*(term.factors for term in terms), strict=True)])
    return Term(incoming[0], incoming[1], factors, terms[0].backend)


def norm(terms: Sequence[Term]) -> Tensor | None:
    """The 2-norm of the gradient, which is not formed, in float64; None for too many samples.

    With `g_s` for the incoming gradient of sample s, `||sum_s g_s z_1s ... z_Ms||^2` is the sum
    over s and t of `<g_s, g_t> <z_1s, z_1t> ... <z_Ms, z_Mt>`.
    """
    rows: list[list[Tensor]] = []
    for grad, grad_mean, factors, _ in terms:
        if grad is not None:
            rows.append([grad, *factors])
        if grad_mean is not None:
            leading = factors[0]
            mean = torch.full_like(leading, 1 / max(1, leading.shape[1]))
            rows.append([grad_mean, mean, *factors[1:]])
    if not rows:
        return torch.zeros((), dtype=torch.float64)
    matrices = [torch.cat(column).double() for column in zip(*rows, strict=True)]
    if len(matrices[0]) > MOST_GRAM_SAMPLES:
        return None
    gram = matrices[0] @ matrices[0].T
    for matrix in matrices[1:]:
        gram *= matrix @ matrix.T
    return gram.sum().clamp(min=0).sqrt()
