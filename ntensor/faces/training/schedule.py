"""The learning rate schedule and the optimizer."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from ntensor.faces.configuration import TrainingConfiguration


def compute_rate(configuration: TrainingConfiguration, step: int) -> float:
    """Factor of the learning rate at update `step`, counted from 0.

    It rises linearly from `1 / warmup` to 1, at the start and again after the `code_steps`. It then
    falls along half a cosine to `final_rate` at the last update.
    """
    c = configuration
    in_phase = step if step < c.code_steps else step - c.code_steps
    if in_phase < c.warmup:
        return (in_phase + 1) / c.warmup
    if step < c.code_steps:
        return 1.0
    done = min(1.0, (in_phase - c.warmup) / max(1, c.steps - c.code_steps - c.warmup))
    return c.final_rate + (1 - c.final_rate) * 0.5 * (1 + math.cos(math.pi * done))


def build_optimizer(
    parameters: Iterable[torch.nn.Parameter], learning_rate: float
) -> torch.optim.Optimizer:
    """Adam with betas 0.9 and 0.999."""
    return torch.optim.Adam(parameters, lr=learning_rate, fused=True)
