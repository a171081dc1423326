"""No array of n K elements in forward or backward: what torch allocates is counted, allocation by
allocation. The compiled core takes its scratch memory from torch, so this covers it."""

import gc
import math

import pytest
import torch

import definitions
import ntensor
from side_by_side import allocations

PIECES = 4096  # bytes of small host-side tensors that a call may take beside its scratch


def nbytes(*tensors):
    return sum(t.numel() * t.element_size() for t in tensors)


def test_the_count_sees_what_it_should():
    """The plain formula is caught holding the (n, K) array."""
    core, z = torch.randn(2, 8, 256), [torch.randn(64, 8), torch.randn(64, 256)]
    seen = allocations(lambda: definitions.synthesis_projection(core, *z))
    assert seen.peak >= 64 * 8 * 256 * 4
    kept = allocations(lambda: torch.empty(1000))
    assert (kept.peak, kept.left, kept.largest) == (4000, 4000, 4000)


DTYPES = [torch.float32, torch.bfloat16]
PROJECTIONS = [
    (512, 24, (4, 16, 64)),  # hoisted leading factor, eight slabs
    (512, 24, (15, 80)),  # the two factors of the paper: nothing is hoisted
    (300, 96, (3, 5, 7, 11)),
    (64, 40, (9, 15, 80)),
]
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.fixture(autouse=True)
def two_threads():
    """Every thread has scratch of its own."""
    torch.set_num_threads(2)


def projection(n, k_x, sizes, dtype):
    return torch.randn(k_x, *sizes).to(dtype), [torch.randn(n, k).to(dtype) for k in sizes]


@each_dtype
@pytest.mark.parametrize("operation", ["synthesis_projection", "synthesis_projection_with_mean"])
@pytest.mark.parametrize(("n", "k_x", "sizes"), PROJECTIONS, ids=str)
def test_projection(operation, n, k_x, sizes, dtype):
    """Over outputs and gradients: the documented scratch, far below n K elements."""
    core, z = projection(n, k_x, sizes, dtype)
    leaves = [t.requires_grad_() for t in (core, *z)]
    function = getattr(ntensor, operation)
    scratch = ntensor.scratch_bytes(operation, n, sizes, k_x, dtype=dtype)
    n_K = n * math.prod(sizes) * dtype.itemsize
    outputs = 1 + operation.endswith("mean")

    forward = allocations(lambda: function(*leaves, backend="native"))
    assert forward.peak <= outputs * n * k_x * dtype.itemsize + scratch + PIECES
    assert forward.largest < n_K

    results = function(*leaves, backend="native")
    results = results if outputs == 2 else (results,)
    cotangents = [torch.randn(n, k_x).to(dtype) for _ in results]
    backward = allocations(lambda: torch.autograd.grad(results, leaves, cotangents))
    assert backward.peak <= nbytes(*leaves) + scratch + PIECES
    assert backward.largest <= max(nbytes(core), nbytes(*z), scratch)


@each_dtype
def test_accumulated_core_gradient(dtype):
    """Nothing of the core's size is allocated either."""
    n, k_x, sizes = 64, 40, (9, 15, 80)
    core, z = projection(n, k_x, sizes, dtype)
    core.requires_grad_()
    core.grad = torch.zeros_like(core)
    x = ntensor.synthesis_projection(core, *z, accumulate_core_grad=True, backend="native")
    cotangent = torch.randn(n, k_x).to(dtype)
    backward = allocations(lambda: x.backward(cotangent))
    scratch = ntensor.scratch_bytes("synthesis_projection", n, sizes, k_x, dtype=dtype)
    assert backward.peak <= scratch + PIECES


@each_dtype
@pytest.mark.parametrize("layout", ["column", "row"])
@pytest.mark.parametrize("k_exp", [15, 16])
def test_rotated_synthesis(layout, k_exp, dtype):
    """The unrotated feature is never stored: the output, the scratch, and a rotated z_exp."""
    n, k_id = 256, 78
    K = k_exp * k_id
    leaves = [torch.randn(s).to(dtype).requires_grad_() for s in ((n, k_exp), (n, k_id), (n, 3, 3))]
    scratch = ntensor.scratch_bytes("rotated_synthesis", n, (k_exp, k_id), dtype=dtype)
    rotated = nbytes(leaves[0])

    def call():
        return ntensor.rotated_synthesis(*leaves, layout=layout, backend="native")

    forward = allocations(call)
    assert forward.peak <= n * K * dtype.itemsize + rotated + scratch + PIECES
    y, cotangent = call(), torch.randn(n, K).to(dtype)
    backward = allocations(lambda: torch.autograd.grad(y, leaves, cotangent))
    assert backward.peak <= 2 * nbytes(*leaves) + rotated + scratch + PIECES
    assert backward.largest < n * K * dtype.itemsize


@each_dtype
def test_synthesis(dtype):
    """Its own output is the only array of n K elements; backward has none."""
    n, sizes = 256, (5, 7, 29)
    z = [torch.randn(n, k).to(dtype).requires_grad_() for k in sizes]
    scratch = ntensor.scratch_bytes("synthesis", n, sizes, dtype=dtype)
    n_K = n * math.prod(sizes) * dtype.itemsize
    forward = allocations(lambda: ntensor.synthesis(*z, backend="native"))
    assert forward.peak <= n_K + scratch + PIECES
    y = ntensor.synthesis(*z, backend="native")
    cotangent = torch.randn_like(y)
    backward = allocations(lambda: torch.autograd.grad(y, z, cotangent))
    assert backward.peak <= nbytes(*z) + scratch + PIECES


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_mttkrp(mode):
    """No unfolding is copied and no Khatri-Rao product is formed."""
    sizes, rank = (80, 81, 82), 64
    tensor = torch.randn(sizes)
    factors = [torch.randn(k, rank) for k in sizes]
    seen = allocations(lambda: ntensor.mttkrp(tensor, factors, mode, backend="native"))
    assert seen.peak < min(nbytes(tensor), 80 * 81 * rank * 4) / 2


def test_scratch_stays_under_its_bound():
    """At most 64 K elements of the accumulator a thread, whatever the sizes; 8 MiB where factors'
    gradients of four slabs and more read one copy of the core, and 2 MiB where the mean output has
    a core of its own."""
    for n in (1, 16, 64, 1000, 100000):
        for k_x, sizes in ((12288, (9, 15, 80)), (28125, (15, 80)), (64, (9, 15, 80))):
            for operation in ("synthesis_projection", "synthesis_projection_with_mean"):
                for dtype in DTYPES:
                    wide = max(dtype.itemsize, 4)
                    taken = ntensor.scratch_bytes(operation, n, sizes, k_x, dtype=dtype)
                    apart = 2 << 20 if operation.endswith("mean") and k_x == 64 else 0
                    if n >= 1000 and k_x == 64:
                        apart += 8 << 20
                    assert taken <= 2 * 65536 * wide + apart, (operation, n, k_x, sizes, dtype)


def test_no_growth_over_many_calls():
    """What is in use after 300 calls is what was in use after the first ones."""
    core, z = projection(16, 8, (3, 5, 7), torch.float32)
    leaves = [t.requires_grad_() for t in (core, *z)]

    def step():
        ntensor.synthesis_projection(*leaves, backend="native").sum().backward()
        ntensor.rotated_synthesis(
            z[0], z[1], torch.ones(16, 3, 3), backend="native"
        ).sum().backward()

    for _ in range(3):
        step()

    def steps():
        for _ in range(100):
            step()

    assert allocations(steps).left == 0
    objects = len(gc.get_objects())
    steps()
    gc.collect()
    assert len(gc.get_objects()) <= objects + 100
