"""Tensors on a device with the strides and the surroundings of those that the CPU tests make."""

import functools

import pytest
import torch

import definitions
import ntensor
from comparison import in_tuple
from layouts import make
from ntensor import backends
from tolerances import DTYPES

PAPER = (12288, (9, 15, 80))
OPERATIONS = ("synthesis_projection", "synthesis_projection_with_mean")

# The marks of every test of a GPU.
on_a_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="needs a CUDA device, and torch finds none"
    ),
]
each_operation = pytest.mark.parametrize("operation", OPERATIONS)
each_backend = pytest.mark.parametrize("backend", ["triton", "native"])
each_dtype = pytest.mark.parametrize(
    "dtype", DTYPES, ids=[str(d).removeprefix("torch.") for d in DTYPES]
)


def require(backend, device, dtype=torch.float32, operation="synthesis_projection"):
    """Skips, with the backend's own reason, where it cannot serve the device."""
    reason = backends.why_not(backend, operation, device, dtype)
    if reason is not None:
        pytest.skip(f"{backend}: {reason}")


def pair_of(operation, backend):
    """The operation and its definition."""
    ours = functools.partial(getattr(ntensor, operation), backend=backend)
    return ours, getattr(definitions, operation)


def moved(tensor, device):
    """On the device, with the same strides, offset and surroundings."""
    count = tensor.untyped_storage().nbytes() // tensor.element_size()
    whole = torch.as_strided(tensor.detach(), (count,), (1,), 0).to(device)
    return torch.as_strided(whole, tensor.shape, tensor.stride(), tensor.storage_offset())


def made(layout, shape, dtype, generator, device):
    return moved(make(layout, shape, dtype, generator), device)


def projection_inputs(n, k_x, sizes, dtype, device, seed=0, layout="contiguous"):
    """The core, the factors, and two incoming gradients."""
    generator = torch.Generator().manual_seed(seed)
    core = made("contiguous", (k_x, *sizes), dtype, generator, device)
    factors = [made(layout, (n, k), dtype, generator, device) for k in sizes]
    grads = [made(layout, (n, k_x), dtype, generator, device) for _ in range(2)]
    return [core, *factors], grads


def forward_and_backward(function, inputs, grads):
    """The outputs and the gradients of all inputs."""
    leaves = [t.detach().requires_grad_() for t in inputs]
    outputs = function(*leaves)
    outputs = in_tuple(outputs)
    found = torch.autograd.grad(outputs, leaves, grads[: len(outputs)], materialize_grads=True)
    return [output.detach() for output in outputs] + list(found)
