"""The child processes of `gpu_check.py`: what one of them breaks leaves the others alone."""

import signal
import sys
import time

import pytest

from gpu.execution import Execution, Worker
from gpu.step import FAILED, NOT_FINISHED, PASSED, Outcome, Step

# Does what its task's case says.
PROGRAM = """
import json, os, sys, time
answers = os.fdopen(int(sys.argv[1]), "w")
print("{}", file=answers, flush=True)
for line in sys.stdin:
    case = json.loads(line)["arguments"]["case"]
    print("begins", case, flush=True)
    if case == "dies":
        os.abort()
    if case == "leaves":
        sys.exit(3)
    if case == "hangs":
        time.sleep(60)
    state = "failed" if case == "fails" else "passed"
    answer = {"state": state, "lines": [case] * (case == "fails"), "rows": [{"pid": os.getpid()}]}
    print(json.dumps(answer), file=answers, flush=True)
"""


@pytest.fixture
def log(tmp_path):
    with (tmp_path / "log.txt").open("a") as file:
        yield file


@pytest.fixture
def program(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    return [sys.executable, str(tmp_path / "program.py")]


def test_a_process_serves_until_it_fails(log, program):
    worker = Worker(log, program=program)
    outcomes = [worker.do("", {"case": case}, 30.0) for case in ("a", "b", "fails", "c")]
    assert [outcome.state for outcome in outcomes] == [PASSED, PASSED, FAILED, PASSED]
    processes = [outcome.rows[0]["pid"] for outcome in outcomes]
    assert processes[0] == processes[1] == processes[2] != processes[3]
    worker.close()
    worker.close()


@pytest.mark.parametrize(
    ("case", "seconds", "outcome"),
    [
        ("dies", 30.0, Outcome(FAILED, [f"its process ended with signal {signal.SIGABRT:d}"])),
        ("leaves", 30.0, Outcome(FAILED, ["its process ended with exit code 3"])),
        ("hangs", 3.0, Outcome(NOT_FINISHED, ["stopped after 3 s"])),
    ],
)
def test_a_process_that_is_lost(log, program, case, seconds, outcome):
    worker = Worker(log, program=program)
    start = time.monotonic()
    found = worker.do("", {"case": case}, seconds)
    assert found.state == outcome.state and found.lines[0].startswith(outcome.lines[0])
    assert time.monotonic() - start < 20
    assert worker.do("", {"case": "next"}, 30.0).state == PASSED
    worker.close()


def test_a_program_that_does_not_begin(log):
    worker = Worker(log, program=[sys.executable, "-c", "raise SystemExit(5)"])
    assert worker.do("", {}, 20.0).lines[0].startswith("its process ended with exit code 5")


def check_of(*cases):
    arguments = {"operation": "a", "backend": "b", "dtype": "c", "cases": list(cases)}
    return Step("a, b, c", "Correctness", "check", 10.0, arguments)


def test_each_case_by_itself(log, program):
    execution = Execution(log, "cpu", 1, program)
    outcome = execution(check_of("x", "dies", "y", "fails", "z"), 60.0)
    assert outcome.state == FAILED and len(outcome.rows) == 4
    assert outcome.lines[0].startswith("dies: its process ended with signal 6")
    assert outcome.lines[1:] == ["fails"]
    outcome = execution(check_of("x", "hangs", "y", "z"), 3.0)
    assert outcome.state == NOT_FINISHED and len(outcome.rows) == 1
    assert outcome.lines[-1] == "not reached: 2 of 4 cases"
    execution.stop()
    with pytest.raises(RuntimeError, match="stopped"):
        execution(check_of("x"), 3.0)


def test_the_benchmark_of_a_case(log, tmp_path):
    """The worker itself, on the CPU."""
    case = {"shape": "tiny", "n": 4, "dtype": "float32", "pass_": "forward"}
    arguments = {"suite": "synthesis", "case": case, "methods": ["ntensor", "GEMM limit, torch"]}
    execution = Execution(log, "cpu", 1)
    outcome = execution(Step("tiny", "Benchmark", "bench", 60.0, arguments), 120.0)
    execution.stop()
    assert outcome.state == PASSED, (tmp_path / "log.txt").read_text()
    assert {row["kind"] for row in outcome.rows} == {"ours", "limit"}
    assert all(row["status"] == "right" and row["median_ms"] for row in outcome.rows)
    assert {"commit", "torch", "roof_copy"} <= set(outcome.rows[0])
