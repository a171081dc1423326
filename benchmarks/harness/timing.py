"""Interleaved timing: every method in turn, round after round, so that drift meets all alike.

A clock says how one sample is taken: `HostClock` on a CPU, `DeviceClock` on a GPU.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

LONGEST_INNER_LOOP = 500
MAXIMUM_ROUNDS = 200
MINIMUM_ROUNDS = 5
FEWEST_ROUNDS = 3
LONG_CALL = 0.25
WARM_UPS = 3
HOST_CALLS = 10
# OpenBLAS threads spin for tens of milliseconds after a product; the next method waits them out.
REST_AFTER_NUMPY = 0.05
# A longer call loses little to launch gaps, and may be tens of thousands of kernels.
LONGEST_CAPTURED_CALL = 0.05


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
    replay: Replay | None = None

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


class Clock(Protocol):
    """How samples are taken. `seconds` is one quick measurement, `sample` one for the table."""

    def synchronize(self) -> None: ...

    def seconds(self, step: Step, inner: int = 1) -> float: ...

    def sample(self, timed: Timed, single: bool) -> float: ...


class HostClock:
    """The clock of the host.

    A sample is the second of two calls in a row, unless `single`: it finds caches and freed pages
    as a step of its own leaves them.
    """

    def synchronize(self) -> None:
        pass

    def seconds(self, step: Step, inner: int = 1) -> float:
        return step.run(inner, self.synchronize)

    def sample(self, timed: Timed, single: bool) -> float:
        if not single:
            timed.step.run(1, self.synchronize)
        return timed.step.run(timed.inner, self.synchronize)


@dataclass
class Replay:
    """A step as the device clock calls it: from CUDA graphs, or eagerly for the given reason.

    `output` is what the captured call returned, until the step is checked.
    """

    prepare: Callable[[], object]
    call: Callable[[], object]
    output: object = None
    eager_because: str = ""


class DeviceClock:
    """Events around one call whose inputs are not in the L2 cache.

    The call is the replay of a CUDA graph, or eager where it cannot be captured. Before each call a
    buffer several times the cache is written and another one read, so that the cache holds neither
    the inputs nor lines that the timed call would have to write back. What `prepare` does is a
    graph of its own, replayed before the cache is flushed.

    `cuda` has the part of `torch.cuda` that is used here.
    """

    def __init__(self, device: torch.device, cache_bytes: int, cuda: Any = torch.cuda) -> None:
        self.device, self._cuda = device, cuda
        self._stream = cuda.Stream(device)
        self._events = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        elements = cache_bytes // 4
        self._written = torch.empty(elements, device=device)
        self._read = torch.ones(elements, device=device)
        self._sum = torch.empty((), device=device)

    def synchronize(self) -> None:
        self._cuda.synchronize(self.device)

    def seconds(self, step: Step, inner: int = 1) -> float:
        """Device time of one cold call; one call is enough at the resolution of the events."""
        return self._once(step, self.record(step))

    def sample(self, timed: Timed, single: bool) -> float:
        return self.seconds(timed.step)

    def host_seconds(self, step: Step) -> float:
        """Median time that the host needs to issue one eager call, the device being idle."""
        times = []
        for _ in range(HOST_CALLS):
            prepared = step.prepare() if step.prepare else None
            self.synchronize()
            start = time.perf_counter()
            output = step.call(prepared)
            if step.finish:
                step.finish()
            times.append(time.perf_counter() - start)
            del prepared, output
            if sum(times) > LONG_CALL:
                break
        self.synchronize()
        return statistics.median(times)

    def record(self, step: Step) -> Replay:
        """The step's replay, made at the first use."""
        if step.replay is None:
            step.replay = self._capture(step)
        return step.replay

    def events(self, call: Callable[[], object]) -> float:
        """Seconds of `call()` on the device, the cache being cold."""
        start, end = self._events
        self._written.zero_()
        torch.sum(self._read, 0, out=self._sum)
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e-3

    def _once(self, step: Step, replay: Replay) -> float:
        prepared = replay.prepare()
        if not replay.eager_because:
            return self.events(replay.call)

        def call() -> None:
            output = step.call(prepared)
            if step.finish:
                step.finish()
            del output

        return self.events(call)

    def _capture(self, step: Step) -> Replay:
        def eager(reason: str) -> Replay:
            return Replay(step.prepare or _nothing, _nothing, eager_because=reason)

        current = self._cuda.current_stream(self.device)
        self._stream.wait_stream(current)
        with self._cuda.stream(self._stream):
            # The first may compile.
            seconds = [step.run(1, self.synchronize) for _ in range(2)]
            while len(seconds) < WARM_UPS and min(seconds) < LONG_CALL:
                seconds.append(step.run(1, self.synchronize))
        current.wait_stream(self._stream)
        if min(seconds) > LONGEST_CAPTURED_CALL:
            return eager(f"longer than {1e3 * LONGEST_CAPTURED_CALL:.0f} ms")
        pool = self._cuda.graph_pool_handle()
        try:
            prepared, prepare = None, _nothing
            if step.prepare:
                before = self._cuda.CUDAGraph()
                with self._cuda.graph(before, pool=pool, stream=self._stream):
                    prepared = step.prepare()
                prepare = before.replay
            graph = self._cuda.CUDAGraph()
            with self._cuda.graph(graph, pool=pool, stream=self._stream):
                output = step.call(prepared)
        except RuntimeError as error:
            # A capture that fails leaves its stream the current one.
            self._cuda.set_stream(current)
            if step.finish:
                step.finish()
            return eager(f"not capturable: {_first_cause(error)}")
        return Replay(prepare, graph.replay, output)


def _nothing() -> None:
    pass


def _first_cause(error: BaseException) -> str:
    """The first line of the error that ended the capture, not of what followed from it."""
    while error.__context__ is not None:
        error = error.__context__
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def rank(steps: dict[str, Step], clock: Clock) -> list[str]:
    """The labels of several ways of one method, the fastest first; each note then names its way.

    After a first call each way is called for about `LONG_CALL` seconds, one to five times.
    """
    seconds = {}
    for label, step in steps.items():
        first = clock.seconds(step)
        inner = Timed(step, first).inner
        repeats = max(1, min(5, int(LONG_CALL / max(first, 1e-9))))
        seconds[label] = min(clock.seconds(step, inner) for _ in range(repeats))
        step.note = f"{label} {step.note}".strip()
        if step.replay is not None:
            step.replay = None
            if step.finish:
                step.finish()
    return sorted(seconds, key=seconds.__getitem__)


def interleave(
    entries: list[Timed],
    seconds: float,
    rounds: int | None,
    clock: Clock,
    progress: Callable[[float], None],
) -> None:
    """Fill the samples: rounds over all entries in a new order each time, for about `seconds`.

    At least 5 rounds, or 3 where 5 would take over four times as long, or exactly `rounds`. An
    entry that is over four times slower than most, and whose rounds would take over a fifth of the
    time, is sampled only as often as fits in that fifth, at least once, by single calls.
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
            entry.samples.append(clock.sample(entry, single=id(entry) in limit))
            if entry.rest:
                time.sleep(entry.rest)
        elapsed = (time.perf_counter() - start) / seconds
        if rounds is not None:
            progress(done / rounds)
            continue
        progress(min(1.0, done / MINIMUM_ROUNDS, elapsed))
        if elapsed > 1 and done >= (MINIMUM_ROUNDS if elapsed < 4 else FEWEST_ROUNDS):
            break
