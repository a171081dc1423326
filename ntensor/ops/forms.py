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

from collections.abc import Hashable, Iterator, Mapping, Sequence, Set
from typing import Any, ClassVar

from torch import Tensor

# A head by its name, a factor by its number, from 0.
Slot = str | int
# What is given for every slot; None: nothing, so the slot is itself wanted, or zero.
Values = Mapping[Slot, Tensor | None]


class Form:
    """A multilinear form: its slots are the tensors `heads`, then any number of factors.

    Attributes:
        heads: names of the leading slots.
        shared: heads that have no batch dimension; operations take them contiguous.
        joint: heads that enter additively, and so are replaced together.
        uneven: labels of axes that may be split in unequal parts.
    """

    heads: ClassVar[tuple[str, ...]]
    shared: ClassVar[tuple[str, ...]] = ()
    joint: ClassVar[tuple[str, ...]] = ()
    uneven: ClassVar[tuple[Hashable, ...]] = ("n",)

    def axes(self, slot: Slot, factors: int) -> tuple[Hashable | None, ...]:
        """A label for each axis of a slot's tensor, where there are `factors` factors.

        The form is a sum over all values of the labels, and along each of them it is the sum of
        what it is for parts of the tensors. None: an axis that cannot be divided so.
        """
        raise NotImplementedError

    def divides(self, label: Hashable, slots: Set[Slot]) -> bool:
        """Whether an axis may be divided where these slots are given or wanted."""
        return True

    def partials(
        self, values: Values, wanted: Set[Slot], options: tuple[Any, ...]
    ) -> dict[Slot, Tensor]:
        """The partial derivative for each wanted slot where it is not zero."""
        raise NotImplementedError

    def replace(self, values: Values, wanted: Set[Slot], term: Values) -> tuple[Values, Set[Slot]]:
        """Values with the tensors of one term in their slots, and what is then still wanted."""
        return {**values, **term}, wanted - term.keys()

    def terms(self, replacements: Values) -> Iterator[Values]:
        """The replacements that are made together, one after the other."""
        together: dict[Slot, Tensor | None] = {
            slot: replacements[slot] for slot in self.joint if slot in replacements
        }
        if together:
            yield together
        for slot, tensor in replacements.items():
            if slot not in together:
                yield {slot: tensor}

    def factors(self, values: Values) -> list[Any]:
        """The factors among the values, in order."""
        return [values[mode] for mode in range(len(values) - len(self.heads))]


def directional(
    form: Form,
    values: Values,
    replacements: Mapping[Slot, Tensor],
    wanted: Set[Slot],
    options: tuple[Any, ...],
) -> dict[Slot, Tensor]:
    """For each wanted slot `a`: the sum over `b != a` of `ds/da` with slot `b` replaced.

    A slot for which that is zero is left out.
    """
    totals: dict[Slot, Tensor] = {}
    for term in form.terms(replacements):
        replaced, remaining = form.replace(values, wanted, term)
        if remaining:
            for slot, part in form.partials(replaced, remaining, options).items():
                totals[slot] = totals[slot] + part if slot in totals else part
    return totals


def split_columns(joined: Tensor, like: Mapping[Slot, Tensor]) -> dict[Slot, Tensor]:
    """Splits `(n, sum of widths)` into tensors of the shapes of `like`."""
    parts: Sequence[Tensor] = (joined,)
    if len(like) > 1:
        parts = joined.split_with_sizes([_width(each) for each in like.values()], 1)
    return {
        slot: part if each.dim() == 2 else part.reshape(each.shape)
        for part, (slot, each) in zip(parts, like.items(), strict=True)
    }


def as_columns(tensor: Tensor) -> Tensor:
    """`(n, ...)` as `(n, width)`."""
    return tensor if tensor.dim() == 2 else tensor.reshape(tensor.shape[0], _width(tensor))


def _width(tensor: Tensor) -> int:
    return tensor.shape[1] if tensor.dim() == 2 else tensor.shape[1:].numel()
