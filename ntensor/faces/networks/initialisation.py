"""First weights of the convolutional parts: signals keep their size from layer to layer."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def keep_variance(layer: nn.Module, gain: float) -> None:
    """Normal weights of variance `gain^2 / fan_in`, zero biases.

    Args:
        layer (Module): a convolution or a linear layer.
        gain (float): `sqrt(2)` behind a rectifier, 5/3 before a tanh, 1 for a linear layer.
    """
    if not isinstance(layer, nn.Conv2d | nn.Linear):
        raise TypeError(f"keep_variance: wanted a convolution or linear layer, got {type(layer)}")
    weight: Tensor = layer.weight
    nn.init.normal_(weight, std=gain / math.sqrt(weight[0].numel()))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


RECTIFIER = math.sqrt(2)
TANH = 5 / 3

# Mean and standard deviation of each bottleneck activation at a standard normal input.
ACTIVATED = {"sigmoid": (0.5, 0.2083), "tanh": (0.0, 0.6279), "identity": (0.0, 1.0)}


@torch.no_grad()
def code_head(layer: nn.Linear, bottleneck: str) -> None:
    """Weights by which a code has mean 0 and variance 1 where `z_i` is a standard normal vector
    behind the activation `bottleneck`."""
    mean, deviation = ACTIVATED[bottleneck]
    keep_variance(layer, 1 / deviation)
    layer.bias.copy_(-mean * layer.weight.sum(1))
