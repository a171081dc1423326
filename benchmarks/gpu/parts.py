"""The parts of `gpu_check.py`: each runs programs for a limited time and reads what they say."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from harness.files import read_table
from harness.options import ROOT

BENCHMARKS = ROOT / "benchmarks"
# A stopped program may still write what it has.
GRACE_SECONDS = 20.0
SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")
SANITIZER_FOUND = 99
ROTATION_SECONDS = 120.0
# Between a script's own budget and its end: start, last roof, tables and plot.
SCRIPT_SECONDS = 40.0
MOST_NAMED = 40


@dataclass
class Part:
    """`state`: "passed", "failed", "not finished", "not run". `table` is Markdown."""

    state: str
    lines: list[str] = field(default_factory=list)
    seconds: float = 0.0
    table: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return self.state in ("passed", "not run")


@dataclass
class Run:
    """What a program left: exit code (None: stopped at its limit), output, seconds."""

    code: int | None
    output: str
    seconds: float


class Shell:
    """Runs programs in the project's folder, their output appended to a log."""

    def __init__(self, log: TextIO) -> None:
        self._log = log

    def run(self, command: list[str], seconds: float, **environment: str) -> Run:
        """Run for at most about `seconds`: then it is interrupted, and killed if it stays."""
        print(f"\n$ {shlex.join(command)}", file=self._log, flush=True)
        path = Path(self._log.name)
        begin = path.stat().st_size
        paths = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
        variables = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
        start = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=variables | environment,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # A shell's background jobs ignore the interrupt, and their children would too.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        code = None
        try:
            code = process.wait(max(1.0, seconds))
        except subprocess.TimeoutExpired:
            print(f"stopped after {seconds:.0f} s", file=self._log, flush=True)
        finally:
            _end(process)
        with path.open(errors="replace") as file:
            file.seek(begin)
            return Run(code, file.read(), time.monotonic() - start)


def _end(process: subprocess.Popen) -> None:
    """End a process that still runs, with all that it has started."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def tests(shell: Shell, end: float, options: Namespace) -> Part:
    """The tests of the marker `gpu`."""
    files = [f"tests/test_gpu{part}.py" for part in ("", "_citizen", "_large")]
    if missing := [file for file in files if not (ROOT / file).exists()]:
        return Part("failed", [f"there is no {', '.join(missing)}"])
    command = [sys.executable, "-m", "pytest", "-m", "gpu", *files, "-v", "--tb=short"]
    command += ["-p", "no:cacheprovider", "-o", "console_output_style=classic"]
    command += ["-n", str(options.workers if options.workers > 1 else 0)]
    run = shell.run(command, end - time.monotonic() - GRACE_SECONDS)
    return read_tests(run)


def read_tests(run: Run) -> Part:
    """What pytest's verbose output says, complete or not."""
    outcome = re.compile(r"^(\S+?::.*?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b", re.M)
    # A test that passes and fails in its teardown has two lines; the worse one comes last.
    states = dict(outcome.findall(run.output))
    # Of pytest-xdist's workers: the outcome before the name.
    of_worker = re.compile(
        r"^\[gw\d+\].*?(PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS) (\S+::.*?) *$", re.M
    )
    states |= {name: state for state, name in of_worker.findall(run.output)}
    counts = Counter(states.values())
    chosen = re.search(r"collected (\d+) items?(?: / .*?(\d+) selected)?", run.output)
    selected = int(chosen[2] or chosen[1]) if chosen else 0
    by_workers = re.search(r"workers? \[(\d+) items?\]", run.output)
    if by_workers:
        selected = int(by_workers[1])
    shown = ", ".join(f"{n} {state.lower()}" for state, n in sorted(counts.items())) or "none ran"
    lines = [f"{shown}; {selected} selected"]
    bad = [name for name, state in states.items() if state in ("FAILED", "ERROR")]
    lines += [f"did not pass: `{name}`" for name in bad[:MOST_NAMED]]
    if len(bad) > MOST_NAMED:
        lines.append(f"and {len(bad) - MOST_NAMED} more that did not pass, see log.txt")
    lines += [
        f"skipped, {count}: {reason}"
        for count, reason in re.findall(r"^SKIPPED \[(\d+)\] \S+: (.*)$", run.output, re.M)
    ]
    unreached = selected - len(states)
    if unreached > 0:
        lines.append(f"not reached: {unreached} of {selected} tests")
    if bad:
        return Part("failed", lines)
    if run.code is None:
        return Part("not finished", [*lines, f"stopped after {run.seconds:.0f} s"])
    if run.code != 0:
        return Part("failed", [*lines, f"pytest ended with {run.code}: {_last_line(run.output)}"])
    if not counts["PASSED"]:
        return Part("failed", [*lines, "no test passed, so nothing is shown"])
    return Part("passed", lines)


def sanitizer(shell: Shell, end: float, options: Namespace) -> Part:
    """Small calls of every operation under compute-sanitizer, after one run without it."""
    program = [sys.executable, str(BENCHMARKS / "gpu" / "small.py")]
    plain = shell.run(program, (end - time.monotonic()) / 2)
    lines = [f"without it: {_last_line(plain.output)}", *_not_run(plain.output)]
    if plain.code != 0:
        wrong = re.findall(r"^wrong: .*$", plain.output, re.M)[:MOST_NAMED]
        state = "not finished" if plain.code is None else "failed"
        return Part(state, [*lines, *wrong])
    if "\n0 calls right" in "\n" + plain.output:
        return Part("failed", [*lines, "no backend of the GPU can serve, so nothing is shown"])
    tool = find_sanitizer()
    if tool is None:
        return Part("not run", [*lines, "compute-sanitizer is not installed here"])
    states = []
    for number, name in enumerate(SANITIZERS):
        limit = (end - time.monotonic() - GRACE_SECONDS) / (len(SANITIZERS) - number)
        command = [tool, "--tool", name, "--error-exitcode", str(SANITIZER_FOUND)]
        command += ["--report-api-errors", "no", "--print-limit", "50"]
        command += ["--target-processes", "application-only", "--launch-timeout", "0"]
        run = shell.run([*command, *program], limit, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
        state, told = read_sanitizer(name, run)
        states.append(state)
        lines += told
    for state in ("failed", "not finished", "not run"):
        if state in states:
            return Part(state, lines)
    return Part("passed", lines)


def find_sanitizer() -> str | None:
    """compute-sanitizer on PATH, beside nvcc, or in the toolkit's usual place."""
    found = shutil.which("compute-sanitizer")
    nvcc = shutil.which("nvcc")
    folders = [Path(nvcc).resolve().parent] if nvcc else []
    folders.append(Path("/usr/local/cuda/bin"))
    return found or next(
        (
            str(folder / "compute-sanitizer")
            for folder in folders
            if os.access(folder / "compute-sanitizer", os.X_OK)
        ),
        None,
    )


def read_sanitizer(tool: str, run: Run) -> tuple[str, list[str]]:
    """State and lines from the output of one tool."""
    if run.code is None:
        return "not finished", [f"{tool}: stopped after {run.seconds:.0f} s"]
    kind = "RACECHECK" if tool == "racecheck" else "ERROR"
    found = re.search(rf"{kind} SUMMARY: (\d+) (?:errors?|hazards?)", run.output)
    if found is None:
        told = _last_line("\n".join(re.findall(r"^========= (.*)$", run.output, re.M)))
        return "not run", [f"{tool}: it did not run here: {told or _last_line(run.output)}"]
    count = int(found[1])
    if count == 0 and run.code == 0:
        calls = re.search(r"^\d+ calls right.*$", run.output, re.M)
        if calls:
            return "passed", [f"{tool}: nothing found; {calls[0]}; {run.seconds:.0f} s"]
    places = Counter(re.findall(r"^=========\s+at (.+)$", run.output, re.M))
    lines = [f"{tool}: **{count} found**, exit code {run.code}: {_last_line(run.output)}"]
    return "failed", [*lines, *(f"{n} times at `{at}`" for at, n in places.most_common(8))]


def bench(shell: Shell, end: float, options: Namespace) -> Part:
    """Both scripts of the benchmark on the GPU, each within its share of the time."""
    part = Part("passed")
    for name in options.suite:
        left = end - time.monotonic() - GRACE_SECONDS
        limit = (
            min(left, ROTATION_SECONDS) if name == "rotation" and len(options.suite) > 1 else left
        )
        command = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--device", "cuda"]
        command += ["--full"] * (name == "synthesis")
        command += [
            "--budget",
            f"{max(1.0, limit - SCRIPT_SECONDS):.0f}",
            "--out",
            str(options.out),
        ]
        if options.dtype:
            command += ["--dtype", *options.dtype]
        table = options.out / f"{name}-gpu.csv"
        table.unlink(missing_ok=True)
        run = shell.run(command, limit)
        state, lines = read_bench(name, run, table)
        part.lines += lines
        part.table += bench_table(table) if table.exists() else []
        if part.state == "passed" or state == "failed":
            part.state = state
    return part


def read_bench(name: str, run: Run, table: Path) -> tuple[str, list[str]]:
    """State and lines from the output of one script and the rows that it has written."""
    rows = read_table(table)
    cases = len({tuple(row[column] for column in CASE) for row in rows})
    lines = [f"{name}: {cases} cases, {len(rows)} rows, {run.seconds:.0f} s"]
    ours = [row for row in rows if row["kind"] == "ours" and row["status"] != "right"]
    for status, count in Counter(row["status"] for row in ours).items():
        lines.append(f"{name}: ntensor's row in {count} cases: {status}")
    lines += re.findall(r"^  ((?:reached|MISSED) .*)$", run.output, re.M)
    lines += re.findall(r"^not reached in the given time: .*$", run.output, re.M)
    if run.code is None:
        return "not finished", [*lines, f"{name}: stopped after {run.seconds:.0f} s"]
    if run.code != 0 or not rows:
        return "failed", [*lines, f"{name} ended with {run.code}: {_last_line(run.output)}"]
    return "passed", lines


CASE = ("operation", "layout", "shape", "n", "dtype", "pass")


def bench_table(table: Path) -> list[str]:
    """The library's rows as Markdown."""
    columns = {
        "median_ms": "ms",
        "times_faster_than_gemm_limit": "vs limit",
        "times_faster_than_best_torch": "vs torch",
        "fraction_of_roof": "of roof",
        "extra_bytes": "extra bytes",
        "host_us": "host us",
        "timing": "timing",
    }
    heads = [*CASE, "method", "gradient", *columns.values()]
    lines = ["", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in read_table(table):
        if row["kind"] == "ours" and row["status"] == "right":
            cells = [row[key] for key in (*CASE, "method", "gradient", *columns)]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _not_run(output: str) -> list[str]:
    """Each reason why a backend was not run, once."""
    reasons = Counter(re.findall(r"^not run: (\S+ \S+) .*?: (.*)$", output, re.M))
    return [f"not run: {what}, {count} calls: {why}" for (what, why), count in reasons.items()]


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no output"


PARTS: dict[str, Callable[[Shell, float, Namespace], Part]] = {
    "tests": tests,
    "sanitizer": sanitizer,
    "bench": bench,
}
