"""The benchmarks where no device is needed: cases and targets, clocks, checks, the GPU command."""

import contextlib
import csv
import json
import os
import subprocess
import sys
import time
from argparse import Namespace

import pytest
import torch

import _cases
import _device
import _finish
import _gpu_parts
import _gpu_small
import _methods
import _roof
import _rotation_rivals
import _runner
import _targets
import gpu_check
import rotation
from _files import replaced
from _gpu_parts import Run
from _problem import ProjectionProblem, projection_reference
from _rivals import methods
from _timing import LONGEST_CAPTURED_CALL, WARM_UPS, DeviceClock, HostClock, Step, Timed, rank

CPU = torch.device("cpu")
PROJECTION = _runner.Suite(ProjectionProblem, projection_reference, methods)
ROTATION = _runner.Suite(
    _rotation_rivals.RotationProblem,
    _rotation_rivals.rotation_reference,
    _rotation_rivals.methods,
)


class FakeCuda:
    """The part of `torch.cuda` that a `DeviceClock` uses; what is called goes to `log`.

    A captured block runs once, as it is entered; `capturable=False` makes the capture fail as CUDA
    does, at its end. Every event pair is 2 ms apart.
    """

    def __init__(self, capturable=True):
        self.log, self.capturable = [], capturable
        self.CUDAGraph = lambda: Namespace(replay=lambda: self.log.append("replay"))

    def Stream(self, device):
        return Namespace(wait_stream=lambda other: None)

    current_stream = Stream

    def stream(self, stream):
        return contextlib.nullcontext()

    def set_stream(self, stream):
        self.log.append("stream put back")

    def Event(self, enable_timing):
        return Namespace(
            record=lambda: self.log.append("event"),
            synchronize=lambda: None,
            elapsed_time=lambda end: 2.0,
        )

    def synchronize(self, device):
        pass

    def graph_pool_handle(self):
        return 1

    @contextlib.contextmanager
    def graph(self, graph, pool, stream):
        self.log.append("capture")
        yield
        if not self.capturable:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")


def logged_step(cuda, seconds=0.0):
    def call(prepared):
        time.sleep(seconds)
        cuda.log.append(f"call {prepared}")

    def prepare():
        cuda.log.append("prepare")
        return 7

    finish = cuda.log.append
    return Step(call, lambda _: {}, prepare=prepare, finish=lambda: finish("finish"))


def test_replays_are_timed():
    cuda = FakeCuda()
    clock, step = DeviceClock(CPU, 64, cuda), logged_step(cuda)
    clock.record(step)
    assert cuda.log == ["prepare", "call 7", "finish"] * WARM_UPS + [
        *("capture", "prepare"),
        *("capture", "call 7"),
    ]
    cuda.log.clear()
    assert clock.sample(Timed(step, 1.0), single=False) == pytest.approx(2e-3)
    assert cuda.log == ["replay", "event", "replay", "event"]


def test_cache_is_flushed_before_the_first_event():
    cuda = FakeCuda()
    clock = DeviceClock(CPU, 64, cuda)
    clock._written.fill_(1.0)
    clock._sum.fill_(0.0)
    clock.events(lambda: cuda.log.append(float(clock._written.sum() + clock._sum)))
    assert cuda.log == ["event", 16.0, "event"]


def test_what_cannot_be_captured_is_timed_eagerly():
    cuda = FakeCuda(capturable=False)
    clock, step = DeviceClock(CPU, 64, cuda), logged_step(cuda)
    replay = clock.record(step)
    wanted = "not capturable: RuntimeError: operation not permitted when stream is capturing"
    assert replay.eager_because == wanted
    assert cuda.log[-2:] == ["stream put back", "finish"]
    cuda.log.clear()
    clock.seconds(step)
    assert cuda.log == ["prepare", "event", "call 7", "finish", "event"]


def test_long_calls_are_not_captured():
    cuda = FakeCuda()
    replay = DeviceClock(CPU, 64, cuda).record(logged_step(cuda, 1.1 * LONGEST_CAPTURED_CALL))
    assert "longer than" in replay.eager_because
    assert "capture" not in cuda.log


def test_ranking_keeps_no_graph():
    cuda = FakeCuda()
    steps = {label: logged_step(cuda) for label in ("a", "b")}
    assert sorted(rank(steps, DeviceClock(CPU, 64, cuda))) == ["a", "b"]
    assert all(step.replay is None and step.note == label for label, step in steps.items())


def test_host_sample_is_the_second_of_two_calls():
    calls = []
    step = Step(calls.append, lambda _: {}, prepare=lambda: 1)
    HostClock().sample(Timed(step, 1.0), single=False)
    assert len(calls) == 2
    HostClock().sample(Timed(step, 1.0), single=True)
    assert len(calls) == 3


def options(**changed):
    base = Namespace(
        device="cpu",
        threads=1,
        backend=["native"],
        methods=None,
        quick=True,
        seconds=0.01,
        repeats=1,
        budget=None,
    )
    return Namespace(**{**vars(base), **changed})


def quick_cases(*passes, dtype="float32", n=5):
    return [_cases.Case(_cases.SHAPES["quick3"], n, dtype, pass_) for pass_ in passes]


def assert_all_right(result):
    wrong = [
        (row.case.title, row.method.name, row.status)
        for row in result.rows
        if row.status and not row.method.missing
    ]
    assert not wrong
    assert result.exit_code == 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_method_of_the_parts_of_backward(dtype):
    result = _runner.run(
        quick_cases("factor-grads", "core-grad", dtype=dtype), PROJECTION, options()
    )
    assert_all_right(result)
    names = {(row.case.pass_, row.method.name, row.method.gradient) for row in result.rows}
    assert ("core-grad", "Function over torch.mm", "adds") in names
    assert ("factor-grads", "Function over torch.mm", "") in names
    for row in result.rows:
        if row.errors:
            assert ("core_grad" in row.errors) == (row.case.pass_ == "core-grad")
            assert ("factor_grad_0" in row.errors) == (row.case.pass_ == "factor-grads")


def test_every_method_of_the_plain_synthesis():
    shape = _cases.ROTATION_SHAPES["quick"]
    cases = _cases.plain_synthesis_cases(shape, (5,), ("forward", "backward", "both"), ("float32",))
    assert_all_right(_runner.run(cases, ROTATION, options()))


def test_the_runner_checks_what_the_device_clock_replays(monkeypatch):
    """The fake's replay computes nothing, so a gradient that is overwritten stays NaN."""
    monkeypatch.setattr(_runner, "HostClock", lambda: DeviceClock(CPU, 64, FakeCuda()))
    monkeypatch.setattr(_runner, "measure_device_roof", lambda clock, dtypes: _roof.Roof())
    cases = quick_cases("forward", "core-grad")
    result = _runner.run(cases, PROJECTION, options(methods=["ntensor", "limit, torch"]))
    rows = {(row.case.pass_, row.method.name, row.method.gradient): row for row in result.rows}
    forward = rows["forward", "ntensor (native)", ""]
    assert forward.timing == "graph" and forward.right and forward.host_seconds > 0
    assert forward.median == pytest.approx(2e-3)
    limit = rows["core-grad", "GEMM limit, torch", "overwrites"]
    assert limit.status.startswith("wrong: error nan")


def test_a_run_ends_with_its_budget():
    saved = []
    cases = quick_cases("forward", "mean")
    result = _runner.run(cases, PROJECTION, options(budget=1.0), saved.append)
    assert result.unreached == cases and not result.rows and not saved

    result = _runner.run(cases, PROJECTION, options(budget=600.0), saved.append)
    assert not result.unreached and len(saved) == 2
    assert [case.pass_ for case in saved[0].unreached] == ["mean"]


def test_compiling_has_its_share_of_a_budget():
    compiled = _methods.Method("", "torch", None, compiles=True, compile_seconds=20.0)
    plain = _methods.Method("", "torch", None)
    now = time.monotonic()
    assert not _runner.Deadline().why_not_compile(compiled)
    assert not _runner.Deadline(now + 600, 100.0).why_not_compile(compiled)
    assert "used up" in _runner.Deadline(now + 600, 0.0).why_not_compile(compiled)
    assert "too little" in _runner.Deadline(now + 10, 100.0).why_not_compile(compiled)
    assert not _runner.Deadline(now, 0.0).why_not_compile(plain)


def full_gpu_cases():
    parsed = Namespace(
        device="cuda", full=True, quick=False, shape=None, n=None, dtype=None, passes=None
    )
    return [*_cases.FULL_GPU_SYNTHESIS, *rotation.cases_of(parsed)]


def test_cases_of_a_gpu_hold_every_target():
    cases = full_gpu_cases()
    keys = [(c.operation, c.shape.name, c.n, c.dtype, c.pass_, c.layout) for c in cases]
    assert len(set(keys)) == len(keys)
    for t in _targets.GPU_TARGETS:
        assert (t.operation, t.shape, t.n, t.dtype, t.pass_, t.layout) in keys, t
    for dtype in ("bfloat16", "float32"):
        for n in (16, 64, 256, 1024, 4096):
            for pass_ in _cases.GPU_PASSES:
                assert ("synthesis_projection", "paper3", n, dtype, pass_, "") in keys


def test_rivals_that_the_targets_name_exist():
    cuda = torch.device("cuda")
    by_case = {}
    for case in full_gpu_cases():
        suite = PROJECTION if case.operation == "synthesis_projection" else ROTATION
        key = (case.operation, case.shape.name, case.n, case.dtype, case.pass_, case.layout)
        by_case[key] = suite.methods(case, cuda, ["auto"])
    for t in _targets.GPU_TARGETS:
        listed = by_case[t.operation, t.shape, t.n, t.dtype, t.pass_, t.layout]
        assert any(m.kind == "ours" and t.gradient in ("", m.gradient) for m in listed)
        names = {m.name for m in listed} | {m.kind for m in listed}
        assert set(t.versus) <= names, t


def measured_row(case, seconds, extra=0):
    method = _methods.Method("ntensor (triton)", "ours", None, "fresh" if case.core_grad else "")
    return _runner.Row(case, method, samples=[seconds], extra_bytes=extra, errors={"output": 0.0})


@pytest.mark.parametrize(("factor", "reached"), [(0.9, True), (0.8, False)])
def test_fraction_of_bandwidth(factor, reached):
    shape = _cases.SHAPES["paper3"]
    rates = {"copy": 4e12, "write": 3e12}
    rows = []
    for pass_, kind in (("forward", "copy"), ("core-grad", "write")):
        case = _cases.Case(shape, 64, "bfloat16", pass_)
        size = 2 * (12288 * 10800 + 64 * (9 + 15 + 80) + 64 * 12288)
        rows.append(measured_row(case, size / rates[kind] / factor))
    result = _runner.Result(rows, {"device": "some GPU"}, _roof.Roof(rates))
    found = {outcome.target.kind: outcome for outcome in _targets.outcomes(result)}
    assert set(found) == {"copy", "write"}
    for outcome in found.values():
        assert outcome.measured == pytest.approx(factor)
        assert outcome.reached is reached
    on_cpu = _runner.Result(rows, {"device": "cpu"}, _roof.Roof())
    assert not _targets.outcomes(on_cpu)


def test_memory_beside_the_results():
    case = _cases.Case(_cases.SHAPES["paper3"], 4096, "bfloat16", "both")
    results = 2 * (4096 * 12288 + 4096 * (9 + 15 + 80) + 12288 * 10800)
    row = measured_row(case, 1.0, results + 2 * 4096 * 10800 // 4)
    result = _runner.Result([row], {"device": "some GPU"}, _roof.Roof({"copy": 1.0}))
    (outcome,) = _targets.outcomes(result)
    assert outcome.target.kind == "products"
    assert outcome.measured == pytest.approx(0.25)


def test_roofs_of_a_device():
    before = torch.backends.cuda.matmul.fp32_precision
    clock = DeviceClock(CPU, 64, FakeCuda())
    roof = _device.measure_device_roof(clock, {"float32", "float16"}, 4096, 8, 2)
    assert roof.rates["read"] == roof.rates["write"] == pytest.approx(4096 / 2e-3)
    assert roof.rates["copy"] == pytest.approx(8192 / 2e-3)
    kinds = {"gemm_bfloat16", "gemm_float16", "gemm_float32", "gemm_tf32"}
    assert set(roof.rates) == {"read", "write", "copy"} | kinds
    assert roof.rates["gemm_tf32"] == pytest.approx(2 * 8**3 / 2e-3)
    assert torch.backends.cuda.matmul.fp32_precision == before


def test_least_time_on_a_gpu():
    rates = {"read": 4e12, "write": 4e12, "copy": 4e12, "gemm_float32": 5e13, "gemm_tf32": 3e14}
    case = _cases.Case(_cases.SHAPES["paper3"], 4096, "float32", "factor-grads")
    seconds = _roof.Roof(rates).seconds(case, "")
    assert seconds == pytest.approx(2 * 4096 * 12288 * 10800 / 1e14)


def test_tables_of_a_gpu(tmp_path, capsys):
    case = _cases.Case(_cases.SHAPES["paper3"], 64, "bfloat16", "forward")
    row = measured_row(case, 1e-4)
    row.timing, row.host_seconds = "graph", 3e-5
    names = ("driver", "cuda", "torch", "triton", "ntensor", "commit", "processor", "threads")
    names += ("blas_of_torch", "numpy", "blas_of_numpy", "huge_pages")
    machine = {"device": "some GPU", **dict.fromkeys(names, "x")}
    roof = _roof.Roof({"copy": 4e12, "write": 4e12})
    row.versus_torch = 2.0
    unreached = quick_cases("forward")
    result = _runner.Result([row], machine, roof, unreached)
    where = Namespace(out=tmp_path, device="cuda")
    assert _finish.finish(result, where, "synthesis") == 0
    text = capsys.readouterr().out
    assert "host us" in text and "not reached in the given time: 3-way" in text
    assert "MISSED" in text and "by ntensor (triton)" in text
    with (tmp_path / "synthesis-gpu.csv").open() as file:
        (record,) = csv.DictReader(file)
    assert (record["timing"], record["host_us"]) == ("graph", "30.0")
    assert (tmp_path / "synthesis-gpu.png").stat().st_size > 1000


def test_a_backend_that_cannot_serve_is_no_failure_beside_one_that_did():
    case = _cases.Case(_cases.SHAPES["paper3"], 64, "bfloat16", "forward")
    missing = _methods.Method("ntensor (native)", "ours", None, missing="not built")
    absent = _runner.Row(case, missing, "left out: not built")
    result = _runner.Result([measured_row(case, 1.0), absent], {"device": "x"}, _roof.Roof())
    assert result.exit_code == 0
    assert _runner.Result([absent], {"device": "x"}, _roof.Roof()).exit_code == 1


def test_unfinished_files_take_no_place(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(ValueError, match="stop"), replaced(path) as unfinished:
        unfinished.write_text("half")
        raise ValueError("stop")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["table.csv"]
    with replaced(path) as unfinished:
        unfinished.write_text("new")
    assert path.read_text() == "new"


@pytest.fixture
def shell(tmp_path):
    with (tmp_path / "log.txt").open("a") as log:
        yield _gpu_parts.Shell(log)


def test_programs_are_stopped_at_their_limit(shell):
    program = (
        "import time\nprint('begun')\n"
        "try: time.sleep(60)\nexcept KeyboardInterrupt: print('written')"
    )
    run = shell.run([sys.executable, "-c", program], 6.0)
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
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    return Run(done.returncode, done.stdout, 1.0)


def test_what_pytest_said(tmp_path):
    run = pytest_run(tmp_path, PYTEST_FILE)
    part = _gpu_parts.read_tests(run)
    assert part.state == "failed"
    assert part.lines[0] == "1 failed, 1 passed, 1 skipped; 3 selected"
    assert part.lines[1:] == [
        "did not pass: `test_some.py::test_wrong[with space]`",
        "skipped, 1: no second device",
    ]
    assert _gpu_parts.read_tests(pytest_run(tmp_path, PYTEST_FILE, "-n", "2")) == part
    run = pytest_run(tmp_path, PYTEST_FILE, "-k", "right or skipped")
    assert _gpu_parts.read_tests(run).state == "passed"
    cut = Run(None, run.output.partition("test_skipped")[0].rpartition("\n")[0], 9.0)
    part = _gpu_parts.read_tests(cut)
    assert part.state == "not finished" and "not reached: 1 of 2 tests" in part.lines
    run = pytest_run(tmp_path, PYTEST_FILE, "-k", "skipped")
    assert _gpu_parts.read_tests(run).state == "failed"
    assert _gpu_parts.read_tests(Run(4, "usage error", 1.0)).state == "failed"


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
    got, lines = _gpu_parts.read_sanitizer(tool, run)
    assert got == state
    assert lines[0].startswith(f"{tool}: ")
    if "some_kernel" in run.output:
        assert "some_kernel" in lines[1]


def test_small_calls():
    assert _gpu_small.check(CPU, ("native",), (torch.float32,)) == 0


def test_small_calls_can_fail(monkeypatch):
    monkeypatch.setitem(_gpu_small.TOLERANCE, torch.float32, 0.0)
    assert _gpu_small.check(CPU, ("native",), (torch.float32,)) > 0


def test_the_summary_says_what_did_not_pass(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "machine", lambda: {"device": "some GPU"})
    parts = {
        "tests": _gpu_parts.Part("failed", ["did not pass: `a`"], 3.0),
        "bench": _gpu_parts.Part("passed", ["MISSED 0.5"], 4.0, ["", "| a |", "|---|", "| 1 |"]),
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
