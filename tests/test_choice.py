"""The automatic choice of a backend, and its explanation."""

import subprocess
import sys

import pytest
import torch

import ntensor.info
from ntensor import backends
from ntensor.backends import choice

CUDA = torch.device("cuda", 0)
ROW = choice.Row(
    "synthesis_projection",
    "sm_90",
    torch.bfloat16,
    range(64),
    range(1000, 20000),
    "native",
    "h.csv",
)


@pytest.fixture
def gpu(monkeypatch):
    """All backends can serve on a device of sm_90; a function names the backend it is of."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(backends, "why_not", lambda *_: None)

    class Module:
        def __init__(self, path):
            self.name = path.split(".")[2]

        def __getattr__(self, operation):
            return lambda *arguments: self.name

    monkeypatch.setattr(backends.importlib, "import_module", Module)
    backends.implementation.cache_clear()
    yield
    backends.implementation.cache_clear()


def chosen(n, k_x, dtype=torch.bfloat16, backend=None):
    serve = backends.implementation("projection", "synthesis_projection", CUDA, dtype, backend)
    core, z = torch.empty(k_x, 2, 3, device="meta"), [torch.empty(n, k) for k in (2, 3)]
    return serve(core, z)


def test_nothing_measured_is_triton(gpu, monkeypatch):
    monkeypatch.setattr(choice, "MEASURED", ())
    assert chosen(16, 12288) == "triton"
    assert chosen(16, 12288, backend="native") == "native"


def test_measured_rows_decide_by_sizes_and_dtype(gpu, monkeypatch):
    monkeypatch.setattr(choice, "MEASURED", (ROW,))
    assert chosen(16, 12288) == "native"
    assert chosen(64, 12288) == "triton"
    assert chosen(16, 64) == "triton"
    assert chosen(16, 12288, torch.float32) == "triton"
    assert chosen(16, 12288, backend="triton") == "triton"


def test_every_row_names_its_results():
    for row in choice.MEASURED:
        assert row.backend in ("native", "triton")
        assert row.operation in ntensor.info.OPERATIONS
        assert row.results


@pytest.mark.parametrize(
    ("operation", "arguments", "expected"),
    [
        ("synthesis", ([torch.empty(5, 2)],), (5, None)),
        ("synthesis_grads", (torch.empty(5, 2), [torch.empty(5, 2)], [True]), (5, None)),
        ("synthesis_projection", (torch.empty(7, 2), [torch.empty(5, 2)]), (5, 7)),
        (
            "projection_factor_grads",
            (torch.empty(7, 2), None, torch.empty(5, 7), [torch.empty(5, 2)], [True]),
            (5, 7),
        ),
        ("projection_core_grad", (torch.empty(5, 7), None, [torch.empty(5, 2)]), (5, 7)),
        (
            "projection_core_grad_",
            (torch.empty(7, 2), None, torch.empty(5, 7), [torch.empty(5, 2)]),
            (5, 7),
        ),
        ("rotation", (torch.empty(5, 6), torch.empty(5, 3, 3), "row"), (5, None)),
    ],
)
def test_sizes_of_a_call(operation, arguments, expected):
    assert choice.sizes_of(operation, arguments) == expected


def test_explanation(monkeypatch):
    def explain(n):
        return ntensor.info.explain("synthesis_projection", n, 12288, torch.bfloat16, "sm_90")

    monkeypatch.setattr(choice, "MEASURED", (ROW,))
    assert "native, then triton" in explain(16)
    assert "h.csv" in explain(16)
    assert "triton, then native" in explain(64)
    assert "nothing was measured" in explain(64)
    with pytest.raises(ValueError, match=r"operation: wanted one of.*synthesis.*'matmul'"):
        ntensor.info.explain("matmul", 16, family="sm_90")


def test_explanation_from_the_command_line():
    command = [sys.executable, "-m", "ntensor.info", "--explain", "rotation", "--family", "sm_80"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    assert "rotation" in process.stdout
    assert "sm_80" in process.stdout
