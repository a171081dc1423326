"""A projection of operands as they lie, as one node of autograd.

Views of the operands would be nodes of their own, which cost a small call half its time again.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ntensor.backends._torch import is_transformed

from . import derivatives
from .dispatch import plain
from .projection import PROJECTION_FACTOR_GRADS, SYNTHESIS_PROJECTION
from .saved import save, unpack

# Of a matrix that lies by columns, the multiply-adds of each element from which on its rows are
# copied first: a kernel gathers them several times. And the elements, for the call.
LEAST_WORK, LEAST_COPIED = 1 << 10, 1 << 12


class Arrangement:
    """How a core and matrices become the tensors of an operation.

    Args:
        order: of the core's modes in memory; None: it is contiguous.
        columns: of each matrix, whether it is `(k_m, n)`; else it is `(n, k_m)`.
        mode: of the core as it is given, which the result keeps.
    """

    def __init__(self, order: tuple[int, ...] | None, columns: tuple[bool, ...], mode: int) -> None:
        self.order, self.columns = order, columns
        modes = tuple(range(len(columns) + 1)) if order is None else order
        self.back = [modes.index(place) for place in range(len(modes))]
        # Of the matrices, in the order of memory, and of the output there.
        self.places = [place - (place > mode) for place in modes if place != mode]
        self.mode = self.back[mode]
        self.operation = SYNTHESIS_PROJECTION
        self.statics: tuple[Any, ...] = (None,)
        if self.mode:
            wanted = [place == self.mode - 1 for place in range(len(columns))]
            self.operation, self.statics = PROJECTION_FACTOR_GRADS, (wanted, None)

    def tensors(self, given: Sequence[Any]) -> list[Any]:
        """Those of the operation; None for the factor whose gradient is the result."""
        core = given[0]
        if self.order is not None:
            core = core.permute(self.order)
            if not core.is_contiguous():
                core = core.contiguous()
        matrices = [
            by_rows(given[1 + place], core) if self.columns[place] else given[1 + place]
            for place in self.places
        ]
        return self._in_slots(core, matrices, None)

    def needs(self, needs: Sequence[bool]) -> list[bool]:
        return self._in_slots(needs[0], [needs[1 + place] for place in self.places], False)

    def gradients(self, found: Sequence[Any]) -> list[Any]:
        """Those of the operation's tensors, as the operands lie."""
        core, *matrices = found
        if self.mode:
            matrices = [matrices[0], *matrices[2 : 1 + self.mode], *matrices[2 + self.mode :]]
        if core is not None and self.order is not None:
            core = core.permute(self.back)
        gradients = [core, *matrices]
        for place, matrix in zip(self.places, matrices, strict=True):
            turned = matrix is not None and self.columns[place]
            gradients[1 + place] = matrix.T if turned else matrix
        return gradients

    def _in_slots(self, core: Any, matrices: Sequence[Any], absent: Any) -> list[Any]:
        if not self.mode:
            return [core, *matrices]
        before, behind = matrices[1 : self.mode], matrices[self.mode :]
        return [core, matrices[0], absent, *before, absent, *behind]


def by_rows(matrix: Tensor, core: Tensor) -> Tensor:
    """`(k_m, n)` as `(n, k_m)`."""
    rows, extent = matrix.T, matrix.shape[0]
    copied = matrix.numel() >= LEAST_COPIED and core.numel() >= LEAST_WORK * extent
    return rows.contiguous() if copied else rows


class _Given:
    """The operands of a node, by the names that an error calls them."""

    name = "einsum"
    shared: Sequence[int] = ()

    @staticmethod
    def argument(place: int) -> str:
        return f"matrices[{place - 1}]" if place else "core"


class Arranged(torch.autograd.Function):
    """`(n, k_x)` of a core and matrices as they are given, by an `Arrangement`."""

    @staticmethod
    def forward(ctx: Any, arrangement: Arrangement, *given: Tensor) -> Any:
        ctx.arrangement = arrangement
        save(ctx, given)
        operation, statics = arrangement.operation, arrangement.statics
        tensors = arrangement.tensors(given)
        assert operation.direct is not None
        found = operation.direct(tensors, *statics[:-1])
        if found is None:
            found = operation.without_autograd(_filled(arrangement, tensors), statics)
        return found

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor | None) -> Any:  # type: ignore[override]
        arrangement: Arrangement = ctx.arrangement
        if cotangent is None:
            return (None,) * len(ctx.needs_input_grad)
        operation, statics = arrangement.operation, arrangement.statics
        tensors = arrangement.tensors(unpack(_Given(), ctx))
        if cotangent.stride(1) != 1:
            cotangent = by_rows(cotangent.T, tensors[0])
        needs = arrangement.needs(ctx.needs_input_grad[1:])
        found = None
        if not torch.is_grad_enabled():
            assert operation.at_once is not None
            found = operation.at_once(tensors, [cotangent], needs, *statics)
        if found is None:
            tensors = _filled(arrangement, tensors)
            found = derivatives.backward(operation, tensors, statics, needs, [cotangent])
        return (None, *arrangement.gradients(found))


def arranged(given: Sequence[Tensor], columns: tuple[bool, ...], mode: int) -> Tensor | None:
    """`(n, k_x)` of operands that fit each other, with derivatives. None where somebody would see
    views of them (a mode, a transform, autocast), or where the core is not dense.

    Args:
        given: the core, and a matrix for each of its modes but `mode`.
        columns: as of `Arrangement`.
    """
    if is_transformed() or not plain(given):
        return None
    order = None
    if not given[0].is_contiguous():
        order = memory_order(tuple(given[0].shape), given[0].stride())
        if order is None:
            return None
    result: Tensor = Arranged.apply(_arrangement(order, columns, mode), *given)
    return result


_arrangement = functools.lru_cache(maxsize=1024)(Arrangement)


@functools.lru_cache(maxsize=1024)
def memory_order(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...] | None:
    """Of the modes of a tensor; None where it is not dense."""
    order = sorted(range(len(shape)), key=lambda place: (-strides[place], shape[place] != 1))
    step = 1
    for place in reversed(order):
        if shape[place] != 1:
            if strides[place] != step:
                return None
            step *= shape[place]
    return tuple(order)


def _filled(arrangement: Arrangement, tensors: list[Any]) -> list[Any]:
    """With numbers, which nobody reads, for the factor whose gradient is the result."""
    if arrangement.mode:
        like = tensors[1]
        shape = like.shape[0], tensors[0].shape[arrangement.mode]
        tensors[2 + arrangement.mode] = like.new_zeros(()).expand(shape)
    return tensors
