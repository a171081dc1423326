"""The edge network of message passing (NNConv): an edge's features give the matrix of its message.

Gilmer, Schoenholz, Riley, Vinyals and Dahl, "Neural Message Passing for Quantum Chemistry", 2017,
equation 1 with the message `A(e_vw) h_w` of section 5.1, where `A` is a network of two layers. The
published form has a matrix for each edge in memory. With the last layer's weight as a core of
three modes there is none:

    m_v = sum over w of (W a(e_vw) + B) h_w,    a(e) = relu(V e + c)

    python examples/nnconv.py [EDGES]
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import ntensor
from side_by_side import Step, run, steps


class EdgeNetwork(nn.Module):
    """`x` (nodes, size_in), `features` (edges, features); `source` and `target` (edges) are the
    numbers of an edge's nodes. The result is (nodes, size_out)."""

    def __init__(self, size_in: int, size_out: int, features: int, hidden: int = 128) -> None:
        super().__init__()
        self.first = nn.Linear(features, hidden)
        self.last = nn.Linear(hidden, size_in * size_out)
        self.matrix = (size_in, size_out)

    def forward(self, x: Tensor, features: Tensor, source: Tensor, target: Tensor) -> Tensor:
        hidden = torch.relu(self.first(features))
        message = self.message(x.index_select(0, source), hidden)
        return message.new_zeros(x.shape[0], message.shape[1]).index_add(0, target, message)

    def message(self, x: Tensor, hidden: Tensor) -> Tensor:
        core, bias = self.last.weight.view(*self.matrix, -1), self.last.bias.view(self.matrix)
        return ntensor.einsum("ei,eh,ioh->eo", x, hidden, core) + x @ bias


class Published(EdgeNetwork):
    def message(self, x: Tensor, hidden: Tensor) -> Tensor:
        matrices = self.last(hidden).view(-1, *self.matrix)
        return torch.matmul(x.unsqueeze(1), matrices).squeeze(1)


class Regrouped(EdgeNetwork):
    """Plain torch again: the products of a node's edges are summed up before the weight comes in.
    Fewer operations, where nodes have many edges; nodes x size_in x hidden numbers in memory."""

    def forward(self, x: Tensor, features: Tensor, source: Tensor, target: Tensor) -> Tensor:
        count = torch.bincount(target, minlength=len(x))
        order = torch.argsort(target)
        node = target[order]
        place = node, torch.arange(len(node)) - (count.cumsum(0) - count)[node]
        hidden = torch.relu(self.first(features[order]))
        shape = len(x), int(count.max())
        arriving = x.new_zeros(*shape, x.shape[1]).index_put(place, x[source[order]])
        by_node = x.new_zeros(*shape, hidden.shape[1]).index_put(place, hidden)
        products = torch.bmm(arriving.transpose(1, 2), by_node)
        core, bias = self.last.weight.view(*self.matrix, -1), self.last.bias.view(self.matrix)
        return torch.einsum("nih,ioh->no", products, core) + arriving.sum(1) @ bias


def example(edges: int = 39_000, nodes: int = 2_300, size: int = 64) -> dict[str, Step]:
    x = torch.randn(nodes, size, requires_grad=True)
    features = torch.randn(edges, 5)
    source, target = torch.randint(nodes, (2, edges))
    inputs, extents = [x, features, source, target], (size, size, 5)
    return steps(
        inputs,
        published=Published(*extents),
        ntensor=EdgeNetwork(*extents),
        regrouped=Regrouped(*extents),
    )


if __name__ == "__main__":
    run("NNConv, edge network", example)
