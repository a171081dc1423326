"""How a step of `gpu_check.py` is done: by a child process, or by a program of its own.

Imports neither torch nor numpy.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

from gpu import programs
from gpu.programs import Shell
from gpu.step import FAILED, NOT_FINISHED, NOT_RUN, PASSED, Outcome, Step
from harness.options import ROOT

PROGRAM = [sys.executable, "-m", "gpu.worker"]
# Importing torch and waking a GPU.
START_SECONDS = 60.0
# Between a benchmark's own budget and its end.
WRITING_SECONDS = 5.0


class Worker:
    """A child process that does tasks, begun again where it ended."""

    def __init__(self, log: TextIO, threads: int = 0, program: list[str] = PROGRAM) -> None:
        self._log, self._command = log, [*program]
        self._threads = threads
        self._process: subprocess.Popen | None = None
        self._answers = -1
        self._read = b""

    def do(self, kind: str, arguments: dict, seconds: float) -> Outcome:
        """The outcome of a task; a process that failed, hung or died is not used again."""
        end = time.monotonic() + seconds
        if self._process is None:
            self._begin()
            if not (begun := self._answer(min(START_SECONDS, seconds))):
                return self._lost(begun, "its process did not begin in time", seconds)
        assert self._process is not None and self._process.stdin is not None
        task = json.dumps({"kind": kind, "arguments": arguments}) + "\n"
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(task.encode())
            self._process.stdin.flush()
        line = self._answer(end - time.monotonic())
        if not line:
            return self._lost(line, "", seconds)
        outcome = Outcome(**json.loads(line))
        if outcome.state == FAILED:
            self.close()
        return outcome

    def close(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        os.close(self._answers)
        self._read = b""

    def _begin(self) -> None:
        self._answers, theirs = os.pipe()
        self._process = subprocess.Popen(
            [*self._command, str(theirs), str(self._threads)],
            cwd=ROOT,
            env=programs.environment(),
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            pass_fds=(theirs,),
            start_new_session=True,
        )
        os.close(theirs)

    def _answer(self, seconds: float) -> bytes | None:
        """A line of the process; None where none came in time, nothing where it ended."""
        end = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._answers, selectors.EVENT_READ)
            while b"\n" not in self._read:
                if not selector.select(max(0.0, end - time.monotonic())):
                    return None
                part = os.read(self._answers, 1 << 16)
                if not part:
                    return b""
                self._read += part
        line, _, self._read = self._read.partition(b"\n")
        return line

    def _lost(self, answer: bytes | None, why: str, seconds: float) -> Outcome:
        process = self._process
        assert process is not None
        if answer is None:
            self.close()
            return Outcome(NOT_FINISHED, [why or f"stopped after {seconds:.0f} s"])
        code = process.wait()
        self.close()
        told = f"signal {-code}" if code < 0 else f"exit code {code}"
        return Outcome(FAILED, [f"its process ended with {told}; log.txt has what it printed"])


class Execution:
    """Does steps; threads that do them at the same time have a worker each.

    Args:
        workers: how many at the same time, which share the processors.
    """

    def __init__(
        self, log: TextIO, device: str, workers: int, program: list[str] = PROGRAM
    ) -> None:
        self._log, self._device, self._program = log, device, program
        self._workers = workers
        self._own = threading.local()
        self._all: list[Worker] = []
        self._stopped = False
        self._kinds: dict[str, Callable[[Step, float], Outcome]] = {
            "look": self._look,
            "check": self._check,
            "bench": self._bench,
            "tests": self._tests,
            "sanitizer": self._sanitizer,
        }

    def __call__(self, step: Step, seconds: float) -> Outcome:
        return self._kinds[step.kind](step, seconds)

    def rest(self) -> None:
        """Ends the workers."""
        while self._all:
            self._all.pop().close()
        self._own = threading.local()

    def stop(self) -> None:
        """Ends the workers; none begins after that."""
        self._stopped = True
        self.rest()

    def _worker(self, threads: int = 0) -> Worker:
        if self._stopped:
            raise RuntimeError("stopped")
        if not hasattr(self._own, "worker"):
            self._own.worker = Worker(self._log, threads, self._program)
            self._all.append(self._own.worker)
        return self._own.worker

    def _look(self, step: Step, seconds: float) -> Outcome:
        return self._worker().do("look", {"device": self._device}, seconds)

    def _check(self, step: Step, seconds: float) -> Outcome:
        """Each case by itself, so that what one of them breaks leaves the others alone."""
        end = time.monotonic() + seconds
        threads = max(1, (os.cpu_count() or 1) // self._workers)
        outcome = Outcome(PASSED)
        unable = {}
        cases = step.arguments["cases"]
        for number, case in enumerate(cases):
            left = end - time.monotonic()
            if left <= 0:
                outcome.lines.append(f"not reached: {len(cases) - number} of {len(cases)} cases")
                outcome.state = NOT_FINISHED if outcome.state == PASSED else outcome.state
                break
            arguments = {key: value for key, value in step.arguments.items() if key != "cases"}
            arguments |= {"case": case, "device": self._device}
            found = self._worker(threads).do("check", arguments, left)
            outcome.rows += found.rows
            if found.state == NOT_RUN:
                unable |= dict.fromkeys(found.lines)
            elif found.state != PASSED:
                named = (line if case in line else f"{case}: {line}" for line in found.lines)
                outcome.lines += named
                outcome.state = found.state if outcome.state != FAILED else FAILED
        if unable and not outcome.rows and outcome.state == PASSED:
            outcome.state = NOT_RUN
        outcome.lines += unable
        return outcome

    def _bench(self, step: Step, seconds: float) -> Outcome:
        budget = max(1.0, seconds - WRITING_SECONDS)
        arguments = {**step.arguments, "seconds": budget, "device": self._device}
        return self._worker().do("bench", arguments, seconds)

    def _tests(self, step: Step, seconds: float) -> Outcome:
        return programs.tests(Shell(self._log), seconds, **step.arguments)

    def _sanitizer(self, step: Step, seconds: float) -> Outcome:
        return programs.sanitizer(Shell(self._log), seconds, **step.arguments)
