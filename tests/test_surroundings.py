"""Process-wide settings of torch change no result: default device and dtype, inference mode."""

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from backends import each_backend
from cases import PUBLIC
from comparison import in_tuple


@contextmanager
def default_device():
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def device_context():
    with torch.device("meta"):
        yield


each_surrounding = pytest.mark.parametrize(
    "surrounding", [default_device, default_dtype, device_context, torch.inference_mode]
)


def step(case, backend, inputs, grads):
    """Outputs, and gradients where they are recorded."""
    outputs = case.function(*inputs, backend=backend)
    outputs = in_tuple(outputs)
    if not torch.is_grad_enabled() or not outputs[0].requires_grad:
        return outputs
    return (*outputs, *torch.autograd.grad(outputs, inputs, grads, allow_unused=True))


@each_surrounding
@each_backend
@pytest.mark.parametrize("case", PUBLIC, ids=str)
def test_results_stay(case, backend, surrounding):
    inputs = case.inputs(torch.float32)
    outputs = case.function(*inputs, backend="reference")
    outputs = in_tuple(outputs)
    grads = [torch.randn(x.shape) for x in outputs]
    expected = step(case, backend, inputs, grads)
    with surrounding():
        found = step(case, backend, inputs, grads)
    assert len(found) in (len(expected), len(outputs))
    for one, other in zip(found, expected, strict=False):
        assert (one is None) == (other is None)
        assert one is None or (one.device, one.dtype) == (other.device, other.dtype)
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("method", ["trace", "script"])
def test_default_device_under_the_jit(method):
    """There the default device reaches the allocations of a kernel, and a result without memory
    would crash it: hence a process of its own."""
    program = Path(__file__).with_name("under_the_jit.py")
    command = [sys.executable, "-W", "ignore", str(program), method]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"exit {done.returncode}: {done.stderr}"


def test_roofline_buffers():
    from ntensor.backends.native import library

    library._roofline_buffers.cache_clear()
    with default_device(), default_dtype():
        buffers = library._roofline_buffers(1 << 12)
    assert all(b.device.type == "cpu" and b.nbytes == 1 << 12 for b in buffers)
    library._roofline_buffers.cache_clear()
