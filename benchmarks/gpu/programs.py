"""The programs of `gpu_check.py`: each runs for a limited time, and its output is read."""

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
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from gpu.step import FAILED, NOT_FINISHED, NOT_RUN, PASSED, Outcome
from harness.options import ROOT

BENCHMARKS = ROOT / "benchmarks"
# A stopped program may still write what it has.
GRACE_SECONDS = 5.0
SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")
SANITIZER_FOUND = 99
MOST_NAMED = 40


@dataclass
class Run:
    """What a program left: exit code (None: stopped at its limit), output, seconds."""

    code: int | None
    output: str
    seconds: float


def environment() -> dict[str, str]:
    """Of the programs: they find the package and what is in this folder, installed or not."""
    paths = filter(None, (str(ROOT), str(BENCHMARKS), os.environ.get("PYTHONPATH")))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


class Shell:
    """Runs programs in the project's folder, their output appended to a log."""

    def __init__(self, log: TextIO) -> None:
        self._log = log

    def run(self, command: list[str], seconds: float, **variables: str) -> Run:
        """Run for at most about `seconds`: then it is interrupted, and killed if it stays."""
        print(f"\n$ {shlex.join(command)}", file=self._log, flush=True)
        path = Path(self._log.name)
        begin = path.stat().st_size
        start = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment() | variables,
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


def tests(shell: Shell, seconds: float, name: str, workers: int) -> Outcome:
    """One test function of the marker `gpu`, all its cases."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", name, "-v", "--tb=short"]
    command += ["-p", "no:cacheprovider", "-o", "console_output_style=classic"]
    command += ["-n", str(workers if workers > 1 else 0)]
    return read_tests(shell.run(command, seconds))


def read_tests(run: Run) -> Outcome:
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
        return Outcome(FAILED, lines)
    if run.code is None:
        return Outcome(NOT_FINISHED, [*lines, f"stopped after {run.seconds:.0f} s"])
    if run.code != 0:
        return Outcome(FAILED, [*lines, f"pytest ended with {run.code}: {_last_line(run.output)}"])
    if not counts["PASSED"]:
        return Outcome(FAILED, [*lines, "no test passed, so nothing is shown"])
    return Outcome(PASSED, lines)


def sanitizer(shell: Shell, seconds: float, tool: str) -> Outcome:
    """Small calls of every operation under a tool of compute-sanitizer, or ("") without one."""
    program = [sys.executable, "-m", "gpu.small"]
    if not tool:
        return read_small(shell.run(program, seconds))
    found = find_sanitizer()
    if found is None:
        return Outcome(NOT_RUN, ["compute-sanitizer is not installed here"])
    command = [found, "--tool", tool, "--error-exitcode", str(SANITIZER_FOUND)]
    command += ["--report-api-errors", "no", "--print-limit", "50"]
    command += ["--target-processes", "application-only", "--launch-timeout", "0"]
    run = shell.run([*command, *program], seconds, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    return read_sanitizer(tool, run)


def read_small(run: Run) -> Outcome:
    """What `small.py` said by itself."""
    lines = [_last_line(run.output), *_not_run(run.output)]
    if run.code is None:
        return Outcome(NOT_FINISHED, [*lines, f"stopped after {run.seconds:.0f} s"])
    if run.code != 0:
        return Outcome(FAILED, [*lines, *re.findall(r"^wrong: .*$", run.output, re.M)[:MOST_NAMED]])
    if "\n0 calls right" in "\n" + run.output:
        return Outcome(FAILED, [*lines, "no backend of the GPU can serve, so nothing is shown"])
    return Outcome(PASSED, lines)


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


def read_sanitizer(tool: str, run: Run) -> Outcome:
    """What one tool said."""
    if run.code is None:
        return Outcome(NOT_FINISHED, [f"{tool}: stopped after {run.seconds:.0f} s"])
    kind = "RACECHECK" if tool == "racecheck" else "ERROR"
    found = re.search(rf"{kind} SUMMARY: (\d+) (?:errors?|hazards?)", run.output)
    if found is None:
        told = _last_line("\n".join(re.findall(r"^========= (.*)$", run.output, re.M)))
        said = told or _last_line(run.output)
        return Outcome(NOT_RUN, [f"{tool}: it did not run here: {said}"])
    count = int(found[1])
    if count == 0 and run.code == 0:
        calls = re.search(r"^\d+ calls right.*$", run.output, re.M)
        if calls:
            return Outcome(PASSED, [f"{tool}: nothing found; {calls[0]}; {run.seconds:.0f} s"])
    places = Counter(re.findall(r"^=========\s+at (.+)$", run.output, re.M))
    lines = [f"{tool}: **{count} found**, exit code {run.code}: {_last_line(run.output)}"]
    return Outcome(FAILED, [*lines, *(f"{n} times at `{at}`" for at, n in places.most_common(8))])


def _not_run(output: str) -> list[str]:
    """Each reason why a backend was not run, once."""
    reasons = Counter(re.findall(r"^not run: (\S+ \S+) .*?: (.*)$", output, re.M))
    return [f"not run: {what}, {count} calls: {why}" for (what, why), count in reasons.items()]


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no output"
