"""A core with one of its factors fixed."""

from __future__ import annotations

from torch import Tensor


def contract(core: Tensor, z: Tensor, mode: int) -> Tensor:
    r"""The mode-`m` product of a core with a vector, `core \times_m z`.

    Args:
        core (Tensor[k_x, k_1, ..., k_M])
        z (Tensor[k_mode])
        mode (int): 1 to M, or counted from the end by negative numbers.

    Returns:
        Tensor[k_x, ...]: without the dimension `mode`, contiguous.

    Raises:
        ValueError: `mode` or an extent does not fit.

    Example:
        >>> import torch
        >>> from ntensor.faces.editing.contraction import contract
        >>> contract(torch.ones(5, 2, 3), torch.ones(3), -1)
        tensor([[3., 3.],
                [3., 3.],
                [3., 3.],
                [3., 3.],
                [3., 3.]])
    """
    place = mode + core.dim() if mode < 0 else mode
    if not 1 <= place < core.dim():
        raise ValueError(
            f"contract: mode must be 1 to {core.dim() - 1} or negative, got {mode} beside a core "
            f"of shape {tuple(core.shape)}"
        )
    if z.shape != core.shape[place : place + 1]:
        raise ValueError(
            f"contract: z must have shape ({core.shape[place]},), got {tuple(z.shape)}"
        )
    return (core.movedim(place, -1) @ z).contiguous()
