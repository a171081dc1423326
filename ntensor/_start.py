"""Ctrl-C while `python -m ntensor.…` imports torch, which takes seconds, ends it in one line."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from types import FrameType


def is_command() -> bool:
    """Whether Python is about to run a module of this package."""
    # While Python looks for the module, "-m" stands in the place of its path.
    looking = sys.argv[:1] == ["-m"]
    pairs = itertools.pairwise(sys.orig_argv)
    return looking and any(a == "-m" and b.startswith(f"{__package__}.") for a, b in pairs)


def end(number: int, frame: FrameType | None) -> None:
    """Leaves at once: nothing was begun."""
    os.write(2, f"ended by {signal.Signals(number).name}\n".encode())
    os._exit(128 + number)


if is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, end)
