"""The bilinear map, as `torch.nn.functional.bilinear`: the projection by a core of two factors."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import bilinear as torch_bilinear
from torch.overrides import handle_torch_function

from ntensor import backends

from . import checks, direct
from .arranged import arranged
from .by_torch import one_output
from .dispatch import PLAIN_TYPES, differentiated
from .mttkrp import in_memory_order, rows_of_mode


def bilinear(
    input1: Tensor,
    input2: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    backend: str | None = None,
) -> Tensor:
    r"""A drop-in for `torch.nn.functional.bilinear`.

    .. math:: y_o = x_1^T W_o\, x_2 + b_o

    It is `ntensor.synthesis_projection(weight, input1, input2) + bias` on the flattened leading
    dimensions, the 2-way case of equation 4 of the paper. One output that autograd records keeps an
    array of an input's size for backward, where that is faster.

    Args:
        input1 (Tensor[..., k_1]): float32, float64, bfloat16 or float16; other dtypes, tensor
            types with a `__torch_function__` of their own, and `torch.jit.trace` are left to
            torch's function.
        input2 (Tensor[..., k_2]): with the leading dimensions of `input1`.
        weight (Tensor[k_x, k_1, k_2]): any strides. A dense one is read as it lies; where `k_x` is
            not its first mode in memory, and that is cheaper, a kernel makes a copy with it in
            front, of at most 32 MiB. Another one, a slice or an expanded tensor, is copied.
        bias (Tensor[k_x] or None): added if given.
        backend (str or None): `"native"`, `"triton"`, `"reference"`; None: as in
            `ntensor.use_backend`, or automatic.

    Returns:
        Tensor[..., k_x]: in the operands' dtype (the widest, where autocast is on, as torch's).
        Differentiable in all operands any number of times.

    Raises:
        TypeError: no tensor, or a dtype that is unsupported or differs between operands.
        ValueError: a wrong rank or extent, different leading dimensions, two devices.
        RuntimeError: the requested backend cannot serve; the message gives the reason.

    Example:
        >>> import torch, ntensor
        >>> input1, input2 = torch.ones(4, 5, 2), torch.ones(4, 5, 3)
        >>> ntensor.bilinear(input1, input2, torch.ones(7, 2, 3), torch.zeros(7)).shape
        torch.Size([4, 5, 7])
    """
    if backend is None and not torch.compiler.is_compiling():
        found: Tensor | None = direct.project((weight, input1, input2), False)
        if found is None:
            found = one_output(weight, input1, input2)
        if found is not None and bias is None:
            return found
        if found is not None and isinstance(bias, Tensor) and type(bias) in PLAIN_TYPES:
            checks.alike("bilinear", _NAMES, (input1, input2, weight, bias))
            _check_bias(bias, weight.shape[0])
            return found + bias
    given = (input1, input2, weight) if bias is None else (input1, input2, weight, bias)
    if checks.overrides_torch(given):
        return torch_bilinear(input1, input2, weight, bias)
    if checks.overridden(given):
        taken: Tensor = handle_torch_function(
            bilinear, given, input1, input2, weight, bias, backend=backend
        )
        return taken
    checks.tensors("bilinear", _NAMES, given)
    if _is_torchs(given):
        return torch_bilinear(input1, input2, weight, bias)
    cast = checks.autocast(given, widest=True)
    checks.alike("bilinear", _NAMES, cast)
    input1, input2, weight = cast[:3]
    if weight.dim() != 3:
        checks.shape("bilinear", "weight", "3 dimensions, (k_x, k_1, k_2)", weight)
    k_x, *extents = weight.shape
    for name, x, extent in zip(_NAMES[:2], (input1, input2), extents, strict=True):
        if x.dim() < 1 or x.shape[-1] != extent:
            checks.shape("bilinear", name, f"a last dimension of {extent}, as weight", x)
    leading = input1.shape[:-1]
    if input2.shape[:-1] != leading:
        checks.shape(
            "bilinear", "input2", f"the leading dimensions of input1, {tuple(leading)}", input2
        )
    if bias is not None:
        bias = cast[3]
        _check_bias(bias, k_x)

    backend = backends.requested(backend)
    samples = math.prod(leading)  # Size.numel would fix the size of an exported graph
    flat = [input1, input2]
    if len(leading) != 1:
        flat = [x.reshape(samples, extent) for x, extent in zip(flat, extents, strict=True)]
    result: Tensor | None = None
    if backend is None and not weight.is_contiguous() and not torch.compiler.is_compiling():
        operands = (weight, *flat)
        if differentiated(operands):
            result = arranged(operands, (False, False), 0)
    if result is None:
        weight, places = in_memory_order(weight)
        others = [flat[place - 1] for place in places if place]
        result = rows_of_mode(weight, others, places.index(0), backend)
    if len(leading) != 1:
        result = result.reshape(*leading, k_x)
    return result if bias is None else result + bias


def _is_torchs(given: tuple[Tensor, ...]) -> bool:
    """Whether the operands have one dtype, which the kernels do not have, or `torch.jit.trace`
    records: what it makes then needs torch alone."""
    if checks.recorded():
        return True
    dtype = given[0].dtype
    return dtype not in backends.DTYPES and all(value.dtype is dtype for value in given)


def _check_bias(bias: Tensor, k_x: int) -> None:
    if tuple(bias.shape) != (k_x,):
        checks.shape("bilinear", "bias", f"shape ({k_x},), (k_x,)", bias)


_NAMES = ("input1", "input2", "weight", "bias")
