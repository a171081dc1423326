"""The interaction of DimeNet: messages and the angles between them, joined by a bilinear map.

Gasteiger, Gross and Guennemann, "Directional Message Passing for Molecular Graphs", 2020,
section 5, interaction block: for each triplet k -> j -> i of atoms, the message of the edge k -> j
and the basis of its angle with j -> i go through one bilinear map; what arrives in j -> i is summed
up. The residual layers that follow are dense layers of the edges and are left out.

    python examples/dimenet.py [TRIPLETS]
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ntensor
from side_by_side import Step, run, steps


class Interaction(nn.Module):
    """`message` (edges, size), `radial` (edges, radial) and `spherical` (triplets, spherical);
    `kj` and `ji` (triplets) are the numbers of a triplet's edges."""

    def __init__(
        self, size: int = 128, bilinear: int = 8, radial: int = 6, spherical: int = 42
    ) -> None:
        super().__init__()
        self.of_ji = nn.Linear(size, size)
        self.of_kj = nn.Linear(size, size)
        self.of_radial = nn.Linear(radial, size, bias=False)
        self.of_spherical = nn.Linear(spherical, bilinear, bias=False)
        self.weight = nn.Parameter(torch.randn(size, bilinear, size) * 2 / size)

    def forward(
        self, message: Tensor, radial: Tensor, spherical: Tensor, kj: Tensor, ji: Tensor
    ) -> Tensor:
        sent = F.silu(self.of_kj(message)) * self.of_radial(radial)
        arriving = self.interact(self.of_spherical(spherical), sent.index_select(0, kj))
        return F.silu(self.of_ji(message)).index_add(0, ji, arriving)

    def interact(self, angle: Tensor, message: Tensor) -> Tensor:
        return ntensor.bilinear(angle, message, self.weight)


class Published(Interaction):
    def interact(self, angle: Tensor, message: Tensor) -> Tensor:
        return torch.einsum("wj,wl,ijl->wi", angle, message, self.weight)


class Regrouped(Interaction):
    """Plain torch again: weight and message are multiplied once an edge, and not once for each of
    its triplets, which then only add up rows. Fewer operations, where edges have many triplets."""

    def forward(
        self, message: Tensor, radial: Tensor, spherical: Tensor, kj: Tensor, ji: Tensor
    ) -> Tensor:
        sent = F.silu(self.of_kj(message)) * self.of_radial(radial)
        rows = torch.einsum("el,ijl->eji", sent, self.weight)  # (edges, bilinear, size)
        order = torch.argsort(ji)
        numbers = kj[order].unsqueeze(1) * rows.shape[1] + torch.arange(rows.shape[1])
        count = torch.bincount(ji, minlength=len(message)) * rows.shape[1]
        arriving = F.embedding_bag(
            numbers.flatten(),
            rows.flatten(0, 1),
            count.cumsum(0) - count,
            mode="sum",
            per_sample_weights=self.of_spherical(spherical)[order].flatten(),
        )
        return F.silu(self.of_ji(message)) + arriving


def example(triplets: int = 100_000, edges: int = 7_000, size: int = 128) -> dict[str, Step]:
    message = torch.randn(edges, size, requires_grad=True)
    radial = torch.randn(edges, 6)
    spherical = torch.randn(triplets, 42)
    kj, ji = torch.randint(edges, (2, triplets))
    inputs = [message, radial, spherical, kj, ji]
    return steps(
        inputs, published=Published(size), ntensor=Interaction(size), regrouped=Regrouped(size)
    )


if __name__ == "__main__":
    run("DimeNet, interaction", example)
