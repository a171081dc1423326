"""Synthesis, `y[s, (i_1, ..., i_M)] = z_1[s, i_1] ... z_M[s, i_M]`, and its gradients."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import narrow, widen


def synthesis(factors: list[Tensor]) -> Tensor:
    """`y = z_1 (x) ... (x) z_M` for each sample: `(n, k_m)... -> (n, K)`."""
    return narrow(features(factors), factors[0].dtype)


def synthesis_grads(grad: Tensor, factors: list[Tensor], needs: list[bool]) -> Tensor:
    """The needed gradients of the factors: `-> (n, sum of k_m over the needed m)`.

    `dz_m[s, i_m]` is the sum over the other indices of `grad[s, (i_1, ..., i_M)]` times
    `z_j[s, i_j]` for all `j != m`.
    """
    parts = feature_grads(widen(grad), factors, needs)
    return join(parts, factors[0])


def features(factors: list[Tensor]) -> Tensor:
    """The synthesis in the type to calculate in."""
    samples = factors[0].shape[0]
    result = widen(factors[0])
    for factor in factors[1:]:
        product = result[:, :, None] * widen(factor)[:, None, :]
        result = product.reshape(samples, product.shape[1] * product.shape[2])
    return result


def feature_grads(grad: Tensor, factors: list[Tensor], needs: list[bool]) -> list[Tensor | None]:
    """The gradient of each needed factor, in the type to calculate in."""
    samples = factors[0].shape[0]
    extents = [factor.shape[1] for factor in factors]
    parts: list[Tensor | None] = []
    for mode, need in enumerate(needs):
        if not need:
            parts.append(None)
            continue
        before, after = math.prod(extents[:mode]), math.prod(extents[mode + 1 :])
        part = grad.reshape(samples, before, extents[mode], after)
        if mode > 0:
            part = part * features(factors[:mode])[:, :, None, None]
        if mode + 1 < len(factors):
            part = part * features(factors[mode + 1 :])[:, None, None, :]
        parts.append(part.sum((1, 3)))
    return parts


def join(parts: list[Tensor | None], like: Tensor) -> Tensor:
    """The parts side by side, in the samples and dtype of `like`."""
    found = [part.to(like.dtype) for part in parts if part is not None]
    return torch.cat(found, 1) if found else like.new_empty((like.shape[0], 0))
