"""The list of `gpu_check.py`: each operation against float64, here by what serves a CPU."""

import pytest
import torch

import ntensor
from cuda_shim import native_on_the_shim
from gpu import correctness
from gpu.correctness import DTYPES, LAYOUTS, all_calls, check, why_not

CPU = torch.device("cpu")
# What the interpreter of Triton and the shim take too long for.
SMALL = 12_000


def wrong_in(calls, backend, dtype):
    rows = [row for call in calls for row in check(call, backend, dtype, CPU)]
    assert rows
    return [row for row in rows if row["status"] != "right"]


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [*(("native", dtype) for dtype in DTYPES), ("reference", "float32"), ("reference", "bfloat16")],
)
@pytest.mark.parametrize("operation", all_calls())
def test_every_call(operation, backend, dtype):
    assert not wrong_in(all_calls()[operation], backend, dtype)


def test_every_public_operation_is_in_the_list():
    public = {name for name in ntensor.ops.__all__ if name[0].islower()} - {"einsum_path"}
    assert public <= set(all_calls())
    layouts = {each.layout for calls in all_calls().values() for c in calls for each in c.operands}
    assert layouts == set(LAYOUTS)


@pytest.mark.parametrize("operation", ["synthesis", "bilinear", "rotated_synthesis"])
def test_cuda_kernels_by_the_shim(operation):
    calls = [call for call in all_calls()[operation] if call.elements < SMALL]
    with native_on_the_shim():
        assert not wrong_in(calls, "native", "float32")


@pytest.mark.parametrize("operation", ["synthesis", "synthesis_projection", "bilinear"])
def test_triton_kernels_by_the_interpreter(operation):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU, so the kernels are compiled")
    calls = [call for call in all_calls()[operation] if call.elements < SMALL // 4]
    assert not wrong_in(calls, "triton", "float32")


def test_errors_are_found(monkeypatch):
    call = all_calls()["rotation"][0]
    other = call._replace(function=lambda y, R: ntensor.rotation(y, R.mT, layout="column"))
    assert [row["result"] for row in wrong_in([other], "native", "bfloat16")] == [
        "output 0",
        "gradient 0",
        "gradient 1",
    ]
    nan = call._replace(function=lambda y, R: ntensor.rotation(y, R) * torch.nan)
    assert {row["error"] for row in wrong_in([nan], "native", "float32")} == {float("inf")}
    monkeypatch.setitem(correctness.ALLOWED, "float32", 1e-9)
    assert wrong_in([call], "native", "float32")


def test_why_not():
    call = all_calls()["rotation"][0]
    assert not why_not(call, "native", "float32", CPU)
    assert "it serves" in why_not(call, "native", "float32", torch.device("meta"))
