"""Each operation of `sweep.py` with its plain forms of torch.

A form takes the operands of its operation and returns the list of its results.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

import ntensor
from harness.problem import khatri_rao, without_leading
from harness.sizes import BOTH, Sizes

Form = Callable[..., list[Tensor]]
MOST_BETWEEN = 1 << 25  # elements that a form may hold between two products


@dataclass(frozen=True)
class Operation:
    """`squares` is `reference` with its constants squared; `equations` those of `torch.einsum`,
    each with the places of its operands, after which `finish` takes the list of results."""

    shapes: list[tuple[int, ...]]
    outputs: list[tuple[int, ...]]
    ours: Form
    forms: dict[str, Form]
    reference: Form
    squares: Form
    equations: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    finish: Callable[[list[Tensor]], list[Tensor]] = lambda results: results


def operation(kind: str, sizes: Sizes) -> Operation:
    base = kind.removesuffix(BOTH)
    if base.startswith("mttkrp"):
        return _mttkrp(base, sizes)
    return {"mean": _mean, "synthesis": _synthesis, "rotated": _rotated}.get(base, _projection)(
        base, sizes
    )


def _projection(base: str, sizes: Sizes) -> Operation:
    def ours(core: Tensor, *factors: Tensor) -> list[Tensor]:
        return [ntensor.synthesis_projection(core, *factors)]

    def bilinear(core: Tensor, *factors: Tensor) -> list[Tensor]:
        return [ntensor.bilinear(*factors, core)]

    def torch_bilinear(core: Tensor, *factors: Tensor) -> list[Tensor]:
        return [torch.nn.functional.bilinear(*factors, core)]

    def broadcast(core: Tensor, *factors: Tensor) -> list[Tensor]:
        return [khatri_rao(factors) @ core.flatten(1).T]

    def last_first(core: Tensor, *factors: Tensor) -> list[Tensor]:
        return [(_all_but_leading(core, factors) @ factors[0].unsqueeze(2)).squeeze(2)]

    def row_by_row(core: Tensor, *factors: Tensor) -> list[Tensor]:
        rest = khatri_rao(factors[1:])
        rows = [((factors[0] @ row.flatten(1)) * rest).sum(-1) for row in core.unbind(0)]
        return [torch.stack(rows, 1)]

    if base == "bilinear":
        # How a user of torch's own layer fares, who calls nothing else.
        ours, forms = bilinear, {"F.bilinear": torch_bilinear}
    else:
        forms = {"broadcast": broadcast, **_where_it_fits(sizes, last_first, row_by_row)}
    _, equation, places = _projected(sizes)
    return Operation(
        shapes=_core_and_factors(sizes),
        outputs=[(sizes.n, sizes.k_x)],
        ours=ours,
        forms=forms,
        reference=broadcast,
        squares=broadcast,
        equations=[(equation, places)],
    )


def _mean(base: str, sizes: Sizes) -> Operation:
    k_1 = sizes.extents[0]

    def ours(core: Tensor, *factors: Tensor) -> list[Tensor]:
        return list(ntensor.synthesis_projection_with_mean(core, *factors))

    def two_matmuls(core: Tensor, *factors: Tensor) -> list[Tensor]:
        weight = core.flatten(1).T
        return [khatri_rao(factors) @ weight, khatri_rao(without_leading(factors)) @ weight]

    def squares(core: Tensor, *factors: Tensor) -> list[Tensor]:
        output, mean = two_matmuls(core, *factors)
        return [output, mean / k_1]

    def concatenated(core: Tensor, *factors: Tensor) -> list[Tensor]:
        features = torch.cat([khatri_rao(factors), khatri_rao(without_leading(factors))])
        return list((features @ core.flatten(1).T).chunk(2))

    def mean_core(core: Tensor, *factors: Tensor) -> list[Tensor]:
        rest = khatri_rao(factors[1:])
        output = khatri_rao((factors[0], rest)) @ core.flatten(1).T
        return [output, rest @ core.flatten(2).mean(1).T]

    def last_first(core: Tensor, *factors: Tensor) -> list[Tensor]:
        left = _all_but_leading(core, factors)
        return [(left @ factors[0].unsqueeze(2)).squeeze(2), left.mean(2)]

    def row_by_row(core: Tensor, *factors: Tensor) -> list[Tensor]:
        rest = khatri_rao(factors[1:]).T
        left = [row.flatten(1) @ rest for row in core.unbind(0)]
        outputs = [(factors[0].T * each).sum(0) for each in left]
        return [torch.stack(outputs, 1), torch.stack([each.mean(0) for each in left], 1)]

    letters, equation, places = _projected(sizes)
    others = ",".join("n" + letter for letter in letters[1:])
    return Operation(
        shapes=_core_and_factors(sizes),
        outputs=[(sizes.n, sizes.k_x)] * 2,
        ours=ours,
        forms={
            "two matmuls": two_matmuls,
            "one concatenated matmul": concatenated,
            "matmul + mean core": mean_core,
            **_where_it_fits(sizes, last_first, row_by_row),
        },
        reference=two_matmuls,
        squares=squares,
        equations=[(equation, places), (f"x{letters},{others}->nx", (0, *places[2:]))],
        finish=lambda results: [results[0], results[1] / k_1],
    )


def _core_and_factors(sizes: Sizes) -> list[tuple[int, ...]]:
    return [(sizes.k_x, *sizes.extents), *((sizes.n, k) for k in sizes.extents)]


def _projected(sizes: Sizes) -> tuple[str, str, tuple[int, ...]]:
    letters = "abcd"[: len(sizes.extents)]
    factors = ",".join("n" + letter for letter in letters)
    return letters, f"x{letters},{factors}->nx", tuple(range(len(letters) + 1))


def _all_but_leading(core: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """`(n, k_x, k_1)`: the last factor by one product for all rows, then one after the other."""
    n, (k_x, k_1) = len(factors[0]), core.shape[:2]
    left = factors[-1] @ core.reshape(-1, core.shape[-1]).T
    for z in factors[-2:0:-1]:
        left = (left.view(n, -1, z.shape[1]) @ z.unsqueeze(2)).squeeze(2)
    return left.view(n, k_x, k_1)


def _where_it_fits(sizes: Sizes, last_first: Form, row_by_row: Form) -> dict[str, Form]:
    forms = {}
    if sizes.n * sizes.k_x * math.prod(sizes.extents[:-1]) <= MOST_BETWEEN:
        forms["last first"] = last_first
    if sizes.k_x <= 4:
        forms["row by row"] = row_by_row
    return forms


def _synthesis(base: str, sizes: Sizes) -> Operation:
    def ours(*factors: Tensor) -> list[Tensor]:
        return [ntensor.synthesis(*factors)]

    def broadcast(*factors: Tensor) -> list[Tensor]:
        return [khatri_rao(factors)]

    def bmm(*factors: Tensor) -> list[Tensor]:
        y = factors[0]
        for z in factors[1:]:
            y = torch.bmm(y.unsqueeze(2), z.unsqueeze(1)).flatten(1)
        return [y]

    letters = "abcd"[: len(sizes.extents)]
    factors = ",".join("n" + letter for letter in letters)
    return Operation(
        shapes=[(sizes.n, k) for k in sizes.extents],
        outputs=[(sizes.n, math.prod(sizes.extents))],
        ours=ours,
        forms={"broadcast": broadcast, "bmm": bmm},
        reference=broadcast,
        squares=broadcast,
        equations=[(f"{factors}->n{letters}", tuple(range(len(letters))))],
        finish=lambda results: [results[0].flatten(1)],
    )


def _rotated(base: str, sizes: Sizes) -> Operation:
    row = sizes.layout == "row"

    def ours(z_exp: Tensor, z_id: Tensor, R: Tensor) -> list[Tensor]:
        return [ntensor.rotated_synthesis(z_exp, z_id, R, sizes.layout)]

    def rotate(y: Tensor, R: Tensor) -> Tensor:
        y = y.unflatten(1, (3, -1) if row else (-1, 3))
        return (torch.bmm(R, y) if row else torch.bmm(y, R.mT)).flatten(1)

    def matmul(z_exp: Tensor, z_id: Tensor, R: Tensor) -> list[Tensor]:
        return [rotate(khatri_rao((z_exp, z_id)), R)]

    def three_products(z_exp: Tensor, z_id: Tensor, R: Tensor) -> list[Tensor]:
        y = khatri_rao((z_exp, z_id)).unflatten(1, (3, -1) if row else (-1, 3))
        if row:
            terms = [R[:, :, b, None] * y[:, b, None, :] for b in range(3)]
        else:
            terms = [y[:, :, b, None] * R[:, None, :, b] for b in range(3)]
        return [(terms[0] + terms[1] + terms[2]).flatten(1)]

    def rotate_z_exp(z_exp: Tensor, z_id: Tensor, R: Tensor) -> list[Tensor]:
        return [khatri_rao((rotate(z_exp, R), z_id))]

    def rotate_z_id(z_exp: Tensor, z_id: Tensor, R: Tensor) -> list[Tensor]:
        return [khatri_rao((z_exp, rotate(z_id, R)))]

    k_exp, k_id = sizes.extents
    forms = {"matmul": matmul, "three products": three_products}
    if row and k_exp % 3 == 0:
        forms["rotate z_exp"] = rotate_z_exp
    if not row and k_id % 3 == 0:
        forms["rotate z_id"] = rotate_z_id
    return Operation(
        shapes=[(sizes.n, k_exp), (sizes.n, k_id), (sizes.n, 3, 3)],
        outputs=[(sizes.n, k_exp * k_id)],
        ours=ours,
        forms=forms,
        reference=matmul,
        squares=matmul,
    )


def _mttkrp(base: str, sizes: Sizes) -> Operation:
    order = len(sizes.extents)
    modes = range(order) if base.endswith("all") else (sizes.mode,)
    weighted = base.endswith("weights")

    def ours(tensor: Tensor, *rest: Tensor) -> list[Tensor]:
        if base.endswith("all"):
            return ntensor.mttkrp_all(tensor, rest)
        weights = rest[order] if weighted else None
        return [ntensor.mttkrp(tensor, rest[:order], sizes.mode, weights)]

    def each_mode(form: Callable[[Tensor, Sequence[Tensor], int], Tensor]) -> Form:
        def call(tensor: Tensor, *rest: Tensor) -> list[Tensor]:
            found = [form(tensor, rest[:order], mode) for mode in modes]
            return [each * rest[order] for each in found] if weighted else found

        return call

    def unfolding(tensor: Tensor, factors: Sequence[Tensor], mode: int) -> Tensor:
        product = khatri_rao((*factors[:mode], *factors[mode + 1 :]), columns=True)
        return tensor.movedim(mode, 0).reshape(tensor.shape[mode], -1) @ product

    forms = {"unfolding": each_mode(unfolding)}
    if sizes.n * math.prod(sizes.extents) // min(sizes.extents[0], sizes.extents[-1]) <= (
        MOST_BETWEEN
    ):
        forms["last first"] = each_mode(_last_mode_first)
    letters = "abcd"[:order]
    equations = []
    for mode in modes:
        others = [place for place in range(order) if place != mode]
        operands = ",".join([letters, *(letters[place] + "r" for place in others)])
        places = (0, *(1 + place for place in others))
        if weighted:
            operands, places = f"{operands},r", (*places, 1 + order)
        equations.append((f"{operands}->{letters[mode]}r", places))
    return Operation(
        shapes=[
            sizes.extents,
            *((extent, sizes.n) for extent in sizes.extents),
            *([(sizes.n,)] if weighted else []),
        ],
        outputs=[(sizes.extents[mode], sizes.n) for mode in modes],
        ours=ours,
        forms=forms,
        reference=each_mode(unfolding),
        squares=each_mode(unfolding),
        equations=equations,
    )


def _last_mode_first(tensor: Tensor, factors: Sequence[Tensor], mode: int) -> Tensor:
    """The last mode (the first where it is the one that stays) by one product, then the others."""
    shape, rank = tensor.shape, factors[0].shape[1]

    def without_first(left: Tensor, factor: Tensor) -> Tensor:
        return (left * factor.view(-1, *(1,) * (left.dim() - 2), rank)).sum(0)

    if mode == tensor.dim() - 1:
        left = (tensor.view(shape[0], -1).T @ factors[0]).view(*shape[1:], rank)
        for factor in factors[1:-1]:
            left = without_first(left, factor)
        return left
    left = (tensor.view(-1, shape[-1]) @ factors[-1]).view(*shape[:-1], rank)
    for place in range(tensor.dim() - 2, mode, -1):
        left = (left * factors[place]).sum(-2)
    for factor in factors[:mode]:
        left = without_first(left, factor)
    return left
