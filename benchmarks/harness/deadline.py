"""How much of a given time is left, and what still fits into it."""

from __future__ import annotations

import time
from dataclasses import dataclass

from harness.methods import Method


@dataclass
class Deadline:
    """When the run has to be over, on the clock of `time.monotonic`; None: never.

    Compiling may take `compile_seconds` of it altogether.
    """

    at: float | None = None
    compile_seconds: float = 0.0

    def leaves(self, seconds: float) -> bool:
        return self.at is None or time.monotonic() + seconds <= self.at

    def why_not_compile(self, method: Method) -> str:
        """Why there is no time for the method's compilation; "" where there is."""
        if self.at is None or not method.compiles:
            return ""
        if self.compile_seconds <= 0:
            return "the time for compiling is used up"
        return "" if self.leaves(method.compile_seconds) else "too little time is left to compile"
