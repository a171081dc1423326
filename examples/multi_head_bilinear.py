"""Bilinear maps of several heads, each with a core of its own.

With logarithms around it, this is the einsum layer of Peharz, Lang, Vergari, Stelzner, Molina,
Trapp, Van den Broeck, Kersting and Ghahramani, "Einsum Networks: Fast and Scalable Learning of
Tractable Probabilistic Circuits", 2020, section 3: for each head (there: partition) p

    S_o = sum over i, j of W_oij N_i N'_j

    python examples/multi_head_bilinear.py [SAMPLES]
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import ntensor
from side_by_side import Step, run, steps


class MultiHeadBilinear(nn.Module):
    """`left` and `right` (n, heads, size) to (n, heads, out)."""

    def __init__(self, heads: int, size: int, out: int) -> None:
        super().__init__()
        self.cores = nn.Parameter(torch.randn(heads, out, size, size) / size)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        pairs = zip(left.unbind(1), right.unbind(1), self.cores.unbind(0), strict=True)
        return torch.stack([ntensor.bilinear(*operands) for operands in pairs], 1)


class Published(MultiHeadBilinear):
    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return torch.einsum("bpi,bpj,poij->bpo", left, right, self.cores)


def example(samples: int = 2048, heads: int = 8, size: int = 32, out: int = 32) -> dict[str, Step]:
    inputs = [torch.randn(samples, heads, size, requires_grad=True) for _ in range(2)]
    return steps(
        inputs, published=Published(heads, size, out), ntensor=MultiHeadBilinear(heads, size, out)
    )


if __name__ == "__main__":
    run("Multi-head bilinear", example)
