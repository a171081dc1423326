"""The benchmarks where no device is needed: cases and targets, the runner, roofs, tables."""

import csv
import os
import random
import time
from argparse import Namespace

import pytest
import torch

import _cases
import _device
import _finish
import _methods
import _roof
import _rotation_rivals
import _runner
import _sweep_cases
import _sweep_sizes
import _targets
import ntensor
import rotation
import sweep
from _files import replaced
from _problem import ProjectionProblem, projection_reference
from _rivals import methods
from _timing import DeviceClock
from fake_cuda import FakeCuda

CPU = torch.device("cpu")
PROJECTION = _runner.Suite(ProjectionProblem, projection_reference, methods)
ROTATION = _runner.Suite(
    _rotation_rivals.RotationProblem,
    _rotation_rivals.rotation_reference,
    _rotation_rivals.methods,
)


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


def sweep_rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_quick_sweep_of_every_kind(tmp_path, capsys):
    assert sweep.main(["--quick", "--cases", "1", "--seed", "5", "6", "--out", str(tmp_path)]) == 0
    rows = sweep_rows(tmp_path / "sweep.csv")
    assert {(row["kind"], row["seed"]) for row in rows} == {
        (kind, seed) for kind in sweep.KINDS for seed in ("5", "6")
    }
    assert len(rows) == 2 * len(sweep.KINDS) and all(row["commit"] for row in rows)
    assert {row["kind"] for row in sweep_rows(tmp_path / "sweep_summary.csv")} == set(sweep.KINDS)
    assert f"{len(rows)} cases, 0 wrong" in capsys.readouterr().out


def test_a_timed_sweep(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sweep, "FULL", sweep.QUICK)
    command = ["--kinds", "forward", "--cases", "2", "--seed", "5", "--seconds", "0.001"]
    assert sweep.main([*command, "--out", str(tmp_path)]) == 0
    assert "kind forward  cases 2  least" in capsys.readouterr().out
    for row in sweep_rows(tmp_path / "sweep.csv"):
        assert float(row["ratio"]) == pytest.approx(
            float(row["rival_us"]) / float(row["ours_us"]), rel=0.01
        )
    (whole,) = (r for r in sweep_rows(tmp_path / "sweep_summary.csv") if r["sizes"] == "all")
    assert (whole["cases"], whole["seed"]) == ("2", "all")
    assert (tmp_path / "sweep.png").stat().st_size > 1000


def test_a_sweep_says_what_is_wrong_and_does_not_time_it(tmp_path, capsys, monkeypatch):
    right = ntensor.synthesis

    def wrong(*factors):
        result = right(*factors)
        result[-1, -1] += 1e-3 * result[-1, -1].abs()
        return result

    monkeypatch.setattr(ntensor, "synthesis", wrong)
    monkeypatch.setattr(sweep, "measure", None)
    command = ["--kinds", "synthesis", "--cases", "1", "--seed", "1", "--out", str(tmp_path)]
    monkeypatch.setattr(sweep, "FULL", sweep.QUICK)
    assert sweep.main(command) == 1
    assert "WRONG: {'kind': 'synthesis'" in capsys.readouterr().out
    (row,) = sweep_rows(tmp_path / "sweep.csv")
    assert row["status"].startswith("error")

    def refused(*factors):
        raise RuntimeError("no kernel")

    monkeypatch.setattr(ntensor, "synthesis", refused)
    assert sweep.main(command) == 1
    assert "'status': 'RuntimeError: no kernel'" in capsys.readouterr().out


@pytest.mark.parametrize("kind", sweep.KINDS)
def test_sizes_of_a_sweep(kind):
    def drawn(seed):
        return [
            _sweep_sizes.draw(kind, random.Random(f"{seed} {place}"), sweep.FULL)
            for place in range(100)
        ]

    sizes = drawn(1)
    assert sizes == drawn(1) != drawn(2)
    for each in sizes:
        assert each.within(sweep.FULL)
        assert min(each.n, each.k_x, *each.extents) >= 1
        assert max(each.extents) <= 702 and each.n <= 4096 and each.k_x <= 4000
        assert not kind.startswith("rotated") or each.extents[0] * each.extents[1] % 3 == 0
    assert len(set(sizes)) > 90


@pytest.mark.parametrize("kind", sweep.KINDS)
def test_plain_forms_of_a_sweep(kind, generator):
    seen, limits = set(), _sweep_sizes.Limits(1 << 12, 1 << 16)
    for place in range(6):
        sizes = _sweep_sizes.draw(kind, random.Random(f"{kind} {place}"), limits)
        with torch.set_grad_enabled(_sweep_sizes.differentiates(kind)):
            case = _sweep_cases.problem(kind, sizes, "float32", generator, einsum=True)
            wanted, terms = case.exact(), case.terms()
            for name, call in case.calls.items():
                error = _sweep_cases.largest_error(call(), wanted, terms)
                assert error <= _sweep_cases.PART["float32"], (name, sizes)
        seen |= set(case.calls)
    assert len(seen) >= 3 and ("einsum" in seen) != kind.startswith("rotated")


def test_a_sum_that_cancels_is_judged_by_its_terms():
    exact, terms = torch.tensor([1e-9, 1.0]).double(), torch.tensor([4.0, 4.0]).double()
    error = _sweep_cases.largest_error([torch.tensor([1e-6, 1.0])], [exact], [terms])
    assert error == pytest.approx(5e-7, rel=0.01)
    assert _sweep_cases.largest_error([exact + 1], [exact], [terms]) > 0.3
    assert _sweep_cases.largest_error([exact * float("nan")], [exact], [terms]) == float("inf")


def timed_case(ratio, k_x="", n=1, seed=1, rival_us=100.0):
    times = {"ratio": ratio, "ours_us": rival_us / ratio, "rival_us": rival_us}
    return {"kind": "forward", "seed": seed, "n": n, "k_x": k_x, "foreign_load": 0.1, **times}


def test_summary_of_a_sweep():
    rows = [timed_case(ratio, k_x=1 + place, n=5) for place, ratio in enumerate(range(1, 11))]
    rows += [timed_case(0.5, k_x=65, seed=2), timed_case(0.5, k_x=65, seed=2, rival_us=10.0)]
    table = {(row["seed"], row["sizes"]): row for row in sweep.summaries(rows)}
    whole = table["all", "all"]
    assert (whole["cases"], whole["least"], whole["median"]) == (12, 0.5, 4.5)
    assert (whole["p10"], whole["p90"]) == (0.5, 9)
    # The second of the two slow cases loses 10 microseconds only.
    assert (whole["lost"], whole["lost_share"]) == (1, pytest.approx(1 / 12, abs=1e-4))
    assert whole["foreign_load"] == pytest.approx(0.1)
    assert {name: row["cases"] for (seed, name), row in table.items() if seed == "all"} == {
        "all": 12,
        "k_x 1": 1,
        "k_x 2 to 4": 3,
        "k_x 5 to 16": 6,
        "k_x over 64": 2,
        "n 1": 2,
        "n 5 to 16": 10,
    }
    assert (table[1, "all"]["cases"], table[2, "all"]["lost"]) == (10, 1)
