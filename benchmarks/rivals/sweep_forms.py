"""Each operation of `sweep.py` with its plain forms of torch.

A form takes the operands of its operation and returns its results.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

import ntensor
from harness.cases import plain_equation
from harness.problem import khatri_rao
from harness.sizes import BOTH, SPELLED, Sizes
from rivals import forms
from rivals.layouts import torch_einsum

Form = Callable[..., Sequence[Tensor]]
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
    if base in SPELLED:
        return _spelled(base, sizes)
    others = {"mean": _mean, "synthesis": _synthesis, "rotated": _rotated, "grouped": _grouped}
    return others.get(base, _projection)(base, sizes)


def _projection(base: str, sizes: Sizes) -> Operation:
    def ours(core: Tensor, *factors: Tensor) -> list[Tensor]:
        return [ntensor.synthesis_projection(core, *factors)]

    def bilinear(core: Tensor, *factors: Tensor) -> list[Tensor]:
        return [ntensor.bilinear(*factors, core)]

    if base == "bilinear":
        # How a user of torch's own layer fares, who calls nothing else.
        ours, plain = bilinear, {"F.bilinear": forms.torch_bilinear}
    else:
        plain = {"broadcast": forms.broadcast, **_where_it_fits(sizes)}
    order = len(sizes.extents)
    return Operation(
        shapes=_core_and_factors(sizes),
        outputs=[(sizes.n, sizes.k_x)],
        ours=ours,
        forms=plain,
        reference=forms.broadcast,
        squares=forms.broadcast,
        equations=[(plain_equation(order), tuple(range(order + 1)))],
    )


def _mean(base: str, sizes: Sizes) -> Operation:
    k_1 = sizes.extents[0]

    def ours(core: Tensor, *factors: Tensor) -> Sequence[Tensor]:
        return ntensor.synthesis_projection_with_mean(core, *factors)

    def squares(core: Tensor, *factors: Tensor) -> list[Tensor]:
        output, mean = forms.two_matmuls(core, *factors)
        return [output, mean / k_1]

    order = len(sizes.extents)
    equation = plain_equation(order)
    core, _leading, *others = equation.partition("->")[0].split(",")
    return Operation(
        shapes=_core_and_factors(sizes),
        outputs=[(sizes.n, sizes.k_x)] * 2,
        ours=ours,
        forms={**forms.MEAN_FORMS, **_where_it_fits(sizes, mean=True)},
        reference=forms.two_matmuls,
        squares=squares,
        equations=[
            (equation, tuple(range(order + 1))),
            (f"{','.join([core, *others])}->nx", (0, *range(2, order + 1))),
        ],
        finish=lambda results: [results[0], results[1] / k_1],
    )


def _core_and_factors(sizes: Sizes) -> list[tuple[int, ...]]:
    return [(sizes.k_x, *sizes.extents), *((sizes.n, k) for k in sizes.extents)]


def _where_it_fits(sizes: Sizes, mean: bool = False) -> dict[str, Form]:
    found: dict[str, Form] = {}
    if sizes.n * sizes.k_x * math.prod(sizes.extents[:-1]) <= MOST_BETWEEN:
        found["last first"] = lambda *given: forms.last_first(*given, mean=mean)
    if sizes.k_x <= 4:
        found["row by row"] = lambda *given: forms.row_by_row(*given, mean=mean)
    return found


def _grouped(base: str, sizes: Sizes) -> Operation:
    """Several cores at once: the forms of one core in a loop, by vmap, and written for groups."""
    alone, groups = _projection("", sizes), sizes.groups
    plain = alone.forms | (_projection("bilinear", sizes).forms if sizes.is_bilinear else {})
    equation = _with_groups(alone.equations[0][0])
    labels = dict(zip("gnx", (groups, sizes.n, sizes.k_x), strict=True))
    extents = labels | dict(zip(equation.partition(",")[0][2:], sizes.extents, strict=True))

    def in_a_loop(form: Form) -> Form:
        def call(*tensors: Tensor) -> list[Tensor]:
            each = zip(*(tensor.unbind(0) for tensor in tensors), strict=True)
            return [torch.stack([form(*given)[0] for given in each])]

        return call

    def by_vmap(*tensors: Tensor) -> Sequence[Tensor]:
        return torch.func.vmap(forms.broadcast)(*tensors)

    found: dict[str, Form] = {"bmm": forms.grouped_broadcast, "vmap": by_vmap}
    if groups * sizes.n * sizes.k_x * math.prod(sizes.extents[:-1]) <= MOST_BETWEEN:
        found["last first"] = forms.grouped_last_first
    if "row by row" in plain:
        found["row by row"] = forms.grouped_row_by_row
    if _left_to_right(equation, extents) <= MOST_BETWEEN:
        found["einsum, left to right"] = _by(torch_einsum(optimised=False), equation)
    found |= {f"loop, {name}": in_a_loop(form) for name, form in plain.items()}
    return replace(
        alone,
        shapes=[(groups, *shape) for shape in alone.shapes],
        outputs=[(groups, *shape) for shape in alone.outputs],
        forms=found,
        reference=forms.grouped_broadcast,
        squares=forms.grouped_broadcast,
        equations=[(equation, alone.equations[0][1])],
    )


def _with_groups(equation: str) -> str:
    operands, _, output = equation.partition("->")
    return f"{','.join('g' + term for term in operands.split(','))}->g{output}"


def _spelled(base: str, sizes: Sizes) -> Operation:
    """A projection whose operands and output are stored as the labels of `sizes.layout` say.

    "einsum": `ntensor.einsum` of that equation. "permuted": `bilinear`, or `einsum` of more
    factors, of a core permuted to the library's order of modes. The plain forms get views too.
    """
    plain, bilinear = _projection("", sizes), _projection("bilinear", sizes)
    rivals = {**plain.forms, **(bilinear.forms if sizes.is_bilinear else {})}
    operands, _, output = sizes.layout.partition("->")
    terms = operands.split(",")
    named = plain_equation(len(sizes.extents))
    plain_operands, _, plain_output = named.partition("->")
    plain_terms = plain_operands.split(",")
    places = [[set(term) for term in terms].index(set(term)) for term in plain_terms]

    def form_of(form: Form) -> Form:
        def call(*values: Tensor) -> list[Tensor]:
            views = [
                values[place].permute([terms[place].index(label) for label in term])
                for place, term in zip(places, plain_terms, strict=True)
            ]
            (found,) = form(*views)
            return [found.permute([plain_output.index(label) for label in output])]

        return call

    labels = ("n", *plain_terms[0])
    extents = dict(zip(labels, (sizes.n, sizes.k_x, *sizes.extents), strict=True))
    found = {name: form_of(form) for name, form in rivals.items()}
    if _left_to_right(sizes.layout, extents) <= MOST_BETWEEN:
        found["einsum, left to right"] = _by(torch_einsum(optimised=False), sizes.layout)
    ours = _by(ntensor.einsum, sizes.layout)
    if base == "permuted":
        ours = form_of(bilinear.ours if sizes.is_bilinear else _by(ntensor.einsum, named))
    return replace(
        plain,
        shapes=[tuple(extents[label] for label in term) for term in terms],
        outputs=[tuple(extents[label] for label in output)],
        ours=ours,
        forms=found,
        reference=form_of(plain.reference),
        squares=form_of(plain.squares),
        equations=[(sizes.layout, tuple(range(len(terms))))],
    )


def _by(einsum: Callable[..., Tensor], equation: str) -> Form:
    return lambda *values: [einsum(equation, *values)]


def _left_to_right(equation: str, extents: dict[str, int]) -> int:
    """Elements of the largest array between two products of `torch.einsum` by itself."""
    operands, _, output = equation.partition("->")
    first, *terms = operands.split(",")
    kept, most = set(first), 0
    for number, term in enumerate(terms, 1):
        kept = (kept | set(term)) & (set(output) | set("".join(terms[number:])))
        most = max(most, math.prod(extents[label] for label in kept))
    return most


def _synthesis(base: str, sizes: Sizes) -> Operation:
    def ours(*factors: Tensor) -> list[Tensor]:
        return [ntensor.synthesis(*factors)]

    def broadcast(*factors: Tensor) -> list[Tensor]:
        return [khatri_rao(factors)]

    order = len(sizes.extents)
    core, _, factors = plain_equation(order).partition("->")[0].partition(",")
    return Operation(
        shapes=[(sizes.n, k) for k in sizes.extents],
        outputs=[(sizes.n, math.prod(sizes.extents))],
        ours=ours,
        forms={"broadcast": broadcast, "bmm": lambda *z: [forms.synthesis_by_bmm(*z)]},
        reference=broadcast,
        squares=broadcast,
        equations=[(f"{factors}->n{core[1:]}", tuple(range(order)))],
        finish=lambda results: [results[0].flatten(1)],
    )


def _rotated(base: str, sizes: Sizes) -> Operation:
    k_exp, k_id = sizes.extents
    layout = sizes.layout

    def ours(z_exp: Tensor, z_id: Tensor, R: Tensor) -> list[Tensor]:
        return [ntensor.rotated_synthesis(z_exp, z_id, R, layout)]

    def rotated(name: str) -> Form:
        rotate = forms.ROTATIONS[name]
        return lambda z_exp, z_id, R: [rotate(khatri_rao((z_exp, z_id)), R, layout)]

    plain = {name: rotated(name) for name in ("matmul", "three products")}
    if layout == "row" and k_exp % 3 == 0:
        plain["rotate z_exp"] = lambda *given: [forms.rotate_z_exp(*given)]
    if layout == "column" and k_id % 3 == 0:
        plain["rotate z_id"] = lambda *given: [forms.rotate_z_id(*given)]
    return Operation(
        shapes=[(sizes.n, k_exp), (sizes.n, k_id), (sizes.n, 3, 3)],
        outputs=[(sizes.n, k_exp * k_id)],
        ours=ours,
        forms=plain,
        reference=plain["matmul"],
        squares=plain["matmul"],
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

    plain = {"unfolding": each_mode(unfolding)}
    if sizes.n * math.prod(sizes.extents) // min(sizes.extents[0], sizes.extents[-1]) <= (
        MOST_BETWEEN
    ):
        plain["last first"] = each_mode(_last_mode_first)
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
        forms=plain,
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
