"""Interleaved timing: every method in turn, round after round, so that drift meets all alike."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

LONGEST_INNER_LOOP = 500
MAXIMUM_ROUNDS = 200
MINIMUM_ROUNDS = 5
FEWEST_ROUNDS = 3
LONG_CALL = 0.25


@dataclass
class Step:
    """One method on one case, ready to be called.

    `call(prepared)` is timed, together with `finish()`, which frees what the call has left (a fresh
    gradient); `prepare()` is not timed (the forward of a backward-only case) and its result is
    passed to `call`. `results(output)` gives the tensors to check after a call and before `finish`.
    `held` are the tensors that the method keeps between calls beside the case's inputs.
    """

    call: Callable[[object], object]
    results: Callable[[object], dict]
    prepare: Callable[[], object] | None = None
    finish: Callable[[], None] | None = None
    held: tuple = ()
    note: str = ""

    def run(self, inner: int, synchronize: Callable[[], None]) -> float:
        """Seconds of one call, averaged over `inner` calls."""
        prepared = self.prepare() if self.prepare else None
        synchronize()
        start = time.perf_counter()
        for _ in range(inner):
            self.call(prepared)
            if self.finish:
                self.finish()
        synchronize()
        return (time.perf_counter() - start) / inner


@dataclass
class Timed:
    """A step and its samples. `rest` seconds pass after each sample, so that threads which a
    library keeps spinning do not slow the next method."""

    step: Step
    estimate: float
    rest: float = 0.0
    samples: list[float] = field(default_factory=list)

    @property
    def inner(self) -> int:
        if self.step.prepare:
            return 1
        return max(1, min(LONGEST_INNER_LOOP, round(2e-3 / max(self.estimate, 1e-9))))


def rank(steps: dict[str, Step], synchronize: Callable[[], None]) -> list[str]:
    """The labels of several ways of one method, the fastest first; each note then names its way.

    After a first call each way is called for about `LONG_CALL` seconds, one to five times.
    """
    seconds = {}
    for label, step in steps.items():
        first = step.run(1, synchronize)
        inner = Timed(step, first).inner
        repeats = max(1, min(5, int(LONG_CALL / max(first, 1e-9))))
        seconds[label] = min(step.run(inner, synchronize) for _ in range(repeats))
        step.note = f"{label} {step.note}".strip()
    return sorted(seconds, key=seconds.__getitem__)


def interleave(
    entries: list[Timed],
    seconds: float,
    rounds: int | None,
    synchronize: Callable[[], None],
    progress: Callable[[float], None],
) -> None:
    """Fill the samples: rounds over all entries in a new order each time, for about `seconds`.

    At least 5 rounds, or 3 where 5 would take over four times as long, or exactly `rounds`. A
    sample is the second of two calls in a row: it finds caches and freed pages as a step of its own
    leaves them. An entry that is over four times slower than most, and whose rounds would take over
    a fifth of the time, is sampled only as often as fits in that fifth, at least once, by single
    calls.
    """
    if not entries:
        return
    order = random.Random(0)
    share, usual = seconds / 5, statistics.median(entry.estimate for entry in entries)
    limit = {
        id(entry): max(1, int(share / entry.estimate))
        for entry in entries
        if rounds is None and entry.estimate > 4 * usual and entry.estimate * MINIMUM_ROUNDS > share
    }
    start = time.perf_counter()
    for done in range(1, (rounds or MAXIMUM_ROUNDS) + 1):
        for entry in order.sample(entries, len(entries)):
            if len(entry.samples) >= limit.get(id(entry), MAXIMUM_ROUNDS):
                continue
            if id(entry) not in limit:
                entry.step.run(1, synchronize)
            entry.samples.append(entry.step.run(entry.inner, synchronize))
            if entry.rest:
                time.sleep(entry.rest)
        elapsed = (time.perf_counter() - start) / seconds
        if rounds is not None:
            progress(done / rounds)
            continue
        progress(min(1.0, done / MINIMUM_ROUNDS, elapsed))
        if elapsed > 1 and done >= (MINIMUM_ROUNDS if elapsed < 4 else FEWEST_ROUNDS):
            break
