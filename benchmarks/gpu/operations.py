"""Every public operation at a few telling sizes, beside what it means: an einsum in float64.

The definitions and their gradients use nothing of the library: `torch.einsum` on the CPU, and
torch's autograd through it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

import ntensor

LETTERS = "abcdefgh"


class Operand(NamedTuple):
    """A tensor of normal numbers times `scale`; `layout` is one of `LAYOUTS`."""

    shape: tuple[int, ...]
    layout: str = "contiguous"
    scale: float = 1.0


class Call(NamedTuple):
    """A call of a public operation.

    `function(*operands)` and `definition(*operands)` give a tensor or several. `registered` is the
    operation of the namespace that a backend is asked for. `accumulates`: the gradient of the first
    operand is added to its `.grad`.
    """

    operation: str
    case: str
    registered: str
    function: Callable[..., Any]
    definition: Callable[..., Any]
    operands: tuple[Operand, ...]
    accumulates: bool = False

    @property
    def elements(self) -> int:
        return sum(math.prod(operand.shape) for operand in self.operands)


class Sizes(NamedTuple):
    """Of a projection; `layout` is that of the factors, `core` that of the core."""

    n: int
    k_x: int
    factors: tuple[int, ...]
    layout: str = "contiguous"
    core: str = "contiguous"

    def __str__(self) -> str:
        layouts = "".join(f" {each}" for each in self[3:] if each != "contiguous")
        return f"n={self.n} k_x={self.k_x} {'x'.join(map(str, self.factors))}{layouts}"


# The paper's factors; no tile divides anything; one sample; one output; a last extent of 1; every
# tile is full; strides; an address that no vector is aligned to; one factor; many samples.
PROJECTIONS = (
    Sizes(65, 130, (9, 15, 80)),
    Sizes(5, 33, (3, 5, 7)),
    Sizes(1, 70, (2, 17, 33)),
    Sizes(65, 1, (15, 80)),
    Sizes(17, 40, (7, 6, 1)),
    Sizes(64, 128, (8, 64)),
    Sizes(65, 36, (3, 17, 5), "transposed"),
    Sizes(9, 40, (2, 33, 32), "stepped", "offset"),
    Sizes(70, 65, (40,)),
    Sizes(513, 64, (4, 6, 9)),
)
FEATURES = (((65, (9, 15)), "contiguous"), ((1, (3, 5, 7)), "stepped"), ((70, (16, 1)), "offset"))
# n, k_exp, k_id.
ROTATIONS = ((65, 15, 80), (1, 3, 1), (70, 6, 7))
# Extents and rank.
TENSORS = (((33, 20, 65), 17), ((5, 1, 7), 1), ((9, 8, 6, 11), 65))
GROUPS = ((3, 65, 40, (5, 12)), (4, 1, 33, (9, 1)), (2, 17, 1, (3, 4, 6)))


def calls() -> Iterator[Call]:
    """All of them, operation by operation."""
    yield from _features()
    yield from _projections()
    yield from _bilinear()
    yield from _grouped()
    yield from _mttkrp()
    yield from _rotations()
    yield from _contractions()


def _factors(n: int, sizes: Sequence[int], layout: str = "contiguous") -> tuple[Operand, ...]:
    return tuple(Operand((n, k), layout) for k in sizes)


def _core(k_x: int, sizes: Sequence[int], layout: str = "contiguous") -> Operand:
    return Operand((k_x, *sizes), layout, 1 / math.sqrt(math.prod(sizes)))


def _modes(count: int) -> str:
    return LETTERS[:count]


def _synthesis(*z: Tensor) -> Tensor:
    modes = _modes(len(z))
    return torch.einsum(f"{','.join('n' + m for m in modes)}->n{modes}", *z).flatten(1)


def _projection(core: Tensor, *z: Tensor) -> Tensor:
    modes = _modes(len(z))
    return torch.einsum(f"{','.join('n' + m for m in modes)},x{modes}->nx", *z, core)


def _with_mean(core: Tensor, leading: Tensor, *z: Tensor) -> tuple[Tensor, Tensor]:
    constant = torch.full_like(leading, 1 / leading.shape[1])
    return _projection(core, leading, *z), _projection(core, constant, *z)


def _features() -> Iterator[Call]:
    for (n, sizes), layout in FEATURES:
        yield Call(
            "synthesis",
            f"n={n} {'x'.join(map(str, sizes))} {layout}",
            "synthesis",
            ntensor.synthesis,
            _synthesis,
            _factors(n, sizes, layout),
        )


def _projections() -> Iterator[Call]:
    for name, definition in (
        ("synthesis_projection", _projection),
        ("synthesis_projection_with_mean", _with_mean),
    ):
        for sizes in PROJECTIONS:
            operands = (
                _core(sizes.k_x, sizes.factors, sizes.core),
                *_factors(sizes.n, sizes.factors, sizes.layout),
            )
            yield Call(name, str(sizes), name, getattr(ntensor, name), definition, operands)

    def accumulated(*operands: Tensor) -> Tensor:
        return ntensor.synthesis_projection(*operands, accumulate_core_grad=True)

    for sizes in PROJECTIONS[:2]:
        operands = (_core(sizes.k_x, sizes.factors), *_factors(sizes.n, sizes.factors))
        yield Call(
            "accumulate_core_grad",
            str(sizes),
            "synthesis_projection",
            accumulated,
            _projection,
            operands,
            accumulates=True,
        )


def _bilinear() -> Iterator[Call]:
    for leading, k_x, sizes in (((5, 13), 33, (15, 40)), ((1,), 1, (64, 64)), ((2, 9), 7, (6, 1))):

        def definition(x1: Tensor, x2: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return torch.einsum("...i,...j,oij->...o", x1, x2, weight) + bias

        operands = (
            *(Operand((*leading, k)) for k in sizes),
            _core(k_x, sizes),
            Operand((k_x,)),
        )
        case = f"{'x'.join(map(str, leading))} k_x={k_x} {sizes[0]}x{sizes[1]}"
        yield Call("bilinear", case, "synthesis_projection", ntensor.bilinear, definition, operands)


def _grouped() -> Iterator[Call]:
    for groups, n, k_x, sizes in GROUPS:
        modes = _modes(len(sizes))
        equation = f"{','.join('Gn' + m for m in modes)},Gx{modes}->Gnx"

        def definition(core: Tensor, *z: Tensor, equation: str = equation) -> Tensor:
            return torch.einsum(equation, *z, core)

        scale = 1 / math.sqrt(math.prod(sizes))
        operands = (
            Operand((groups, k_x, *sizes), scale=scale),
            *(Operand((groups, n, k)) for k in sizes),
        )
        yield Call(
            "grouped projection",
            f"groups={groups} {Sizes(n, k_x, sizes)}",
            "grouped_projection",
            ntensor.synthesis_projection,
            definition,
            operands,
        )


def _mttkrp_of(tensor: Tensor, factors: Sequence[Tensor | None], mode: int) -> Tensor:
    modes = _modes(tensor.ndim)
    others = [m for m in range(tensor.ndim) if m != mode]
    equation = f"{','.join(modes[m] + 'r' for m in others)},{modes}->{modes[mode]}r"
    return torch.einsum(equation, *(factors[m] for m in others), tensor)


def _at_mode(function: Callable[..., Any], mode: int) -> Callable[..., Any]:
    """`function(tensor, factors, mode)` of the tensor and the factors of the other modes."""

    def call(tensor: Tensor, *others: Tensor) -> Any:
        return function(tensor, [*others[:mode], None, *others[mode:]], mode)

    return call


def _mttkrp() -> Iterator[Call]:
    for sizes, rank in TENSORS:
        shown = f"{'x'.join(map(str, sizes))} rank {rank}"
        tensor = Operand(sizes, scale=1 / math.sqrt(math.prod(sizes)))
        factors = tuple(Operand((k, rank)) for k in sizes)
        for mode in range(len(sizes)):
            others = factors[:mode] + factors[mode + 1 :]
            yield Call(
                "mttkrp",
                f"{shown} mode {mode}",
                "synthesis_projection",
                _at_mode(ntensor.mttkrp, mode),
                _at_mode(_mttkrp_of, mode),
                (tensor, *others),
            )

        def definitions(tensor: Tensor, *factors: Tensor) -> list[Tensor]:
            return [_mttkrp_of(tensor, factors, mode) for mode in range(tensor.ndim)]

        def all_modes(tensor: Tensor, *factors: Tensor) -> list[Tensor]:
            return ntensor.mttkrp_all(tensor, factors)

        yield Call(
            "mttkrp_all",
            shown,
            "synthesis_projection",
            all_modes,
            definitions,
            (tensor, *factors),
        )


def _rotation(y: Tensor, R: Tensor, layout: str) -> Tensor:
    """Element `(a, j)` of the matrix `(3, K/3)` is `y[3j + a]`; in rows it is `y[a K/3 + j]`."""
    n, K = y.shape
    if layout == "column":
        return torch.einsum("nab,njb->nja", R, y.reshape(n, K // 3, 3)).flatten(1)
    return torch.einsum("nab,nbj->naj", R, y.reshape(n, 3, K // 3)).flatten(1)


def _rotations() -> Iterator[Call]:
    for layout in ("column", "row"):
        for n, k_exp, k_id in ROTATIONS:

            def rotated(z_exp: Tensor, z_id: Tensor, R: Tensor, layout: str = layout) -> Tensor:
                return ntensor.rotated_synthesis(z_exp, z_id, R, layout=layout)

            def rotated_definition(
                z_exp: Tensor, z_id: Tensor, R: Tensor, layout: str = layout
            ) -> Tensor:
                return _rotation(_synthesis(z_exp, z_id), R, layout)

            def rotation(y: Tensor, R: Tensor, layout: str = layout) -> Tensor:
                return ntensor.rotation(y, R, layout=layout)

            def rotation_definition(y: Tensor, R: Tensor, layout: str = layout) -> Tensor:
                return _rotation(y, R, layout)

            R, case = Operand((n, 3, 3)), f"{layout} n={n} {k_exp}x{k_id}"
            yield Call(
                "rotation",
                case,
                "rotation",
                rotation,
                rotation_definition,
                (Operand((n, k_exp * k_id)), R),
            )
            yield Call(
                "rotated_synthesis",
                case,
                "rotated_synthesis",
                rotated,
                rotated_definition,
                (Operand((n, k_exp)), Operand((n, k_id)), R),
            )


def _contractions() -> Iterator[Call]:
    for mode in (1, 3):

        def contract(core: Tensor, z: Tensor, mode: int = mode) -> Tensor:
            return ntensor.contract(core, z, mode)

        def contracted(core: Tensor, z: Tensor, mode: int = mode) -> Tensor:
            modes, taken = _modes(3), _modes(3)[mode - 1]
            return torch.einsum(f"x{modes},{taken}->x{modes.replace(taken, '')}", core, z)

        sizes = (9, 15, 20)
        yield Call(
            "contract",
            f"mode {mode}",
            "synthesis_projection",
            contract,
            contracted,
            (_core(33, sizes), Operand((sizes[mode - 1],))),
        )
    for equation, shapes in (
        ("bi,bj,ijo->bo", ((65, 15), (65, 20), (15, 20, 33))),
        ("bi,bj,ij->b", ((17, 15), (17, 20), (15, 20))),
        ("ir,jr,kr->ijk", ((33, 17), (9, 17), (20, 17))),
    ):

        def einsum(*operands: Tensor, equation: str = equation) -> Tensor:
            return ntensor.einsum(equation, *operands)

        def definition(*operands: Tensor, equation: str = equation) -> Tensor:
            return torch.einsum(equation, *operands)

        yield Call(
            "einsum",
            equation,
            "synthesis_projection",
            einsum,
            definition,
            tuple(Operand(shape, scale=0.25) for shape in shapes),
        )
