"""Where the arguments of an operation stand: in its schema, and as slots of its form."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ntensor.backends._torch import arguments_of

from .forms import Form, Slot

# In a schema and among the results: all the factors.
FACTORS = "factors"


class Signature:
    """The arguments and results of a partial derivative of a form.

    A call is here its *tensors*, the heads and then each factor, and its *statics*: the options of
    the form, `needs` where there is one, and the backend.

    Args:
        form: whose slots the tensors are, by their names in the schema.
        raw: the operation of torch. Its arguments are heads of the form, then the list `factors`
            where there is one, then the statics.
        returns: the slots whose partial derivatives it returns. With an argument `needs` in the
            schema: where that is true, side by side in one matrix. A list would be natural, but
            DTensor places the results that the schema counts, and a list counts as one.
    """

    def __init__(self, form: Form, raw: Any, returns: tuple[str, ...]) -> None:
        names = [argument.name for argument in arguments_of(raw)]
        self.form = form
        self.returns = returns
        self.heads = tuple(name for name in names if name in form.heads)
        self.listed = FACTORS in names
        self.joined = "needs" in names
        self.results = 1 if self.joined else len(returns)
        self.arity = len(names) - 1
        self.shared: Sequence[int] = [
            place for place, name in enumerate(self.heads) if name in form.shared
        ]
        self.shared_output = any(slot in form.shared for slot in returns)
        self.slots = functools.cache(self._slots)

    def _slots(self, count: int) -> tuple[Slot, ...]:
        """The slot of each of `count` tensors."""
        return (*self.heads, *range(count - len(self.heads)))

    def flat(self, arguments: Sequence[Any]) -> tuple[list[Any], tuple[Any, ...]]:
        """Tensors and statics of the operation's arguments."""
        heads = len(self.heads)
        tensors = list(arguments[:heads])
        if self.listed:
            tensors += arguments[heads]
        statics = arguments[heads + self.listed : self.arity]
        # The dispatcher leaves out a trailing argument that equals its default.
        backend = arguments[self.arity] if len(arguments) > self.arity else None
        return tensors, (*statics, backend)

    def nested(self, tensors: Sequence[Any]) -> Sequence[Any]:
        """The tensors as the schema has them, the factors in a list."""
        if self.listed:
            heads = len(self.heads)
            return (*tensors[:heads], list(tensors[heads:]))
        return tensors

    def values(self, tensors: Sequence[Any]) -> dict[Slot, Any]:
        """What is given for each slot of the form; None for a head that is no argument."""
        values: dict[Slot, Any] = dict.fromkeys(self.form.heads)
        values.update(zip(self.slots(len(tensors)), tensors, strict=True))
        return values

    def outputs(self, statics: tuple[Any, ...]) -> tuple[Slot, ...]:
        """The slots whose partial derivatives are returned."""
        if not self.joined:
            return self.returns
        needs = statics[-2]
        slots: Iterable[Slot] = range(len(needs)) if FACTORS in self.returns else self.returns
        return tuple(slot for slot, need in zip(slots, needs, strict=True) if need)

    def options(self, statics: tuple[Any, ...]) -> tuple[Any, ...]:
        """Those of the form, and the backend."""
        return (*statics[:-2], statics[-1]) if self.joined else statics

    def in_order(self, tensors: Sequence[Any], found: Mapping[Slot, Tensor]) -> list[Tensor | None]:
        """What is found for the slot of each of the tensors."""
        return list(map(found.get, self.slots(len(tensors))))
