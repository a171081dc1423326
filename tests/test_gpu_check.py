"""The GPU command of the benchmarks: its steps, its programs, and what it makes of their output."""

import os
import subprocess
import sys

import pytest
import torch

import gpu_check
from gpu import small, steps
from gpu.correctness import ALLOWED
from gpu.programs import Run, Shell, read_sanitizer, read_small, read_tests
from gpu.step import Outcome, Step
from gpu.summary import summary_of

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
    outcome = read_sanitizer(tool, run)
    assert outcome.state == state
    assert outcome.lines[0].startswith(f"{tool}: ")
    if "some_kernel" in run.output:
        assert "some_kernel" in outcome.lines[1]


def test_what_the_small_calls_said():
    assert read_small(Run(0, FINE, 1.0)).state == "passed"
    assert read_small(Run(0, "0 calls right, 0 wrong\n", 1.0)).state == "failed"
    assert read_small(Run(None, "", 1.0)).state == "not finished"
    outcome = read_small(Run(1, "wrong: native float32 a: errors output 0 1.0e+00\n" + FINE, 1.0))
    assert outcome.state == "failed" and outcome.lines[-1].startswith("wrong: native")


def test_small_calls(capsys, monkeypatch):
    assert small.check_all(CPU, ("native",), ("float32",)) == 0
    assert "calls right, 0 wrong" in capsys.readouterr().out
    monkeypatch.setattr(small, "why_not", lambda *call: "there is none")
    assert small.check_all(CPU, ("triton",), ("float32",)) == 0
    printed = capsys.readouterr().out
    assert "not run: triton float32 synthesis" in printed and "0 calls right" in printed


def test_small_calls_can_fail(monkeypatch, capsys):
    monkeypatch.setitem(ALLOWED, "float32", 0.0)
    monkeypatch.setattr(small, "MOST_ELEMENTS", 2000)
    assert small.check_all(CPU, ("native",), ("float32",)) > 0


def test_the_order_of_the_steps():
    listed = steps.all_steps(4)
    assert len({step.name for step in listed}) == len(listed)
    sections = list(dict.fromkeys(step.section for step in listed))
    wanted = "LOOK", "CHECKS", "FIRST", "TESTS", "REST", "SANITIZER"
    assert sections == [getattr(steps, name) for name in wanted]
    assert sum(step.section == sections[2] for step in listed) == 10
    checked = {
        (step.arguments["backend"], step.arguments["dtype"], step.arguments["operation"])
        for step in listed
        if step.kind == "check"
    }
    assert len(checked) == 3 * 4 * 12
    # None takes so long that no call of nine minutes has room for it.
    assert all(0 < step.seconds < 300 for step in listed)
    names = [step.name for step in listed if step.kind == "tests"]
    assert "test_gpu.py::test_every_operation" in names
    tuned = ["max-autotune" in step.name for step in listed if step.section == sections[4]]
    assert tuned == sorted(tuned) and any(tuned)


SPEED = {
    **dict.fromkeys(("operation", "layout", "shape", "dtype", "pass", "gradient"), "a"),
    **dict.fromkeys(("times_faster_than_gemm_limit", "times_faster_than_best_torch"), 1.5),
    **dict.fromkeys(("fraction_of_roof", "extra_bytes", "host_us", "timing"), 2),
    "n": 64,
    "status": "right",
}


def test_the_summary():
    listed = [
        Step("check", "Correctness", "check", 1.0),
        Step("row", "Benchmark", "bench", 1.0),
        Step("tool", "compute-sanitizer", "sanitizer", 1.0),
    ]
    error = {"operation": "rotation", "case": "b", "backend": "native", "dtype": "float32"}
    error |= {"result": "output 0", "allowed": 5e-6, "status": "right"}
    rows = [
        {**SPEED, "method": name, "kind": kind, "median_ms": milliseconds}
        for name, kind, milliseconds in (
            ("slow one", "torch", 9.0),
            ("ntensor (triton)", "ours", 0.5),
            ("fast one", "torch", 3.0),
        )
    ]
    outcomes = {
        "check": Outcome("passed", [], [{**error, "error": e} for e in (1e-7, 3e-6)], 2.0),
        "row": Outcome("failed", ["MISSED 0.5"], rows, 4.0),
    }
    text = summary_of({"device": "some GPU"}, listed, outcomes)
    assert "**Did not pass: row.** Of 3 steps: 1 passed, 1 failed, 1 not reached." in text
    assert "| native | float32 | 2 | 3.0e-06 (rotation b, output 0) | 5e-06 |" in text
    assert "- MISSED 0.5" in text and "- not reached: tool" in text
    assert "ntensor (triton)" in text and "fast one" in text and "slow one" not in text


def test_what_the_results_are_of(tmp_path):
    for folder in gpu_check.FOLDERS:
        (tmp_path / folder / "faces").mkdir(parents=True)
    before = gpu_check.tree(tmp_path)
    (tmp_path / "ntensor" / "faces" / "a.py").write_text("1")
    (tmp_path / "benchmarks" / "a.csv").write_text("1")
    assert gpu_check.tree(tmp_path) == before
    (tmp_path / "ntensor" / "_cuda.so").write_bytes(b"1")
    built = gpu_check.tree(tmp_path)
    (tmp_path / "csrc" / "a.cuh").write_text("1")
    assert len({before, built, gpu_check.tree(tmp_path)}) == 3


def test_the_list_needs_no_gpu(capsys):
    assert gpu_check.main(["--list", "--only", "float64", "TINY"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("rotation, native, float64" in line for line in lines)
    assert any("tiny n=4 float32 forward" in line for line in lines)
    assert not any("bfloat16" in line for line in lines)


@pytest.mark.parametrize(
    ("words", "text"), [([], "--out DIR is needed"), (["--minutes", "0"], "--minutes above 0")]
)
def test_wrong_words(words, text, capsys):
    with pytest.raises(SystemExit):
        gpu_check.main(words)
    assert text in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(tmp_path, capsys):
    assert gpu_check.main(["--out", str(tmp_path / "out")]) == gpu_check.NO_GPU
    assert capsys.readouterr().out.startswith("There is no CUDA GPU")
    assert not (tmp_path / "out").exists()


def test_a_whole_call(tmp_path, monkeypatch, capsys):
    """As on a GPU, but for the device: what is checked runs on the CPU."""
    from harness import device

    monkeypatch.setattr(device, "missing_device", lambda name: "")
    monkeypatch.setattr(gpu_check, "subject", lambda: {"tree": "a", "device": "none"})
    monkeypatch.setattr(gpu_check, "DEVICE", "cpu")
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    words = ["--out", str(tmp_path), "--only", "build", "contract, native", ", triton, float16"]
    words += ["--workers", "2"]
    assert gpu_check.main(words) == 0
    printed = capsys.readouterr().out
    assert "contract, native, float64: passed" in printed
    assert "rotation, triton, float16: not run" in printed
    table = (tmp_path / "correctness-gpu.csv").read_text().splitlines()
    assert len(table) == 1 + 4 * 2 * 3
    assert "Of 284 steps: 5 passed, 12 not run" in (tmp_path / "summary.md").read_text()
    assert gpu_check.main(words) == 0
    assert "contract, native" not in capsys.readouterr().out
