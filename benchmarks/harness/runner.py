"""The one runner: builds, checks and times the methods of each case, and gives back the rows."""

from __future__ import annotations

import gc
import sys
import time
import traceback
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from tqdm import tqdm

from harness.cases import Case
from harness.deadline import Deadline
from harness.device import device_clock, measure_device_roof
from harness.machine import ForeignLoad, PeakMemory, available_bytes, describe
from harness.methods import Method
from harness.problem import TOLERANCE, Problem, Reference
from harness.roof import Roof, compulsory_bytes, flops, measure_roof
from harness.timing import (
    LONG_CALL,
    REST_AFTER_NUMPY,
    Clock,
    DeviceClock,
    HostClock,
    Step,
    Timed,
    interleave,
)

# For the last roof, the tables and the plot.
WRITING_SECONDS = 15.0
# Of a budget, the part that torch.compile may take.
COMPILE_SHARE = 0.4


@dataclass
class Row:
    """One method on one case. `status` is "" for a right, timed result, else the reason."""

    case: Case
    method: Method
    status: str = ""
    note: str = ""
    samples: list[float] = field(default_factory=list)
    errors: dict[str, float] = field(default_factory=dict)
    extra_bytes: int | None = None
    roof_seconds: float | None = None
    foreign_load: float | None = None
    versus_torch: float | None = None
    versus_limit: float | None = None
    timing: str = ""
    host_seconds: float | None = None

    def quantile(self, q: float) -> float | None:
        return float(np.quantile(self.samples, q)) if self.samples else None

    @property
    def median(self) -> float | None:
        return self.quantile(0.5)

    @property
    def right(self) -> bool:
        return bool(self.samples) and not self.status

    @property
    def error(self) -> float | None:
        """The largest of the errors; NaN if any is."""
        return float(np.max(list(self.errors.values()))) if self.errors else None

    @property
    def roof_fraction(self) -> float | None:
        if not self.right or self.roof_seconds is None:
            return None
        return self.roof_seconds / self.median

    @property
    def gflops(self) -> float | None:
        return self._per_nanosecond(flops(self.case, self.method.gradient))

    @property
    def gbytes(self) -> float | None:
        """Compulsory bytes over time."""
        return self._per_nanosecond(compulsory_bytes(self.case, self.method.gradient))

    def _per_nanosecond(self, work: int) -> float | None:
        return work / self.median / 1e9 if self.right and work else None


@dataclass
class Result:
    """All rows with the machine they were measured on."""

    rows: list[Row]
    machine: dict[str, object]
    roof: Roof
    unreached: list[Case] = field(default_factory=list)

    @property
    def on_gpu(self) -> bool:
        return self.machine["device"] != "cpu"

    @property
    def exit_code(self) -> int:
        """1 if a method of the library is wrong or did not run, else 0.

        A backend that cannot serve here is no error beside one that did.
        """
        ours = [row for row in self.rows if row.method.kind == "ours"]
        served = {row.case for row in ours if row.right}
        failed = any(row.status and not row.method.missing for row in ours)
        return int(failed or any(row.case not in served for row in ours))


@dataclass(frozen=True)
class Suite:
    """How the cases of one script become problems, references and methods."""

    problem: Callable[[Case, torch.device, Clock], Problem]
    reference: Callable[[Problem], Reference]
    methods: Callable[[Case, torch.device, list[str]], list[Method]]


def run(
    cases: list[Case],
    suite: Suite,
    options: Namespace,
    save: Callable[[Result], None] = lambda result: None,
) -> Result:
    """Run all cases, or those that fit in `options.budget`. Progress goes to stderr.

    With a budget `save` gets what is there after each case.
    """
    deadline = Deadline()
    if options.budget:
        deadline = Deadline(time.monotonic() + options.budget, COMPILE_SHARE * options.budget)
    device = torch.device(options.device)
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)
        device = torch.device("cuda", torch.cuda.current_device())
    torch.set_num_threads(options.threads)
    machine = describe(options.threads, device)
    dtypes = {case.dtype for case in cases}
    clock: Clock = HostClock() if device.type == "cpu" else device_clock(device)

    def measured_roof() -> Roof:
        if isinstance(clock, DeviceClock):
            return measure_device_roof(clock, dtypes)
        return measure_roof(options.threads, dtypes)

    roof = measured_roof()
    rows: list[Row] = []
    unreached: list[Case] = []
    longest = 0.0
    # What stands by now is never collected again, so that collections cost the methods little.
    gc.collect()
    gc.freeze()
    with tqdm(
        total=100 * len(cases),
        bar_format="{l_bar}{bar}| {elapsed}{postfix}",
        mininterval=0.5 if sys.stderr.isatty() else 10,
    ) as bar:
        for number, case in enumerate(cases):
            name = f"{case.shape.name} n={case.n} {case.dtype} {case.pass_}"
            if not deadline.leaves(longest + WRITING_SECONDS):
                unreached = cases[number:]
                break
            start = time.monotonic()

            def progress(
                fraction: float, what: str, base: int = 100 * number, name: str = name
            ) -> None:
                bar.set_postfix_str(f"{name}: {what}", refresh=False)
                bar.update(base + round(100 * fraction) - bar.n)

            try:
                rows += _run_case(case, suite, options, device, clock, deadline, progress)
            except KeyboardInterrupt:
                if not options.budget:
                    raise
                # Whoever gave the budget has lost patience: what is there is written.
                unreached = cases[number:]
                break
            progress(1.0, "done")
            if device.type == "cuda":
                torch.cuda.empty_cache()
            # Compiling is not counted: each compiled method asks the deadline for itself.
            seconds = time.monotonic() - start
            longest = max(longest, min(seconds, 4 * options.seconds))
            if options.budget:
                save(_result(rows, machine, roof, cases[number + 1 :]))
    return _result(rows, machine, roof.best(measured_roof()), unreached)


def _result(
    rows: list[Row], machine: dict[str, object], roof: Roof, unreached: list[Case]
) -> Result:
    machine = machine | {f"roof_{kind}": rate for kind, rate in roof.rates.items()}
    for row in rows:
        row.roof_seconds = roof.seconds(row.case, row.method.gradient)
    return Result(rows, machine, roof, unreached)


def _run_case(
    case: Case,
    suite: Suite,
    options: Namespace,
    device: torch.device,
    clock: Clock,
    deadline: Deadline,
    progress: Callable[[float, str], None],
) -> list[Row]:
    methods = [
        method
        for method in suite.methods(case, device, options.backend)
        if not options.methods
        or any(text.lower() in method.name.lower() for text in options.methods)
    ]
    if options.quick:
        methods = [
            replace(method, missing="--quick does not compile") if method.compiles else method
            for method in methods
        ]
    if any(method.compiles and not method.missing for method in methods):
        torch._dynamo.reset()
    progress(0.0, "inputs and float64 reference")
    problem = suite.problem(case, device, clock)
    reference = suite.reference(problem)
    rows, entries = [], []
    for number, method in enumerate(methods):
        progress(0.05 + 0.45 * number / len(methods), method.name)
        row = Row(case, method)
        rows.append(row)
        if not method.missing and (reason := deadline.why_not_compile(method)):
            row.status = f"left out: {reason}"
            continue
        start = time.monotonic()
        timed = _prepare(row, problem, reference)
        if method.compiles:
            deadline.compile_seconds -= time.monotonic() - start
        if timed is not None:
            entries.append((row, timed))

    with ForeignLoad() as load:
        interleave(
            [timed for _, timed in entries],
            options.seconds,
            options.repeats,
            clock,
            lambda fraction: progress(0.5 + 0.5 * fraction, "timing"),
        )
    for row, timed in entries:
        row.samples = timed.samples
        row.foreign_load = load.share
    _compare(rows)
    return rows


def _prepare(row: Row, problem: Problem, reference: Reference) -> Timed | None:
    """Build and check the row's method; None with the reason in `row.status` if it is not timed."""
    method = row.method
    if method.missing:
        row.status = f"left out: {method.missing}"
        return None
    free = available_bytes(problem.device)
    if method.extra_bytes > free / 2:
        row.status = (
            f"left out: needs about {method.extra_bytes / 1e9:.1f} GB, "
            f"over half of the free {free / 1e9:.1f} GB"
        )
        return None
    try:
        step = method.build(problem)
        clock = problem.clock
        first = _check(row, step, problem, reference)
        if isinstance(clock, DeviceClock):
            row.host_seconds = clock.host_seconds(step)
            _check_replay(row, step, problem, reference, clock)
        row.note = f"{step.note} {row.note}".strip()
        estimate = first
        if estimate < LONG_CALL:
            estimate = min(clock.seconds(step) for _ in range(3))
    except Exception as error:  # a rival that fails is a row of the table, not the end of the run
        row.status = (
            f"failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        )
        tqdm.write(f"{row.case.title}: {method.name}\n{traceback.format_exc()}")
        return None
    tolerance = TOLERANCE[row.case.dtype]
    # A NaN is no right result either.
    if not row.error <= tolerance:
        row.status = f"wrong: error {row.error:.1e}, at most {tolerance:.0e} is right"
        return None
    return Timed(step, estimate, REST_AFTER_NUMPY if method.numpy else 0.0)


def _check(row: Row, step: Step, problem: Problem, reference: Reference) -> float:
    """Errors of the results and peak memory of a call; gives its seconds.

    A call that is not long is measured twice, the second time without what only a first call of a
    process touches. On a GPU the first call may compile, or load, its kernels.
    """
    if row.method.compiles or isinstance(problem.clock, DeviceClock):
        step.run(1, problem.clock.synchronize)
    before = _known_core_grad(row.method, problem, reference)
    output, seconds, extra = _measured_call(step, problem)
    row.errors = reference.errors(step.results(output), before)
    del output
    if step.finish:
        step.finish()
    if seconds < LONG_CALL:
        _, seconds, extra = _measured_call(step, problem)
        if step.finish:
            step.finish()
    inputs = {
        tensor.data_ptr()
        for tensor in problem.__dict__.values()
        if isinstance(tensor, torch.Tensor)
    }
    held = sum(t.numel() * t.element_size() for t in step.held if t.data_ptr() not in inputs)
    row.extra_bytes = None if extra is None else extra + held
    return seconds


def _check_replay(
    row: Row, step: Step, problem: Problem, reference: Reference, clock: DeviceClock
) -> None:
    """Compare what is timed, the replayed graph, with the reference too."""
    replay = clock.record(step)
    row.timing = "eager" if replay.eager_because else "graph"
    if replay.eager_because:
        row.note = f"(eager: {replay.eager_because})"
        return
    before = _known_core_grad(row.method, problem, reference)
    replay.prepare()
    replay.call()
    clock.synchronize()
    errors = reference.errors(step.results(replay.output), before)
    # A NaN is kept.
    row.errors = {
        name: float(np.maximum(error, errors[name])) for name, error in row.errors.items()
    }
    replay.output = None
    if step.finish:
        step.finish()


def _measured_call(step: Step, problem: Problem) -> tuple[object, float, int | None]:
    """Result, seconds and extra bytes of one call."""
    prepared = step.prepare() if step.prepare else None
    with PeakMemory(problem.device) as memory:
        start = time.perf_counter()
        output = step.call(prepared)
        problem.clock.synchronize()
        seconds = time.perf_counter() - start
    return output, seconds, memory.extra


def _known_core_grad(method: Method, problem: Problem, reference: Reference) -> dict:
    """Put known values where the method adds to the core's gradient, NaN where it overwrites."""
    if method.gradient not in ("adds", "overwrites"):
        return {}
    known = reference.expected["core_grad"].to(problem.dtype)
    if method.gradient == "overwrites":
        known = torch.full_like(known, torch.nan)
    problem.core_grad.zero_().flatten(1)[reference.rows] = known
    return {"core_grad": known.double()} if method.gradient == "adds" else {}


def _compare(rows: list[Row]) -> None:
    """Fill in how many times faster each right row is than the best torch way and the GEMM limit.

    A method that makes a fresh gradient is compared with torch's fresh ways, one that reuses
    `.grad` with the best of all of torch's ways.
    """
    limit = min(
        (row.median for row in rows if row.right and row.method.kind == "limit"), default=None
    )
    for row in rows:
        if not row.right:
            continue
        best_torch = min(
            (
                other.median
                for other in rows
                if other.right
                and other.method.kind == "torch"
                and (row.method.gradient != "fresh" or other.method.gradient == "fresh")
            ),
            default=None,
        )
        row.versus_torch = None if best_torch is None else best_torch / row.median
        row.versus_limit = None if limit is None else limit / row.median
