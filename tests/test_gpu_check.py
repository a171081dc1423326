"""The GPU command of the benchmarks: how it runs its parts, and what it makes of their outputs."""

import json
import os
import subprocess
import sys

import pytest
import torch

import gpu_check
from gpu import small
from gpu.parts import Part, Run, Shell, read_sanitizer, read_tests

CPU = torch.device("cpu")


@pytest.fixture
def shell(tmp_path):
    with (tmp_path / "log.txt").open("a") as log:
        yield Shell(log)


def test_programs_are_stopped_at_their_limit(shell):
    program = (
        "import time\nprint('begun')\n"
        "try: time.sleep(60)\nexcept KeyboardInterrupt: print('written')"
    )
    run = shell.run([sys.executable, "-c", program], 3.0)
    assert run.code is None and run.seconds < 50
    assert "begun" in run.output and "written" in run.output
    assert shell.run([sys.executable, "-c", "raise SystemExit(3)"], 20.0).code == 3


PYTEST_FILE = """
import pytest
def test_right(): pass
@pytest.mark.parametrize("value", ["with space"])
def test_wrong(value): assert False
def test_skipped(): pytest.skip("no second device")
"""


def pytest_run(tmp_path, text, *arguments):
    (tmp_path / "test_some.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-v", "-ra", "-p", "no:cacheprovider"]
    command += ["-c", os.devnull, "-o", "console_output_style=classic", "test_some.py", *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    return Run(done.returncode, done.stdout, 1.0)


def test_what_pytest_said(tmp_path):
    run = pytest_run(tmp_path, PYTEST_FILE)
    part = read_tests(run)
    assert part.state == "failed"
    assert part.lines[0] == "1 failed, 1 passed, 1 skipped; 3 selected"
    assert part.lines[1:] == [
        "did not pass: `test_some.py::test_wrong[with space]`",
        "skipped, 1: no second device",
    ]
    assert read_tests(pytest_run(tmp_path, PYTEST_FILE, "-n", "2")) == part
    run = pytest_run(tmp_path, PYTEST_FILE, "-k", "right or skipped")
    assert read_tests(run).state == "passed"
    cut = Run(None, run.output.partition("test_skipped")[0].rpartition("\n")[0], 9.0)
    part = read_tests(cut)
    assert part.state == "not finished" and "not reached: 1 of 2 tests" in part.lines
    run = pytest_run(tmp_path, PYTEST_FILE, "-k", "skipped")
    assert read_tests(run).state == "failed"
    assert read_tests(Run(4, "usage error", 1.0)).state == "failed"


FINE = "32 calls right, 0 wrong\n"
FOUND = (
    "========= Invalid __global__ write of size 4 bytes\n"
    "=========     at some_kernel+0x10 in file.cu:3\n" + FINE
)


@pytest.mark.parametrize(
    ("tool", "run", "state"),
    [
        ("memcheck", Run(0, FINE + "========= ERROR SUMMARY: 0 errors\n", 1.0), "passed"),
        ("memcheck", Run(99, FOUND + "========= ERROR SUMMARY: 1 error\n", 1.0), "failed"),
        ("memcheck", Run(1, "========= ERROR SUMMARY: 0 errors\n", 1.0), "failed"),
        ("memcheck", Run(-11, FINE + "========= ERROR SUMMARY: 0 errors\n", 1.0), "failed"),
        ("memcheck", Run(0, "========= ERROR SUMMARY: 0 errors\n", 1.0), "failed"),
        ("memcheck", Run(1, "========= Error: Device not supported\n", 1.0), "not run"),
        (
            "racecheck",
            Run(0, FINE + "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors)\n", 1.0),
            "passed",
        ),
        (
            "racecheck",
            Run(99, FINE + "========= RACECHECK SUMMARY: 1 hazard displayed (1 error)\n", 1.0),
            "failed",
        ),
        ("synccheck", Run(None, FINE, 90.0), "not finished"),
    ],
)
def test_what_the_sanitizer_said(tool, run, state):
    got, lines = read_sanitizer(tool, run)
    assert got == state
    assert lines[0].startswith(f"{tool}: ")
    if "some_kernel" in run.output:
        assert "some_kernel" in lines[1]


def test_small_calls():
    assert small.check(CPU, ("native",), (torch.float32,)) == 0


def test_small_calls_can_fail(monkeypatch):
    monkeypatch.setitem(small.TOLERANCE, torch.float32, 0.0)
    assert small.check(CPU, ("native",), (torch.float32,)) > 0


def test_the_summary_says_what_did_not_pass(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "machine", lambda: {"device": "some GPU"})
    parts = {
        "tests": Part("failed", ["did not pass: `a`"], 3.0),
        "bench": Part("passed", ["MISSED 0.5"], 4.0, ["", "| a |", "|---|", "| 1 |"]),
    }
    gpu_check.write(tmp_path, parts)
    text = (tmp_path / "summary.md").read_text()
    assert "**Did not pass: Tests.** Not run: compute-sanitizer." in text
    assert "- did not pass: `a`" in text and "- MISSED 0.5" in text and "| 1 |" in text
    assert gpu_check.earlier(tmp_path) == parts
    assert json.loads((tmp_path / "parts.json").read_text())["tests"]["state"] == "failed"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(tmp_path, capsys):
    assert gpu_check.main(["--out", str(tmp_path / "out")]) == gpu_check.NO_GPU
    assert capsys.readouterr().out.startswith("There is no CUDA GPU")
    assert not (tmp_path / "out").exists()
