"""Handling of the signals that stop a run."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

HANDLED = (signal.SIGINT, signal.SIGTERM)


def leave_to_parent(number: int = 0) -> None:
    """Ignores the signals that stop a run.

    A signal to a whole process group also reaches the workers of a `DataLoader`, which the run
    still needs to finish its update.
    """
    for handled in HANDLED:
        signal.signal(handled, signal.SIG_IGN)


@contextlib.contextmanager
def catch_signals(note: Callable[[str], None]) -> Iterator[None]:
    """The first SIGINT or SIGTERM calls `note` with its name; a second one acts as usual."""

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
