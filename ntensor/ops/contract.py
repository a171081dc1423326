"""Partial contraction of a core: one factor is put in, the others are left open."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from . import checks


def contract(core: Tensor, z: Tensor, mode: int) -> Tensor:
    r"""Contracts a core with the vector of one factor, which gives a core with one factor fewer.

    .. math:: \mathcal{C} \times_{mode + 1} z^T, \qquad
              C'[x, i_1, \dots, i_M] = \sum_{i_{mode}} z[i_{mode}]\, C[x, i_1, \dots, i_M]
              \quad \text{(without } i_{mode} \text{ on the left)}

    With `z_m` the row of a factor that all samples share,

        synthesis_projection(core, z_1, ..., z_m.expand(n, -1), ..., z_M)
            == synthesis_projection(contract(core, z_m, m), z_1, ..., z_M)   # without z_m

    so with one code fixed the core is read once, and every edit of the others costs only the small
    remainder (equations 17 to 20 of the paper change one code and keep the others). The contraction
    is a matrix product on a view of the core, by torch, in one pass and without a copy.

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
    if checks.overridden((core, z)):
        taken: Tensor = handle_torch_function(contract, (core, z), core, z, mode)
        return taken
    names = ("core", "z")
    checks.tensors(operation, names, (core, z))
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

    before, after = core.shape[:mode], core.shape[mode + 1 :]
    if mode == factors:
        return core @ z
    # One product for each index in front of the mode, so that the gradient of z is summed up in
    # as many parts and rounds less than in a single long sum.
    rows = math.prod(before)  # Size.numel would fix the size of an exported graph
    unfolded = core.reshape(rows, extent, math.prod(after))
    return torch.bmm(z.expand(rows, 1, extent), unfolded).reshape(*before, *after)
