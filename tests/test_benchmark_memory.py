"""What the benchmarks say about memory: kept by the library, or by another allocator."""

import ctypes.util
import os
import sys

import pytest
import torch

import ntensor
import synthesis
from harness import options
from harness.cases import Case, Shape
from harness.machine import PeakMemory
from harness.problem import ProjectionProblem
from harness.timing import HostClock
from rivals.synthesis import SUITE

CPU = torch.device("cpu")
LARGE = Shape("large", 8192, (2, 512))
CORE_BYTES = 4 * 8192 * 2 * 512


@pytest.fixture
def ordinary_memory():
    """Kept memory is out of use where fresh memory is poisoned."""
    torch.use_deterministic_algorithms(False)
    ntensor.release_memory()
    yield
    ntensor.release_memory()


def rows(shape):
    case = Case(shape, 2, pass_="both")
    listed = SUITE.methods(case, CPU, ["native"])
    ours = {(m.name, m.gradient): m for m in listed if m.kind == "ours"}
    return ours, ProjectionProblem(case, CPU, HostClock())


def run(method, problem):
    method.build(problem).run(2, lambda: None)


def test_a_fresh_gradient_with_and_without_kept_memory(ordinary_memory, monkeypatch):
    monkeypatch.delenv("NTENSOR_KEPT_MEMORY", raising=False)
    ours, problem = rows(LARGE)
    assert [*ours] == [
        ("ntensor (native)", "fresh"),
        ("ntensor (native)", "adds"),
        ("ntensor (native), no kept memory", "fresh"),
    ]
    run(ours["ntensor (native)", "fresh"], problem)
    assert ntensor.kept_memory() == (0, CORE_BYTES, None)
    run(ours["ntensor (native), no kept memory", "fresh"], problem)
    assert ntensor.kept_memory() == (0, 0, None)
    assert "NTENSOR_KEPT_MEMORY" not in os.environ


def test_small_gradients_have_no_row_without_kept_memory():
    ours, _ = rows(Shape("small", 16, (3, 5)))
    assert [gradient for _, gradient in ours] == ["fresh", "adds"]


def test_kept_memory_counts_as_memory_of_a_call(ordinary_memory):
    ours, problem = rows(LARGE)
    step = ours["ntensor (native)", "fresh"].build(problem)
    step.run(1, lambda: None)
    assert ntensor.kept_memory().free == CORE_BYTES
    with PeakMemory(CPU) as peak:
        step.call(None)
    step.finish()
    if peak.extra is not None:
        assert peak.extra > 0.9 * CORE_BYTES


def parsed(*words):
    return options.parse([*words], "", synthesis.SHAPES, ("forward",))


def test_another_allocator_is_loaded_by_a_new_start(monkeypatch, tmp_path):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("LD_PRELOAD", "libother.so")
    monkeypatch.setattr(ctypes.util, "find_library", {"tcmalloc_minimal": "libtcmalloc.so.4"}.get)
    started = []
    monkeypatch.setattr(os, "execv", lambda *command: started.append(command))
    given = parsed("--allocator", "tcmalloc", "--out", str(tmp_path))
    options.prepare_process(given)
    assert started == [(sys.executable, [sys.executable, *sys.argv])]
    assert os.environ["LD_PRELOAD"] == "libtcmalloc.so.4 libother.so"
    assert options.path_of(given, "synthesis", "csv").name == "synthesis-tcmalloc.csv"
    options.prepare_process(given)
    assert len(started) == 1
    monkeypatch.setenv("LD_PRELOAD", "")
    with pytest.raises(SystemExit, match=r"--allocator jemalloc: wanted libjemalloc"):
        options.prepare_process(parsed("--allocator", "jemalloc", "--out", str(tmp_path)))
