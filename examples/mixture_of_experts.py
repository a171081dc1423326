"""A soft mixture of linear experts: each sample has its own mean of all weight matrices.

Jordan and Jacobs, "Hierarchical Mixtures of Experts and the EM Algorithm", 1994, section 2, one
level with linear experts and a softmax gate:

    y = sum over e of g_e(x) (W_e x + b_e),    g(x) = softmax(V x)

    python examples/mixture_of_experts.py [SAMPLES]
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import ntensor
from side_by_side import Step, run, steps


class LinearExperts(nn.Module):
    """(..., size_in) to (..., size_out)."""

    def __init__(self, experts: int, size_in: int, size_out: int) -> None:
        super().__init__()
        self.gate = nn.Linear(size_in, experts, bias=False)
        self.weight = nn.Parameter(torch.randn(size_out, experts, size_in) / size_in**0.5)
        self.bias = nn.Parameter(torch.zeros(experts, size_out))

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.softmax(self.gate(x), -1)
        return self.mix(gate, x) + gate @ self.bias

    def mix(self, gate: Tensor, x: Tensor) -> Tensor:
        return ntensor.bilinear(gate, x, self.weight)


class Published(LinearExperts):
    def mix(self, gate: Tensor, x: Tensor) -> Tensor:
        each = torch.einsum("...i,oei->...eo", x, self.weight)
        return torch.einsum("...e,...eo->...o", gate, each)


def example(
    samples: int = 8192,
    experts: int = 16,
    size_in: int = 128,
    size_out: int = 128,
) -> dict[str, Step]:
    sizes = experts, size_in, size_out
    x = torch.randn(samples, size_in, requires_grad=True)
    return steps([x], published=Published(*sizes), ntensor=LinearExperts(*sizes))


if __name__ == "__main__":
    run("Soft mixture of linear experts", example)
