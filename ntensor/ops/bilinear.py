"""The bilinear map, as `torch.nn.functional.bilinear`: the projection by a core of two factors."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import Parameter

from ntensor import backends

from . import checks, direct
from .projection import SYNTHESIS_PROJECTION


def bilinear(
    x1: Tensor,
    x2: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    backend: str | None = None,
) -> Tensor:
    r"""A drop-in for `torch.nn.functional.bilinear`.

    .. math:: y_o = x_1^T W_o\, x_2 + b_o

    It is `ntensor.synthesis_projection(weight, x1, x2) + bias` on the flattened leading dimensions,
    the 2-way case of equation 4 of the paper.

    Args:
        x1 (Tensor[..., k_1]): float32, float64, bfloat16 or float16.
        x2 (Tensor[..., k_2]): with the leading dimensions of `x1`.
        weight (Tensor[k_x, k_1, k_2]): contiguous.
        bias (Tensor[k_x] or None): added if given.
        backend (str or None): `"native"`, `"triton"`, `"reference"`; None: as in
            `ntensor.use_backend`, or automatic.

    Returns:
        Tensor[..., k_x]: in the operands' dtype (autocast's, where autocast is on). Differentiable
        in all operands any number of times.

    Raises:
        TypeError: no tensor, or a dtype that is unsupported or differs between operands.
        ValueError: a wrong rank or extent, different leading dimensions, two devices, a weight that
            is not contiguous.
        RuntimeError: the requested backend cannot serve; the message gives the reason.

    Example:
        >>> import torch, ntensor
        >>> x1, x2 = torch.ones(4, 5, 2), torch.ones(4, 5, 3)
        >>> ntensor.bilinear(x1, x2, torch.ones(7, 2, 3), torch.zeros(7)).shape
        torch.Size([4, 5, 7])
    """
    if backend is None and not torch.compiler.is_compiling():
        found: Tensor | None = direct.project((weight, x1, x2), False)
        if found is not None and bias is None:
            return found
        if found is not None and isinstance(bias, (Tensor, Parameter)):
            checks.alike("bilinear", _NAMES, (x1, x2, weight, bias))
            _check_bias(bias, weight.shape[0])
            return found + bias
    given = (x1, x2, weight) if bias is None else (x1, x2, weight, bias)
    checks.tensors("bilinear", _NAMES, given)
    cast = checks.autocast(given)
    checks.alike("bilinear", _NAMES, cast)
    x1, x2, weight = cast[:3]
    if weight.dim() != 3:
        checks.shape("bilinear", "weight", "3 dimensions, (k_x, k_1, k_2)", weight)
    k_x, *extents = weight.shape
    for name, x, extent in zip(_NAMES[:2], (x1, x2), extents, strict=True):
        if x.dim() < 1 or x.shape[-1] != extent:
            checks.shape("bilinear", name, f"a last dimension of {extent}, as weight", x)
    leading = x1.shape[:-1]
    if x2.shape[:-1] != leading:
        checks.shape("bilinear", "x2", f"the leading dimensions of x1, {tuple(leading)}", x2)
    checks.contiguous("bilinear", "weight", weight)
    if bias is not None:
        bias = cast[3]
        _check_bias(bias, k_x)

    backend = backends.requested(backend)
    result: Tensor
    if len(leading) == 1:
        result = SYNTHESIS_PROJECTION((weight, x1, x2), backend)
    else:
        samples = math.prod(leading)  # Size.numel would fix the size of an exported graph
        x1, x2 = (x.reshape(samples, extent) for x, extent in zip((x1, x2), extents, strict=True))
        result = SYNTHESIS_PROJECTION((weight, x1, x2), backend).reshape(*leading, k_x)
    return result if bias is None else result + bias


def _check_bias(bias: Tensor, k_x: int) -> None:
    if tuple(bias.shape) != (k_x,):
        checks.shape("bilinear", "bias", f"shape ({k_x},), (k_x,)", bias)


_NAMES = ("x1", "x2", "weight", "bias")
