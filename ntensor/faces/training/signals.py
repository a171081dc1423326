"""Signals that ask a run to stop."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

HANDLED = (signal.SIGINT, signal.SIGTERM)


def leave_to_parent(number: int = 0) -> None:
    """Ignores what asks a run to stop. Where it goes to a whole group of processes, it reaches the
    workers of a `DataLoader` too, which the run still needs to end its update."""
    for handled in HANDLED:
        signal.signal(handled, signal.SIG_IGN)


@contextlib.contextmanager
def catch_signals(note: Callable[[str], None]) -> Iterator[None]:
    """The first SIGINT or SIGTERM calls `note` with its name; a second one acts as ever."""

    def stop(number: int, frame: FrameType | None) -> None:
        note(signal.Signals(number).name)
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.getsignal(number) for number in HANDLED}
    for number in HANDLED:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in HANDLED:
            signal.signal(number, before[number])
