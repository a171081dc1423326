"""Beyond 2^31 elements on a GPU."""

import pytest
import torch

import definitions
import ntensor
from gpu_tools import each_backend, on_a_gpu, require

pytestmark = on_a_gpu


ROWS = (0, 1, 2**19, 2**20 - 1)  # of the core of the tests below; the last begins beyond 2^31
FAR = (2**20, (3, 700))


def require_memory(device, count):
    free = torch.cuda.mem_get_info(device)[0]
    if free < count:
        pytest.skip(f"needs {count / 1e9:.0f} GB of free memory on the GPU, {free / 1e9:.0f} are")


@each_backend
@pytest.mark.parametrize("n", [3, 65])
def test_core_beyond_two_to_the_31(backend, n, device):
    require(backend, device, torch.bfloat16)
    require_memory(device, 16e9)
    k_x, sizes = FAR
    core = torch.randn(k_x, *sizes, dtype=torch.bfloat16, device=device)
    assert core.numel() > 2**31
    z = [torch.randn(n, k, dtype=torch.bfloat16, device=device) for k in sizes]
    y = definitions.synthesis(*(f.double() for f in z))
    x, x_mean = ntensor.synthesis_projection_with_mean(core, *z, backend=backend)
    mean = definitions.synthesis(torch.full_like(z[0], 1, dtype=torch.float64) / 3, z[1].double())
    for row in ROWS:
        flat = core[row].flatten().double()
        torch.testing.assert_close(x[:, row].double(), y @ flat, rtol=2**-6, atol=0.5)
        torch.testing.assert_close(x_mean[:, row].double(), mean @ flat, rtol=2**-6, atol=0.5)
    grad = torch.zeros(n, k_x, dtype=torch.bfloat16, device=device)
    grad[:, list(ROWS)] = 1
    d_core = torch.ops.ntensor.projection_core_grad(grad, None, z, backend)
    for row in ROWS:
        expected = y.sum(0).view(sizes)
        torch.testing.assert_close(d_core[row].double(), expected, rtol=2**-6, atol=0.1)
    assert torch.count_nonzero(d_core[2]) == 0
    needs = [True, True]
    joined = torch.ops.ntensor.projection_factor_grads(core, grad, None, z, needs, backend)
    total = core[list(ROWS)].double().sum(0)
    expected = torch.cat([z[1].double() @ total.T, z[0].double() @ total], 1)
    torch.testing.assert_close(joined.double(), expected, rtol=2**-6, atol=1.0)


@each_backend
def test_features_beyond_two_to_the_31(backend, device):
    require(backend, device, torch.bfloat16)
    require_memory(device, 24e9)
    n = 2**31 // 1200 + 5
    z = [torch.randn(n, k, dtype=torch.bfloat16, device=device) for k in (15, 80)]
    R = torch.randn(n, 3, 3, dtype=torch.bfloat16, device=device)
    rows = [0, n // 2, n - 1]
    few = [f[rows].double() for f in (*z, R)]
    y = ntensor.synthesis(*z, backend=backend)
    expected = definitions.synthesis(*few[:2])
    torch.testing.assert_close(y[rows].double(), expected, rtol=2**-7, atol=0)
    del y
    x = ntensor.rotated_synthesis(*z, R, backend=backend)
    expected = definitions.rotated_synthesis(*few)
    torch.testing.assert_close(x[rows].double(), expected, rtol=2**-6, atol=2**-5)
    needs = [True] * 3
    joined = torch.ops.ntensor.rotated_synthesis_grads(x, *z, R, "column", needs, backend)
    wanted = torch.ops.ntensor.rotated_synthesis_grads(
        x[rows], *(f[rows] for f in (*z, R)), "column", needs, "reference"
    )
    torch.testing.assert_close(joined[rows].double(), wanted.double(), rtol=2**-6, atol=2.0)
    turned = ntensor.rotation(x, R, backend=backend)
    wanted = ntensor.rotation(x[rows], R[rows], backend="reference")
    torch.testing.assert_close(turned[rows].double(), wanted.double(), rtol=2**-6, atol=2**-4)
