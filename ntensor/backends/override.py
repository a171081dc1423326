"""A choice that blocks of code force for the whole process, in whatever order they end."""

from __future__ import annotations


class Override:
    """What one block forces; compared by identity, so that a block takes back only its own."""

    def __init__(self, value: str | None) -> None:
        self.value = value


class Overrides:
    """The blocks that are open. The one that was opened last decides.

    Blocks of several threads, generators and tasks do not end in the order of a stack: each takes
    out its own.

    Attributes:
        value: what is forced, None where nothing is. A plain attribute, so that torch.compile
            guards on it.
    """

    def __init__(self) -> None:
        self.value: str | None = None
        self._open: list[Override] = []

    def enter(self, value: str | None) -> Override:
        override = Override(value)
        self._open.append(override)
        self._settle()
        return override

    def leave(self, override: Override) -> None:
        self._open.remove(override)
        self._settle()

    def _settle(self) -> None:
        """Without a lock, which torch.compile does not trace: whoever changes the list after the
        last look writes after that as well."""
        while True:
            last = self._open[-1:]
            self.value = last[0].value if last else None
            if self._open[-1:] == last:
                return
