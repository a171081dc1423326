"""Estimates how the identity code depends on the pose, and corrects edits for it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ntensor.faces.common.errors import ConfigurationError
from ntensor.faces.common.ridge import fit_ridge

from .codes import Encoded


def fit_pose_leak(codes: Mapping[str, Tensor]) -> Tensor:
    r"""The slope of the linear regression of `z_id` on `z_p`; not in the paper.

    .. math:: A = \arg\min_A \min_c \sum_i |z_{id}^i - z_p^i A - c|_2^2 + \epsilon |A|_F^2

    Decoders learn from codes of one picture, so if `z_id` depends on the pose they rely on that. An
    edit that changes the pose moves `z_id` by `A` times the change, and one that changes the
    identity replaces only the rest, `z_id - z_p A`. No labels are used.

    Args:
        codes (mapping): `z_p` (Tensor[n, 9]) and `z_id` (Tensor[n, k_id]) of many pictures,
            preferably those of training.

    Returns:
        Tensor[9, k_id]: `A`, with a ridge of a thousandth of the mean square of `z_p`.

    Raises:
        ConfigurationError: the codes have no `z_p` or no `z_id`.

    Example:
        >>> import torch
        >>> from ntensor.faces.editing import fit_pose_leak
        >>> z_p = torch.randn(100, 9)
        >>> fit_pose_leak({"z_p": z_p, "z_id": 3 * z_p[:, :2]}).diagonal().round().tolist()
        [3.0, 3.0]
    """
    for name in ("z_p", "z_id"):
        if name not in codes:
            raise ConfigurationError(
                f"fit_pose_leak: expected the codes z_p and z_id, got no {name}"
            )
    z_p, z_id = (codes[name].double() for name in ("z_p", "z_id"))
    slope = fit_ridge(z_p - z_p.mean(0), z_id)[:-1]
    return slope.to(codes["z_id"].dtype)


def follow_pose(edited: Encoded, z_p: Tensor, leak: Tensor | None) -> Encoded:
    """The pictures with `z_id` moved along with the change of their pose.

    Args:
        edited (Encoded): with the new `z_p`.
        z_p (Tensor[n, 9]): of the pictures that `z_id` comes from.
        leak (Tensor[9, k_id] or None): from `fit_pose_leak`; None changes nothing.
    """
    if leak is None:
        return edited
    change = (edited.codes["z_p"] - z_p) @ leak.to(z_p)
    return edited.replace({"z_id": edited.codes["z_id"] + change})
