"""A tensor fusion network's fusion of three modalities, and the linear layer over it.

Zadeh, Chen, Poria, Cambria and Morency, "Tensor Fusion Network for Multimodal Sentiment Analysis",
2017, tensor fusion layer: the outer product of the modalities, each with a one appended,

    z = [z_l; 1] (x) [z_v; 1] (x) [z_a; 1]

    python examples/tensor_fusion.py [SAMPLES]
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ntensor
from side_by_side import Step, run, steps


class TensorFusion(nn.Module):
    """One matrix (n, size) a modality, to (n, hidden)."""

    def __init__(self, sizes: Sequence[int], hidden: int) -> None:
        super().__init__()
        self.project = ntensor.nn.MultilinearProjection([size + 1 for size in sizes], hidden)
        self.bias = nn.Parameter(torch.zeros(hidden))

    def forward(self, *modalities: Tensor) -> Tensor:
        return self.fuse(*(F.pad(z, (0, 1), value=1.0) for z in modalities)) + self.bias

    def fuse(self, *modalities: Tensor) -> Tensor:
        return self.project(*modalities)  # type: ignore[no-any-return]


class Published(TensorFusion):
    def fuse(self, *modalities: Tensor) -> Tensor:
        product = modalities[0]
        for z in modalities[1:]:
            product = torch.bmm(product.unsqueeze(2), z.unsqueeze(1)).flatten(1)
        return F.linear(product, self.project.core.flatten(1))


def example(
    samples: int = 32,
    sizes: Sequence[int] = (128, 32, 32),
    hidden: int = 128,
) -> dict[str, Step]:
    modalities = [torch.randn(samples, k, requires_grad=True) for k in sizes]
    return steps(
        modalities, published=Published(sizes, hidden), ntensor=TensorFusion(sizes, hidden)
    )


if __name__ == "__main__":
    run("Tensor fusion of three modalities", example)
