"""A layer whose weights a linear layer makes for each sample.

Ha, Dai and Le, "HyperNetworks", 2016, equation 2: the last layer of a hypernetwork is linear and
gives the main network's weights. The main layer is linear as well, so both are one map, bilinear in
the code `z` and the input `x`, each with a one appended for the biases, and no weights are formed:

    y = (W z + B) [x; 1] = C [z; 1] [x; 1]

    python examples/hypernetwork.py [SAMPLES]
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ntensor
from side_by_side import Step, run, steps


class GeneratedLinear(nn.Module):
    """`z` (n, code) and `x` (n, size_in) to (n, size_out)."""

    def __init__(self, code: int, size_in: int, size_out: int) -> None:
        super().__init__()
        core = torch.randn(size_out, code + 1, size_in + 1)
        self.core = nn.Parameter(core / ((code + 1) * (size_in + 1)) ** 0.5)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return ntensor.bilinear(with_one(z), with_one(x), self.core)


class Published(GeneratedLinear):
    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        out, code, size = self.core.shape
        last = self.core.transpose(1, 2).reshape(out * size, code)
        generated = F.linear(z, last[:, :-1], last[:, -1]).view(-1, out, size)
        weight, bias = generated[:, :, :-1], generated[:, :, -1:]
        return torch.baddbmm(bias, weight, x.unsqueeze(2)).squeeze(2)


def with_one(x: Tensor) -> Tensor:
    return F.pad(x, (0, 1), value=1.0)


def example(samples: int = 4096, code: int = 32, size: int = 128) -> dict[str, Step]:
    z = torch.randn(samples, code, requires_grad=True)
    x = torch.randn(samples, size, requires_grad=True)
    return steps(
        [z, x], published=Published(code, size, size), ntensor=GeneratedLinear(code, size, size)
    )


if __name__ == "__main__":
    run("Hypernetwork, last layer", example)
