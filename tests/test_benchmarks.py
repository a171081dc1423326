"""The benchmarks where no device is needed: cases and targets, the runner, roofs, tables."""

import ast
import csv
import os
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
import torch

import gpu.cases
import rotation
from fake_cuda import FakeCuda
from harness import runner, targets
from harness.cases import SHAPES, Case
from harness.deadline import Deadline
from harness.device import measure_device_roof
from harness.files import replaced
from harness.finish import finish
from harness.methods import Method
from harness.roof import Roof
from harness.timing import DeviceClock
from rivals.rotation import SUITE as ROTATION
from rivals.synthesis import SUITE as PROJECTION

CPU = torch.device("cpu")
BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


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
    return [Case(SHAPES["quick3"], n, dtype, pass_) for pass_ in passes]


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
    result = runner.run(
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
    shape = rotation.SHAPES["quick"]
    cases = [Case(shape, 5, pass_=p, operation="synthesis") for p in rotation.PASSES]
    assert_all_right(runner.run(cases, ROTATION, options()))


def test_the_runner_checks_what_the_device_clock_replays(monkeypatch):
    """The fake's replay computes nothing, so a gradient that is overwritten stays NaN."""
    monkeypatch.setattr(runner, "HostClock", lambda: DeviceClock(CPU, 64, FakeCuda()))
    monkeypatch.setattr(runner, "measure_device_roof", lambda clock, dtypes: Roof())
    cases = quick_cases("forward", "core-grad")
    result = runner.run(cases, PROJECTION, options(methods=["ntensor", "limit, torch"]))
    rows = {(row.case.pass_, row.method.name, row.method.gradient): row for row in result.rows}
    forward = rows["forward", "ntensor (native)", ""]
    assert forward.timing == "graph" and forward.right and forward.host_seconds > 0
    assert forward.median == pytest.approx(2e-3)
    limit = rows["core-grad", "GEMM limit, torch", "overwrites"]
    assert limit.status.startswith("wrong: error nan")


def test_a_run_ends_with_its_budget():
    saved = []
    cases = quick_cases("forward", "mean")
    result = runner.run(cases, PROJECTION, options(budget=1.0), saved.append)
    assert result.unreached == cases and not result.rows and not saved

    result = runner.run(cases, PROJECTION, options(budget=600.0), saved.append)
    assert not result.unreached and len(saved) == 2
    assert [case.pass_ for case in saved[0].unreached] == ["mean"]


def test_compiling_has_its_share_of_a_budget():
    compiled = Method("", "torch", None, compiles=True, compile_seconds=20.0)
    plain = Method("", "torch", None)
    now = time.monotonic()
    assert not Deadline().why_not_compile(compiled)
    assert not Deadline(now + 600, 100.0).why_not_compile(compiled)
    assert "used up" in Deadline(now + 600, 0.0).why_not_compile(compiled)
    assert "too little" in Deadline(now + 10, 100.0).why_not_compile(compiled)
    assert not Deadline(now, 0.0).why_not_compile(plain)


def full_gpu_cases():
    parsed = Namespace(
        device="cuda", full=True, quick=False, shape=None, n=None, dtype=None, passes=None
    )
    return [*gpu.cases.full(), *rotation.cases_of(parsed)]


def test_cases_of_a_gpu_hold_every_target():
    cases = full_gpu_cases()
    keys = [(c.operation, c.shape.name, c.n, c.dtype, c.pass_, c.layout) for c in cases]
    assert len(set(keys)) == len(keys)
    for t in targets.GPU_TARGETS:
        assert (t.operation, t.shape, t.n, t.dtype, t.pass_, t.layout) in keys, t
    for dtype in ("bfloat16", "float32"):
        for n in (16, 64, 256, 1024, 4096):
            for pass_ in gpu.cases.PASSES:
                assert ("synthesis_projection", "paper3", n, dtype, pass_, "") in keys


def test_rivals_that_the_targets_name_exist():
    cuda = torch.device("cuda")
    by_case = {}
    for case in full_gpu_cases():
        suite = PROJECTION if case.operation == "synthesis_projection" else ROTATION
        key = (case.operation, case.shape.name, case.n, case.dtype, case.pass_, case.layout)
        by_case[key] = suite.methods(case, cuda, ["auto"])
    for t in targets.GPU_TARGETS:
        listed = by_case[t.operation, t.shape, t.n, t.dtype, t.pass_, t.layout]
        assert any(m.kind == "ours" and t.gradient in ("", m.gradient) for m in listed)
        names = {m.name for m in listed} | {m.kind for m in listed}
        assert set(t.versus) <= names, t


def measured_row(case, seconds, extra=0):
    method = Method("ntensor (triton)", "ours", None, "fresh" if case.core_grad else "")
    return runner.Row(case, method, samples=[seconds], extra_bytes=extra, errors={"output": 0.0})


@pytest.mark.parametrize(("factor", "reached"), [(0.9, True), (0.8, False)])
def test_fraction_of_bandwidth(factor, reached):
    shape = SHAPES["paper3"]
    rates = {"copy": 4e12, "write": 3e12}
    rows = []
    for pass_, kind in (("forward", "copy"), ("core-grad", "write")):
        case = Case(shape, 64, "bfloat16", pass_)
        size = 2 * (12288 * 10800 + 64 * (9 + 15 + 80) + 64 * 12288)
        rows.append(measured_row(case, size / rates[kind] / factor))
    result = runner.Result(rows, {"device": "some GPU"}, Roof(rates))
    found = {outcome.target.kind: outcome for outcome in targets.outcomes(result)}
    assert set(found) == {"copy", "write"}
    for outcome in found.values():
        assert outcome.measured == pytest.approx(factor)
        assert outcome.reached is reached
    on_cpu = runner.Result(rows, {"device": "cpu"}, Roof())
    assert not targets.outcomes(on_cpu)


def test_memory_beside_the_results():
    case = Case(SHAPES["paper3"], 4096, "bfloat16", "both")
    results = 2 * (4096 * 12288 + 4096 * (9 + 15 + 80) + 12288 * 10800)
    row = measured_row(case, 1.0, results + 2 * 4096 * 10800 // 4)
    result = runner.Result([row], {"device": "some GPU"}, Roof({"copy": 1.0}))
    (outcome,) = targets.outcomes(result)
    assert outcome.target.kind == "products"
    assert outcome.measured == pytest.approx(0.25)


def test_roofs_of_a_device():
    before = torch.backends.cuda.matmul.fp32_precision
    clock = DeviceClock(CPU, 64, FakeCuda())
    roof = measure_device_roof(clock, {"float32", "float16"}, 4096, 8, 2)
    assert roof.rates["read"] == roof.rates["write"] == pytest.approx(4096 / 2e-3)
    assert roof.rates["copy"] == pytest.approx(8192 / 2e-3)
    kinds = {"gemm_bfloat16", "gemm_float16", "gemm_float32", "gemm_tf32"}
    assert set(roof.rates) == {"read", "write", "copy"} | kinds
    assert roof.rates["gemm_tf32"] == pytest.approx(2 * 8**3 / 2e-3)
    assert torch.backends.cuda.matmul.fp32_precision == before


def test_least_time_on_a_gpu():
    rates = {"read": 4e12, "write": 4e12, "copy": 4e12, "gemm_float32": 5e13, "gemm_tf32": 3e14}
    case = Case(SHAPES["paper3"], 4096, "float32", "factor-grads")
    seconds = Roof(rates).seconds(case, "")
    assert seconds == pytest.approx(2 * 4096 * 12288 * 10800 / 1e14)


def test_tables_of_a_gpu(tmp_path, capsys):
    case = Case(SHAPES["paper3"], 64, "bfloat16", "forward")
    row = measured_row(case, 1e-4)
    row.timing, row.host_seconds = "graph", 3e-5
    names = ("driver", "cuda", "torch", "triton", "ntensor", "commit", "processor", "threads")
    names += ("blas_of_torch", "numpy", "blas_of_numpy", "huge_pages")
    machine = {"device": "some GPU", **dict.fromkeys(names, "x")}
    roof = Roof({"copy": 4e12, "write": 4e12})
    row.versus_torch = 2.0
    unreached = quick_cases("forward")
    result = runner.Result([row], machine, roof, unreached)
    where = Namespace(out=tmp_path, device="cuda")
    assert finish(result, where, "synthesis") == 0
    text = capsys.readouterr().out
    assert "host us" in text and "not reached in the given time: 3-way" in text
    assert "MISSED" in text and "by ntensor (triton)" in text
    with (tmp_path / "synthesis-gpu.csv").open() as file:
        (record,) = csv.DictReader(file)
    assert (record["timing"], record["host_us"]) == ("graph", "30.0")
    assert (tmp_path / "synthesis-gpu.png").stat().st_size > 1000


def test_a_backend_that_cannot_serve_is_no_failure_beside_one_that_did():
    case = Case(SHAPES["paper3"], 64, "bfloat16", "forward")
    missing = Method("ntensor (native)", "ours", None, missing="not built")
    absent = runner.Row(case, missing, "left out: not built")
    result = runner.Result([measured_row(case, 1.0), absent], {"device": "x"}, Roof())
    assert result.exit_code == 0
    assert runner.Result([absent], {"device": "x"}, Roof()).exit_code == 1


def test_folders_use_those_below_them_alone():
    folders = {"harness": {"harness"}, "rivals": {"harness", "rivals"}, "gpu": {"harness", "gpu"}}
    for folder, allowed in folders.items():
        for path in (BENCHMARKS / folder).glob("*.py"):
            names = set()
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom):
                    names.add(node.module.partition(".")[0])
                elif isinstance(node, ast.Import):
                    names |= {alias.name.partition(".")[0] for alias in node.names}
            own = {*folders, *(command.stem for command in BENCHMARKS.glob("*.py"))}
            assert names & own <= allowed, path


# Starts each command in a fork of this process, which has imported torch for all of them, and
# leaves without the interpreter's own end.
HELP_OF_EACH = """
import os, runpy, sys
import torch
for command in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.path.basename(command), os.O_WRONLY | os.O_CREAT), 1)
        sys.argv, sys.path[0] = [command, "--help"], os.path.dirname(command)
        try:
            runpy.run_path(command, run_name="__main__")
        except SystemExit as ended:
            sys.stdout.flush()
            os._exit(ended.code or 0)
        sys.exit("--help did not end it")
    assert os.waitpid(child, 0)[1] == 0, command
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_commands_start_in_any_folder(tmp_path):
    commands = sorted(BENCHMARKS.glob("*.py"))
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS.parent)}
    done = subprocess.run(
        [sys.executable, "-c", HELP_OF_EACH, *map(str, commands)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(commands) > 10
    for command in commands:
        assert "usage:" in (tmp_path / command.name).read_text(), command


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


def test_optimizer_steps(tmp_path):
    import optimizer

    given = ["--quick", "--repeats", "1", "--threads", "1", "--out", str(tmp_path)]
    assert optimizer.main(given) == 0
    rows = list(csv.DictReader((tmp_path / "optimizer.csv").open()))
    assert [row["kind"] for row in rows] == ["rival", "rival", "ours"] * len(optimizer.QUICK)
    assert not any(row["status"] for row in rows)
