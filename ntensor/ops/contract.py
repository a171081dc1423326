"""Partial contraction of a core: one factor is put in, the others are left open."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from ntensor.backends._torch import is_transformed

from . import checks, direct
from .saved import save, unpack


def contract(core: Tensor, z: Tensor, mode: int) -> Tensor:
    r"""Contracts a core with the vector of one factor, which gives a core with one factor fewer.

    .. math:: \mathcal{C} \times_{mode + 1} z^T, \qquad
              C'[x, i_1, \dots, i_M] = \sum_{i_{mode}} z[i_{mode}]\, C[x, i_1, \dots, i_M]
              \quad \text{(without } i_{mode} \text{ on the left)}

    With `z_m` the row of a factor that all samples share,

        synthesis_projection(core, z_1, ..., z_m.expand(n, -1), ..., z_M)
            == synthesis_projection(contract(core, z_m, m), z_1, ..., z_M)   # without z_m

    so with one code fixed the core is read once, and every edit of the others costs only the small
    remainder (equations 17 to 20 of the paper change one code and keep the others). On a CPU a
    kernel reads every element once, as it lies; elsewhere, and for derivatives, it is a matrix
    product of torch on a view of the core, without a copy.

    Args:
        core (Tensor[k_x, k_1, ..., k_M]): contiguous, M at least 1; float32, float64, bfloat16 or
            float16.
        z (Tensor[k_mode]): any stride, of the core's dtype; one vector and not a batch, since each
            sample would then have its own core. Under autocast both are cast to its dtype.
        mode (int): the factor's number, 1 to M, which is its dimension in the core; or from -M
            (`z_1`) to -1 (`z_M`). Dimension 0 is that of the outputs, `k_x`, and not a factor.

    Returns:
        Tensor[k_x, ...]: the core without dimension `mode`, contiguous, in its dtype; `(k_x,)` for
        M = 1. Differentiable in both any number of times.

    Raises:
        TypeError: no tensor or mode, or a dtype that is unsupported or differs between operands.
        ValueError: a mode out of range, a wrong rank or extent, two devices, a core that is not
            contiguous.

    Example:
        >>> import torch, ntensor
        >>> core = torch.arange(12.0).reshape(2, 2, 3)
        >>> fixed = ntensor.contract(core, torch.ones(3), mode=2)
        >>> ntensor.synthesis_projection(fixed, torch.tensor([[1.0, 2.0]]))
        tensor([[27., 81.]])
    """
    operation = "contract"
    found: Tensor | None
    if not torch.compiler.is_compiling() and (found := direct.contract(core, z, mode)) is not None:
        return found
    if checks.overridden((core, z)):
        taken: Tensor = handle_torch_function(contract, (core, z), core, z, mode)
        return taken
    names = ("core", "z")
    checks.tensors(operation, names, (core, z))
    if (found := _recorded(core, z, mode)) is not None:
        return found
    if not isinstance(mode, int):
        raise TypeError(f"{operation}: mode must be an int, got {type(mode).__name__}")
    core, z = checks.autocast((core, z))
    checks.alike(operation, names, (core, z))
    factors = core.dim() - 1
    if factors < 1:
        checks.shape(operation, "core", "at least 2 dimensions, (k_x, k_1, ..., k_M)", core)
    if mode == 0 or not -factors <= mode <= factors:
        raise ValueError(
            f"{operation}: mode must be from 1 to {factors} or from -{factors} to -1, the number "
            f"of a factor, got {mode}"
        )
    mode %= core.dim()
    extent = core.shape[mode]
    if z.dim() != 1 or z.shape[0] != extent:
        checks.shape(operation, "z", f"shape ({extent},), one vector (k_{mode},)", z)
    checks.contiguous(operation, "core", core)

    return _by_torch(core, z, mode)


def _by_torch(core: Tensor, z: Tensor, mode: int) -> Tensor:
    """mode: from 1 on."""
    before, after = core.shape[:mode], core.shape[mode + 1 :]
    if mode == core.dim() - 1:
        return core @ z
    # One product for each index in front of the mode, so that the gradient of z is summed up in
    # as many parts and rounds less than in a single long sum.
    rows, extent = math.prod(before), core.shape[mode]  # numel would fix an exported graph's size
    unfolded = core.reshape(rows, extent, math.prod(after))
    return torch.bmm(z.expand(rows, 1, extent), unfolded).reshape(*before, *after)


def _recorded(core: Tensor, z: Tensor, mode: Any) -> Tensor | None:
    """By the kernel and recorded for autograd; None where either is not to be."""
    if torch.compiler.is_compiling() or checks.recorded() or is_transformed():
        return None
    if not torch.is_grad_enabled() or not (core.requires_grad or z.requires_grad):
        return None
    found: Tensor | None = _Recorded.apply(core, z, mode)
    return found


class _Recorded(torch.autograd.Function):
    """The kernel's result as one node of the graph; the gradients are products of torch."""

    name = "contract"
    shared: ClassVar[Sequence[int]] = (0,)

    @staticmethod
    def argument(place: int) -> str:
        return ("core", "z")[place]

    @staticmethod
    def forward(ctx: Any, core: Tensor, z: Tensor, mode: int) -> Tensor | None:
        found = direct.contract(core, z, mode)
        if found is not None:
            save(ctx, (core, z))
            ctx.mode = mode % core.dim()
        return found

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, Tensor | None, None]:
        if grad is None:
            return None, None, None
        saved: Any = unpack(_Recorded, ctx)
        core, z = saved
        mode: int = ctx.mode
        of_core = of_z = None
        rows, extent = math.prod(core.shape[:mode]), core.shape[mode]
        if ctx.needs_input_grad[0]:
            of_core = grad.unsqueeze(mode) * z.view(extent, *[1] * (core.dim() - 1 - mode))
        if ctx.needs_input_grad[1] and mode == core.dim() - 1:
            of_z = core.reshape(rows, extent).T @ grad.reshape(rows)
        elif ctx.needs_input_grad[1]:
            # As many parts as there are indices in front of the mode, then their sum.
            unfolded = core.reshape(rows, extent, -1)
            of_z = torch.bmm(unfolded, grad.reshape(rows, -1, 1)).sum(0).view(extent)
        return of_core, of_z, None
