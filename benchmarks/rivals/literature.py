"""Two models of the literature whose core is one operation of the library, and their plain forms.

TuckER (Balazevic, Allen and Hospedales, "TuckER: Tensor Factorization for Knowledge Graph
Completion", 2019) scores every object entity of a subject and a relation by a core tensor,
`W x_1 e_s x_2 w_r x_3 e_o`. The tensor fusion network (Zadeh, Chen, Poria, Cambria and Morency,
"Tensor Fusion Network for Multimodal Sentiment Analysis", 2017) gives a linear layer the outer
product of its modalities, each with a one appended: `[z_l; 1] (x) [z_v; 1] (x) [z_a; 1]`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ntensor


class TuckER(nn.Module):
    """Scores of every entity as the object of (subject, relation); a sigmoid is in the loss.

    Args:
        entities, relations (int): how many there are.
        entity_size, relation_size (int): extents of their embeddings.
    """

    def __init__(self, entities: int, relations: int, entity_size: int, relation_size: int) -> None:
        super().__init__()
        self.entities = nn.Embedding(entities, entity_size)
        self.relations = nn.Embedding(relations, relation_size)
        self.core = nn.Parameter(torch.empty(entity_size, relation_size, entity_size))
        nn.init.uniform_(self.core, -1, 1)

    def forward(self, subject: Tensor, relation: Tensor) -> Tensor:
        """`subject` and `relation` (LongTensor[n]) to Tensor[n, entities]."""
        vectors = self.relations(relation), self.entities(subject)
        return tucker_scores(self.core, self.entities.weight, *vectors)


class TensorFusion(nn.Module):
    """The fusion of three modalities with appended ones, and the first linear layer over it.

    Args:
        sizes (sequence of int): the extents of the modalities' vectors.
        hidden (int): the outputs of the linear layer.
    """

    def __init__(self, sizes: Sequence[int], hidden: int) -> None:
        super().__init__()
        self.project = ntensor.nn.MultilinearProjection([size + 1 for size in sizes], hidden)
        self.bias = nn.Parameter(torch.zeros(hidden))

    def forward(self, *modalities: Tensor) -> Tensor:
        """One Tensor[n, size] a modality, to Tensor[n, hidden]."""
        return fusion(self.project.core, self.bias, *modalities)


def tucker_scores(
    core: Tensor,
    entities: Tensor,
    relation: Tensor,
    subject: Tensor,
    interact: Callable[[Tensor, Tensor, Tensor], Tensor] = ntensor.bilinear,
) -> Tensor:
    """`core` is (object, relation, subject)."""
    return interact(relation, subject, core) @ entities.t()


def fusion(
    core: Tensor,
    bias: Tensor,
    *modalities: Tensor,
    project: Callable[..., Tensor] = ntensor.synthesis_projection,
) -> Tensor:
    return project(core, *(F.pad(z, (0, 1), value=1.0) for z in modalities)) + bias


def interact_as_published(relation: Tensor, subject: Tensor, core: Tensor) -> Tensor:
    """A matrix for each relation of the batch, then that matrix times its subject."""
    out, relation_size, size = core.shape
    by_relation = core.permute(1, 2, 0).reshape(relation_size, -1)
    matrices = torch.mm(relation, by_relation).view(-1, size, out)
    return torch.bmm(subject.unsqueeze(1), matrices).squeeze(1)


def interact_by_outer_product(relation: Tensor, subject: Tensor, core: Tensor) -> Tensor:
    return project_outer_product(core, relation, subject)


def project_outer_product(core: Tensor, *factors: Tensor) -> Tensor:
    """The outer product of every sample, formed in memory, given to a linear layer."""
    product = factors[0]
    for factor in factors[1:]:
        product = torch.bmm(product.unsqueeze(2), factor.unsqueeze(1)).flatten(1)
    return F.linear(product, core.flatten(1))


def project_broadcast(core: Tensor, *factors: Tensor) -> Tensor:
    product = factors[0]
    for factor in factors[1:]:
        product = (product.unsqueeze(2) * factor.unsqueeze(1)).flatten(1)
    return F.linear(product, core.flatten(1))


def project_hoisted(core: Tensor, leading: Tensor, *rest: Tensor) -> Tensor:
    """The leading mode last: all slices of the core by one product, then their weighted sum."""
    product = rest[0]
    for factor in rest[1:]:
        product = (product.unsqueeze(2) * factor.unsqueeze(1)).flatten(1)
    slices = F.linear(product, core.flatten(2).flatten(0, 1)).view(-1, *core.shape[:2])
    return torch.bmm(slices, leading.unsqueeze(2)).squeeze(2)
