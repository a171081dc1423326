"""TuckER: the scores of all entities as the object of a subject and a relation.

Balazevic, Allen and Hospedales, "TuckER: Tensor Factorization for Knowledge Graph Completion",
2019, equation 2, for every object at once:

    phi(s, r, o) = W x_1 e_s x_2 w_r x_3 e_o

Dropout and batch normalisation of the published model are left out.

    python examples/tucker.py [QUESTIONS]
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import ntensor
from side_by_side import Step, run, steps


class TuckER(nn.Module):
    """Numbers of subjects (n) and relations (n) to scores (n, entities); the loss has a sigmoid."""

    def __init__(self, entities: int, relations: int, entity_size: int, relation_size: int) -> None:
        super().__init__()
        self.entities = nn.Embedding(entities, entity_size)
        self.relations = nn.Embedding(relations, relation_size)
        self.core = nn.Parameter(torch.empty(entity_size, relation_size, entity_size))
        nn.init.uniform_(self.core, -1, 1)

    def forward(self, subject: Tensor, relation: Tensor) -> Tensor:
        found = self.interact(self.relations(relation), self.entities(subject))
        return found @ self.entities.weight.T

    def interact(self, relation: Tensor, subject: Tensor) -> Tensor:
        return ntensor.bilinear(relation, subject, self.core)


class Published(TuckER):
    def interact(self, relation: Tensor, subject: Tensor) -> Tensor:
        out, relation_size, size = self.core.shape
        matrices = relation @ self.core.permute(1, 2, 0).reshape(relation_size, -1)
        return torch.bmm(subject.unsqueeze(1), matrices.view(-1, size, out)).squeeze(1)


def example(
    questions: int = 128,
    entities: int = 14541,
    relations: int = 237,
    sizes: tuple[int, int] = (200, 200),
) -> dict[str, Step]:
    form = entities, relations, *sizes
    asked = [torch.randint(count, (questions,)) for count in (entities, relations)]
    return steps(asked, published=Published(*form), ntensor=TuckER(*form))


if __name__ == "__main__":
    run("TuckER at the sizes of FB15k-237", example)
