"""The score of a neural tensor network.

Socher, Chen, Manning and Ng, "Reasoning With Neural Tensor Networks for Knowledge Base Completion",
2013, equation 1: for two entities and one relation R,

    g(e1, R, e2) = u_R^T tanh(e1^T W_R e2 + V_R [e1; e2] + b_R),    W_R of `slices` matrices

    python examples/neural_tensor_network.py [PAIRS]
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import ntensor
from side_by_side import Step, run, steps


class NeuralTensorNetwork(nn.Module):
    """Entities (n, size) and (n, size) to scores (n,) of one relation."""

    def __init__(self, size: int, slices: int) -> None:
        super().__init__()
        self.tensor = nn.Parameter(torch.randn(slices, size, size) / size)
        self.linear = nn.Linear(2 * size, slices)
        self.u = nn.Parameter(torch.randn(slices))

    def forward(self, e1: Tensor, e2: Tensor) -> Tensor:
        hidden = self.interact(e1, e2) + self.linear(torch.cat([e1, e2], 1))
        return torch.tanh(hidden) @ self.u

    def interact(self, e1: Tensor, e2: Tensor) -> Tensor:
        return ntensor.bilinear(e1, e2, self.tensor)


class Published(NeuralTensorNetwork):
    def interact(self, e1: Tensor, e2: Tensor) -> Tensor:
        return torch.einsum("bi,kij,bj->bk", e1, self.tensor, e2)


def example(pairs: int = 20_000, size: int = 100, slices: int = 4) -> dict[str, Step]:
    entities = [torch.randn(pairs, size, requires_grad=True) for _ in range(2)]
    return steps(
        entities, published=Published(size, slices), ntensor=NeuralTensorNetwork(size, slices)
    )


if __name__ == "__main__":
    run("Neural tensor network", example)
