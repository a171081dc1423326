"""The compressed interaction network (CIN) of xDeepFM.

Lian, Zhou, Zhang, Chen, Xie and Sun, "xDeepFM: Combining Explicit and Implicit Feature Interactions
for Recommender Systems", 2018, equation 6: row h of a layer weighs the elementwise products of all
rows of the layer before it with all fields,

    X^k_h = sum over i, j of W^(k,h)_ij (X^(k-1)_i * X^0_j)

and equation 7 sums up each row; the output of the network is these sums of all layers.

    python examples/xdeepfm.py [SAMPLES]
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ntensor
from side_by_side import Step, run, steps


class CompressedInteraction(nn.Module):
    """`fields` (samples, number of fields, size of an embedding) to (samples, sum of `rows`)."""

    def __init__(self, fields: int, rows: Sequence[int]) -> None:
        super().__init__()
        extents = zip(rows, (fields, *rows), strict=False)
        self.weights = nn.ParameterList(
            torch.randn(out, before, fields) / (before * fields) ** 0.5 for out, before in extents
        )

    def forward(self, fields: Tensor) -> Tensor:
        x, sums = fields, []
        for weight in self.weights:
            x = self.interact(x, fields, weight)
            sums.append(x.sum(2))
        return torch.cat(sums, 1)

    def interact(self, x: Tensor, fields: Tensor, weight: Tensor) -> Tensor:
        return ntensor.einsum("bid,bjd,hij->bhd", x, fields, weight)


class Published(CompressedInteraction):
    def interact(self, x: Tensor, fields: Tensor, weight: Tensor) -> Tensor:
        products = torch.einsum("bid,bjd->bijd", x, fields).flatten(1, 2)
        return F.conv1d(products, weight.flatten(1).unsqueeze(2))


def example(
    samples: int = 4096,
    fields: int = 39,
    rows: Sequence[int] = (64, 64),
    size: int = 16,
) -> dict[str, Step]:
    embedded = torch.randn(samples, fields, size, requires_grad=True)
    return steps(
        [embedded], published=Published(fields, rows), ntensor=CompressedInteraction(fields, rows)
    )


if __name__ == "__main__":
    run("xDeepFM, CIN of two layers", example)
