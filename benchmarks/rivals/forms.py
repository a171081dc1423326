"""Forms of the operations in plain torch, which autograd differentiates.

Those of a projection take the core and the factors in an order of storage, and give the tuple of
their outputs: "linear" (factors `(n, k_m)`, output `(n, k_x)`), "rows" (the same factors, output
`(k_x, n)`) or "columns" (factors `(k_m, n)`, output `(k_x, n)`). Those without an order are linear.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.problem import khatri_rao, without_leading

ORDERS = ("linear", "rows", "columns")


def matmul(core: Tensor, product: Tensor, order: str) -> Tensor:
    """Of the core `(k_x, K)` and a product `(n, K)`, or `(K, n)` in columns."""
    if order == "linear":
        return F.linear(product, core)
    return torch.mm(core, product if order == "columns" else product.t())


def broadcast(core: Tensor, *factors: Tensor, order: str = "linear") -> tuple[Tensor]:
    return (matmul(core.flatten(1), khatri_rao(factors, order == "columns"), order),)


def hoisted(
    core: Tensor, leading: Tensor, *rest: Tensor, order: str = "linear", mean: bool = False
) -> tuple[Tensor, ...]:
    """`core_l W` for all l by one product, then the leading factor (and the mean over l)."""
    slices = matmul(
        core.reshape(core.shape[0] * core.shape[1], -1), khatri_rao(rest, order == "columns"), order
    )
    if order == "linear":
        slices = slices.view(-1, *core.shape[:2])
        output = torch.bmm(slices, leading.unsqueeze(2)).squeeze(2)
        return (output, slices.mean(2)) if mean else (output,)
    slices = slices.view(*core.shape[:2], -1)
    output = (slices * (leading if order == "columns" else leading.t())).sum(1)
    return (output, slices.mean(1)) if mean else (output,)


def hoisted_loop(
    core: Tensor, leading: Tensor, *rest: Tensor, mean: bool = False
) -> tuple[Tensor, ...]:
    """The same in columns, one slice after the other, without gradients."""
    weights = khatri_rao(rest, columns=True)
    output = core.new_zeros(len(core), weights.shape[1])
    total = torch.zeros_like(output)
    for core_slice, scale in zip(core.flatten(2).unbind(1), leading, strict=True):
        product = torch.mm(core_slice, weights)
        output.addcmul_(product, scale)
        if mean:
            total += product
    return (output, total / len(leading)) if mean else (output,)


def outer_product(core: Tensor, *factors: Tensor) -> tuple[Tensor]:
    """The outer products of each sample by `bmm`, given to a linear layer."""
    return (F.linear(synthesis_by_bmm(*factors), core.flatten(1)),)


def from_the_first(core: Tensor, x1: Tensor, x2: Tensor) -> tuple[Tensor]:
    """A matrix a sample: `W x_1` by one product, then times `x_2`; `core` is `(k_1, k_x, k_2)`."""
    matrices = torch.mm(x1, core.flatten(1)).view(-1, *core.shape[1:])
    return (torch.bmm(matrices, x2.unsqueeze(2)).squeeze(2),)


def last_first(core: Tensor, *factors: Tensor, mean: bool = False) -> tuple[Tensor, ...]:
    """The last factor by one product for all rows, then one factor after the other."""
    left = factors[-1] @ core.reshape(-1, core.shape[-1]).T
    for z in factors[-2:0:-1]:
        left = _without_last(left, z)
    output = _without_last(left, factors[0])
    return (output, left.view(*output.shape, -1).mean(2)) if mean else (output,)


def _without_last(left: Tensor, z: Tensor) -> Tensor:
    """Each sample's last mode times its row of a factor, all modes of `left` flattened."""
    return (left.view(len(z), -1, z.shape[1]) @ z.unsqueeze(2)).squeeze(2)


def row_by_row(core: Tensor, *factors: Tensor, mean: bool = False) -> tuple[Tensor, ...]:
    """For a core of few rows."""
    if mean:
        rest = khatri_rao(factors[1:]).T
        left = [row.flatten(1) @ rest for row in core.unbind(0)]
        outputs = [(factors[0].T * each).sum(0) for each in left]
        return torch.stack(outputs, 1), torch.stack([each.mean(0) for each in left], 1)
    rest = khatri_rao(factors[1:])
    rows = [((factors[0] @ row.flatten(1)) * rest).sum(-1) for row in core.unbind(0)]
    return (torch.stack(rows, 1),)


def grouped_broadcast(core: Tensor, *factors: Tensor) -> tuple[Tensor]:
    """Of cores `(g, k_x, k_1, ...)` and factors `(g, n, k_m)`, as all grouped forms."""
    product = khatri_rao(tuple(z.flatten(0, 1) for z in factors))
    return (torch.bmm(product.view(*factors[0].shape[:2], -1), core.flatten(2).mT),)


def grouped_last_first(core: Tensor, *factors: Tensor) -> tuple[Tensor]:
    groups, n, k_m = factors[-1].shape
    left = torch.bmm(factors[-1], core.reshape(groups, -1, k_m).mT).flatten(0, 1)
    for z in factors[-2::-1]:
        left = _without_last(left, z.flatten(0, 1))
    return (left.view(groups, n, -1),)


def grouped_row_by_row(core: Tensor, *factors: Tensor) -> tuple[Tensor]:
    rest = khatri_rao(tuple(z.flatten(0, 1) for z in factors[1:])).view(*factors[0].shape[:2], -1)
    rows = [(torch.bmm(factors[0], row.flatten(2)) * rest).sum(-1) for row in core.unbind(1)]
    return (torch.stack(rows, 2),)


def torch_bilinear(core: Tensor, *factors: Tensor) -> tuple[Tensor]:
    return (F.bilinear(*factors, core),)


def two_matmuls(core: Tensor, *factors: Tensor, order: str = "linear") -> tuple[Tensor, Tensor]:
    """The output and the mean output, each as in `broadcast`."""
    columns = order == "columns"
    core = core.flatten(1)
    return (
        matmul(core, khatri_rao(factors, columns), order),
        matmul(core, _mean_product(factors, columns), order),
    )


def concatenated(core: Tensor, *factors: Tensor, order: str = "linear") -> tuple[Tensor, ...]:
    columns = order == "columns"
    products = khatri_rao(factors, columns), _mean_product(factors, columns)
    both = matmul(core.flatten(1), torch.cat(products, dim=int(columns)), order)
    return both.chunk(2, dim=0 if order == "linear" else 1)


def mean_core(core: Tensor, *factors: Tensor, order: str = "linear") -> tuple[Tensor, Tensor]:
    columns = order == "columns"
    return (
        matmul(core.flatten(1), khatri_rao(factors, columns), order),
        matmul(core.flatten(2).mean(1), khatri_rao(factors[1:], columns), order),
    )


def _mean_product(factors: tuple[Tensor, ...], columns: bool) -> Tensor:
    if columns:
        rest = khatri_rao(factors[1:], columns=True) / len(factors[0])
        return rest.repeat(len(factors[0]), 1)
    return khatri_rao(without_leading(factors))


MEAN_FORMS = {
    "two matmuls": two_matmuls,
    "one concatenated matmul": concatenated,
    "matmul + mean core": mean_core,
}


def synthesis_by_bmm(*factors: Tensor) -> Tensor:
    product = factors[0]
    for factor in factors[1:]:
        product = torch.bmm(product.unsqueeze(2), factor.unsqueeze(1)).flatten(1)
    return product


def rotate(y: Tensor, R: Tensor, layout: str) -> Tensor:
    row = layout == "row"
    y = y.unflatten(1, (3, -1) if row else (-1, 3))
    return (torch.bmm(R, y) if row else torch.bmm(y, R.mT)).flatten(1)


def rotate_by_einsum(y: Tensor, R: Tensor, layout: str) -> Tensor:
    if layout == "row":
        return torch.einsum("nab,nbj->naj", R, y.unflatten(1, (3, -1))).flatten(1)
    return torch.einsum("nab,njb->nja", R, y.unflatten(1, (-1, 3))).flatten(1)


def rotate_by_three_products(y: Tensor, R: Tensor, layout: str) -> Tensor:
    if layout == "row":
        y = y.unflatten(1, (3, -1))
        terms = [R[:, :, b, None] * y[:, b, None, :] for b in range(3)]
    else:
        y = y.unflatten(1, (-1, 3))
        terms = [y[:, :, b, None] * R[:, None, :, b] for b in range(3)]
    return (terms[0] + terms[1] + terms[2]).flatten(1)


ROTATIONS = {
    "matmul": rotate,
    "einsum": rotate_by_einsum,
    "three products": rotate_by_three_products,
}


def rotate_z_exp(z_exp: Tensor, z_id: Tensor, R: Tensor) -> Tensor:
    """The rotated synthesis in the row layout, where 3 divides `k_exp`."""
    return khatri_rao((rotate(z_exp, R, "row"), z_id))


def rotate_z_id(z_exp: Tensor, z_id: Tensor, R: Tensor) -> Tensor:
    """The rotated synthesis in the column layout, where 3 divides `k_id`."""
    return khatri_rao((z_exp, rotate(z_id, R, "column")))
