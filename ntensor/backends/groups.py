"""Groups of equal problems behind one another, for backends that solve them one by one."""

from collections.abc import Callable

import torch
from torch import Tensor


def by_group(solve: Callable[..., Tensor], groups: int, *tensors: Tensor) -> Tensor:
    """What `solve` gives for each group's rows of the tensors, behind one another."""
    parts = [tensor.tensor_split(groups) for tensor in tensors]
    return torch.cat([solve(*group) for group in zip(*parts, strict=True)])
