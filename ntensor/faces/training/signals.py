"""Signals that ask a run to stop."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def catch_signals(note: Callable[[str], None]) -> Iterator[None]:
    """The first SIGINT or SIGTERM calls `note` with its name; a second one acts as ever."""

    def stop(number: int, frame: FrameType | None) -> None:
        note(signal.Signals(number).name)
        signal.signal(number, before[signal.Signals(number)])

    handled = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in handled}
    for number in handled:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, before[number])
