"""Multilinear forms, and the one formula from which all derivatives of the operations follow.

Every operation is a partial derivative of a *form*: a scalar that is linear in each of its slots.
For the projection the form is

    s(core, G, G_mean, z_1, ..., z_M) = <G, x> + <G_mean, x_mean>

so that `x = ds/dG`, the core's gradient is `ds/dcore`, and a factor's is `ds/dz_m`. The derivative
of `ds/da` in direction `v` of a slot `b` is again `ds/da`, with `v` in the place of `b`; and since
second derivatives are symmetric, one function (`directional`) is the backward, the forward mode and
every higher derivative of the whole family. A form adds `partials`, which calls the operations
themselves.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

Slots = list[Tensor | None]


class Form:
    """A multilinear form: its slots are the tensors `heads`, then any number of factors.

    Attributes:
        heads: names of the leading slots.
        shared: slots that have no batch dimension; operations take them contiguous.
        joint: slots that enter additively, and so are replaced together.
        uneven: labels of axes that may be split in unequal parts.
    """

    heads: ClassVar[tuple[str, ...]]
    shared: ClassVar[tuple[int, ...]] = ()
    joint: ClassVar[tuple[int, ...]] = ()
    uneven: ClassVar[tuple[Hashable, ...]] = ("n",)

    def axes(self, slot: int, factors: int) -> tuple[Hashable | None, ...]:
        """A label for each axis of a slot's tensor, where there are `factors` factors.

        The form is a sum over all values of the labels, and along each of them it is the sum of
        what it is for parts of the tensors. None: an axis that cannot be divided so.
        """
        raise NotImplementedError

    def divides(self, label: Hashable, slots: set[int]) -> bool:
        """Whether an axis may be divided where these slots are given or wanted."""
        return True

    def partials(self, values: Slots, wanted: list[bool], options: tuple[Any, ...]) -> Slots:
        """The partial derivative for each wanted slot, None for the others and for a zero.

        A value is None where the slot is not given: it is then itself wanted, or zero.
        """
        raise NotImplementedError

    def replace(self, values: Slots, wanted: list[bool], term: Mapping[int, Tensor | None]) -> None:
        """Puts the tensors of one term in their slots, and takes out what then vanishes."""
        for slot, tensor in term.items():
            values[slot] = tensor
            wanted[slot] = False

    def terms(self, replacements: dict[int, Tensor]) -> Iterator[dict[int, Tensor]]:
        together = {slot: replacements[slot] for slot in self.joint if slot in replacements}
        if together:
            yield together
        for slot, tensor in replacements.items():
            if slot not in together:
                yield {slot: tensor}


def directional(
    form: Form,
    values: Slots,
    replacements: dict[int, Tensor],
    wanted: list[bool],
    options: tuple[Any, ...],
) -> Slots:
    """For each wanted slot `a`: the sum over `b != a` of `ds/da` with slot `b` replaced."""
    totals: Slots | None = None
    for term in form.terms(replacements):
        replaced, remaining = list(values), list(wanted)
        form.replace(replaced, remaining, term)
        if True in remaining:
            parts = form.partials(replaced, remaining, options)
            totals = parts if totals is None else list(map(_sum, totals, parts))
    return [None] * len(values) if totals is None else totals


def _sum(left: Tensor | None, right: Tensor | None) -> Tensor | None:
    if left is None or right is None:
        return right if left is None else left
    return left + right


def split_columns(joined: Tensor, like: Sequence[Tensor]) -> Sequence[Tensor]:
    """Splits `(n, sum of widths)` into tensors of the shapes of `like`."""
    if len(like) > 1:
        widths = [each.shape[1] if each.dim() == 2 else each.shape[1:].numel() for each in like]
        parts: Sequence[Tensor] = joined.split_with_sizes(widths, 1)
    else:
        parts = (joined,)
    return [
        part if each.dim() == 2 else part.reshape(each.shape)
        for part, each in zip(parts, like, strict=True)
    ]


def as_columns(tensor: Tensor) -> Tensor:
    """`(n, ...)` as `(n, width)`."""
    if tensor.dim() == 2:
        return tensor
    return tensor.reshape(tensor.shape[0], tensor.shape[1:].numel())
