"""Means and standard deviations of the pseudo ground truth, stored in a network's weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

STANDARDISED = ("exp_3dmm", "id_3dmm", "shape")

# Keeps a coordinate that hardly varies from being amplified to unit variance.
SMALLEST_SHARE = 0.1


class Statistics(nn.Module):
    """Standardises the vectors of a batch: `(x - mean) / std`, per coordinate.

    Standard deviations are at least a tenth of their root mean square over all coordinates. The
    shape has one standard deviation for all coordinates, so lengths keep their proportions.

    Args:
        sizes (mapping): extent of each vector by name, among `exp_3dmm`, `id_3dmm`, `shape`.

    Example:
        >>> import torch
        >>> from ntensor.faces.networks.statistics import Statistics
        >>> statistics = Statistics({"exp_3dmm": 2})
        >>> statistics.set({"exp_3dmm": (torch.tensor([1.0, 2.0]), torch.tensor([2.0, 2.0]))})
        >>> statistics.standardise("exp_3dmm", torch.tensor([[3.0, 4.0]]))
        tensor([[1., 1.]])
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        super().__init__()
        self.sizes = dict(sizes)
        for name, size in sizes.items():
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_std", torch.ones(size))

    def set(self, values: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Sets the mean and standard deviation of each vector.

        Raises:
            ValueError: a vector is missing or has another extent.
        """
        for name, size in self.sizes.items():
            if name not in values:
                raise ValueError(f"statistics: expected {', '.join(self.sizes)}, got no {name}")
            mean, std = values[name]
            if mean.numel() != size or std.numel() not in (1, size):
                raise ValueError(
                    f"statistics of {name}: expected {size} coordinates, got {mean.numel()} means "
                    f"and {std.numel()} standard deviations"
                )
            usual = std.float().square().mean().sqrt().clamp_min(1e-12)
            scale = usual.expand(size) if name == "shape" else std.clamp_min(SMALLEST_SHARE * usual)
            self.get_buffer(f"{name}_mean").copy_(mean.flatten())
            self.get_buffer(f"{name}_std").copy_(scale.flatten())

    def standardise(self, name: str, x: Tensor) -> Tensor:
        """`(x - mean) / std`."""
        return (x - self.get_buffer(f"{name}_mean")) / self.get_buffer(f"{name}_std")

    def restore(self, name: str, x: Tensor) -> Tensor:
        """The inverse of `standardise`."""
        return x * self.get_buffer(f"{name}_std") + self.get_buffer(f"{name}_mean")
