"""Offsets over 2^31 elements, without the memory: pages of a sparse mapping that nobody writes
share one page of zeros."""

import functools
import mmap

import pytest
import torch

import definitions
import ntensor
from comparison import assert_values
from layouts import make

MAP_NORESERVE = 0x4000  # Linux on every architecture; the mmap module names it from Python 3.13 on
FAR = 2**30 + 17  # the third of three rows lies beyond 2^31 elements


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Replaces the fixture that fills memory: here nearly none of it may be touched."""


def sparse(numel, dtype):
    """Zeros that take no memory until they are written."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    return torch.frombuffer(mmap.mmap(-1, numel * dtype.itemsize, flags=flags), dtype=dtype)


def far_apart(shape, dtype, generator, strides):
    """A tensor of random numbers whose elements lie far apart."""
    last = sum((s - 1) * stride for s, stride in zip(shape, strides, strict=True))
    view = sparse(last + 1, dtype).as_strided(shape, strides)
    return view.copy_(make("contiguous", shape, dtype, generator))


def far_rows(shape, dtype, generator):
    inner = torch.empty(shape[1:], device="meta").stride()
    return far_apart(shape, dtype, generator, (FAR, *inner))


def far_columns(shape, dtype, generator):
    return far_apart(shape, dtype, generator, (1, FAR))


@pytest.mark.parametrize("far", [far_rows, far_columns])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_far_factors_and_gradients(far, dtype, generator):
    core = make("contiguous", (3, 3, 3), dtype, generator)
    z = [far((3, 3), dtype, generator) for _ in range(2)]
    cotangent = far((3, 3), dtype, generator)
    operation = functools.partial(ntensor.synthesis_projection, backend="native")
    assert_values(operation, definitions.synthesis_projection, [core, *z], [cotangent])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_far_rows_of_synthesis_and_rotation(dtype, generator):
    z = [far_rows((3, 3), dtype, generator) for _ in range(2)]
    y, cotangent = (far_rows((3, 9), dtype, generator) for _ in range(2))
    R = far_rows((3, 3, 3), dtype, generator)
    synthesis = functools.partial(ntensor.synthesis, backend="native")
    assert_values(synthesis, definitions.synthesis, z, [cotangent])
    for layout in ("column", "row"):
        arguments = {"layout": layout, "backend": "native"}
        assert_values(
            functools.partial(ntensor.rotation, **arguments),
            functools.partial(definitions.rotation, layout=layout),
            [y, R],
            [cotangent],
        )
        assert_values(
            functools.partial(ntensor.rotated_synthesis, **arguments),
            functools.partial(definitions.rotated_synthesis, layout=layout),
            [*z, R],
            [cotangent],
        )


SIZES = (8, 1024)
K_X = 2**18 + 5  # k_x K lies just over 2^31


@pytest.fixture
def large_core(generator):
    """A core of more than 2^31 elements, zero but for rows at its start, its end, around 2^31."""
    core = sparse(K_X * 8192, torch.bfloat16).view(K_X, *SIZES)
    rows = [0, 1, 2**18 - 1, 2**18, K_X - 1]
    for row in rows:
        core[row] = make("contiguous", SIZES, torch.bfloat16, generator)
    return core, rows


def test_core_beyond_two_to_the_31(large_core, generator):
    """Output and factor gradients come from the few rows that are not zero."""
    core, rows = large_core
    z = [make("contiguous", (2, k), torch.bfloat16, generator) for k in SIZES]
    cotangent = make("contiguous", (2, K_X), torch.bfloat16, generator)

    def few_rows(core, *z):
        return ntensor.synthesis_projection(core, *z, backend="native")

    x = few_rows(core, *z)
    zero = torch.ones(K_X, dtype=torch.bool)
    zero[rows] = False
    assert torch.count_nonzero(x[:, zero]) == 0
    small = core[rows].clone()
    operation = functools.partial(ntensor.synthesis_projection, backend="native")
    values = assert_values(
        operation, definitions.synthesis_projection, [small, *z], [cotangent[:, rows]]
    )
    torch.testing.assert_close(x[:, rows], values[0])
    leaves = [t.requires_grad_() for t in z]
    grads = torch.autograd.grad(few_rows(core, *leaves), leaves, cotangent)
    torch.testing.assert_close(grads, (values[2], values[3]), rtol=1e-2, atol=1e-2)


def available_bytes():
    with open("/proc/meminfo") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if "MemAvailable" in line)


@pytest.mark.slow
def test_core_gradient_beyond_two_to_the_31(generator):
    """Written in full: 4.3 GB."""
    assert available_bytes() > 6e9, "this test needs 6 GB of free memory"
    z = [make("contiguous", (1, k), torch.bfloat16, generator) for k in SIZES]
    cotangent = make("contiguous", (1, K_X), torch.bfloat16, generator)
    grad = torch.ops.ntensor.projection_core_grad(cotangent, None, z, "native")
    W = definitions.synthesis(*(f.double() for f in z)).view(SIZES)
    for row in (0, 2**17, 2**18 - 1, 2**18, K_X - 1):
        expected = (cotangent[0, row].double() * W).bfloat16()
        torch.testing.assert_close(grad[row], expected, rtol=2**-6, atol=2**-8)
    total = grad.view(K_X, -1)[:, 0].double()
    expected = cotangent[0].double() * W[0, 0]
    torch.testing.assert_close(total, expected, rtol=2**-6, atol=2**-8)


@pytest.mark.slow
def test_synthesis_beyond_two_to_the_31(generator):
    assert available_bytes() > 6e9, "this test needs 6 GB of free memory"
    z = [make("contiguous", (K_X, k), torch.bfloat16, generator) for k in SIZES]
    y = ntensor.synthesis(*z, backend="native")
    rows = [0, 2**17, 2**18 - 1, 2**18, K_X - 1]
    assert torch.equal(y[rows], definitions.synthesis(*(f[rows] for f in z)))
