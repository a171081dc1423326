"""Ridge regression."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def fit_ridge(features: Tensor, target: Tensor, share: float = 1e-3) -> Tensor:
    r"""Fits a ridge regression with an intercept, which is not penalised.

    Args:
        features (Tensor[n, k]), target (Tensor[n, d])
        share (float): the ridge, relative to the features' mean square.

    Returns:
        Tensor[k + 1, d]: the weights, the intercept last.

    Example:
        >>> import torch
        >>> from ntensor.faces.common.ridge import fit_ridge
        >>> x = torch.arange(6.0).view(6, 1)
        >>> fit_ridge(x, 3 * x + 2, share=0).flatten().round().tolist()
        [3.0, 2.0]
    """
    x = F.pad(features, (0, 1), value=1)
    gram = x.T @ x
    penalty = share * gram.diagonal()[:-1].mean() * torch.eye(len(gram)).to(x)
    penalty[-1, -1] = 0
    weights: Tensor = torch.linalg.solve(gram + penalty, x.T @ target)
    return weights
