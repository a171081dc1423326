"""Initial weights of the convolutional parts, which keep the variance from layer to layer."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def keep_variance(layer: nn.Module, gain: float) -> None:
    """Draws normal weights of variance `gain^2 / fan_in`, and sets biases to zero.

    Args:
        layer (Module): a convolution or a linear layer.
        gain (float): `sqrt(2)` with a rectifier, 5/3 before a tanh, 1 for a linear layer.
    """
    if not isinstance(layer, nn.Conv2d | nn.Linear):
        raise TypeError(f"keep_variance: expected a convolution or linear layer, got {type(layer)}")
    weight: Tensor = layer.weight
    if weight.is_meta:
        return  # no values to set; torch would load its compiler, which creates a folder
    nn.init.normal_(weight, std=gain / math.sqrt(weight[0].numel()))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


RECTIFIER = math.sqrt(2)
TANH = 5 / 3

# Mean and standard deviation of each bottleneck activation for standard normal input.
ACTIVATED = {"sigmoid": (0.5, 0.2083), "tanh": (0.0, 0.6279), "identity": (0.0, 1.0)}


# Initial mean and standard deviation of the codes that are factors of a synthesis, and of the
# rotation. A product of factors near 1, (1 + a)(1 + b), contains a and b, so whatever depends on
# one factor alone is linear from the first update on. The rotation starts near the identity.
FACTORS: dict[str, tuple[tuple[float, ...], float]] = {
    "z_l": ((1.0,), 0.5),
    "z_exp": ((1.0,), 0.5),
    "z_id": ((1.0,), 0.5),
    "z_p": ((1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0), 0.2),
}


@torch.no_grad()
def initialise_code_head(layer: nn.Linear, name: str, bottleneck: str) -> None:
    """Initialises the head of the code `name` to the mean and deviation of `FACTORS`, else 0 and 1.

    `z_i` is taken to be the activation `bottleneck` of a standard normal vector.
    """
    mean, deviation = ACTIVATED[bottleneck]
    first, spread = FACTORS.get(name, ((0.0,), 1.0))
    keep_variance(layer, spread / deviation)
    if layer.weight.is_meta:
        return
    layer.bias.copy_(torch.tensor(first) - mean * layer.weight.sum(1))
