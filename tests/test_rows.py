"""Rows of the last two factors, at every width beside a vector's, against float64."""

import pytest
import torch

import ntensor
from ntensor import _cpu
from ntensor.backends.native import force_simd_level

SANITIZED = pytest.mark.sanitizer
WIDTHS = (2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 127, 128, 129, 200)


@pytest.fixture(params=_cpu.simd_levels())
def level(request):
    with force_simd_level(request.param):
        yield request.param


def gradients(factors, grad):
    given = [factor.clone().requires_grad_() for factor in factors]
    return torch.autograd.grad(ntensor.synthesis(*given), given, grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [1, pytest.param(3, marks=SANITIZED), 12, 17, 130])
def test_every_width(level, rows, dtype):
    generator = torch.Generator().manual_seed(rows)
    bound = 1e-12 if dtype == torch.float64 else 1e-5
    for width in WIDTHS:
        z = torch.randn(3, rows, generator=generator, dtype=dtype)
        last = torch.randn(3, width, generator=generator, dtype=dtype)
        grad = torch.randn(3, rows * width, generator=generator, dtype=dtype)
        product = z.double()[:, :, None] * last.double()[:, None]
        D = grad.double().view(3, rows, width)
        wanted = product.flatten(1), (D @ last.double()[:, :, None])[:, :, 0]
        wanted += ((z.double()[:, None] @ D)[:, 0],)
        found = ntensor.synthesis(z, last), *gradients((z, last), grad)
        for each, exact in zip(found, wanted, strict=True):
            error = (each.double() - exact).abs().max()
            assert error <= bound * exact.abs().max(), (width, error)


@SANITIZED
@pytest.mark.parametrize("width", [3, 17, 33, 49])
def test_an_infinite_row_stays_in_its_row(level, width):
    """What a vector reads behind a row is no part of its sums."""
    z, last = torch.ones(1, 40), torch.ones(1, width)
    grad = torch.ones(1, 40 * width)
    grad[0, 20 * width :] = float("inf")
    of_z, of_last = gradients((z, last), grad)
    assert (of_z[0, :20] == width).all()
    assert of_z[0, 20:].isinf().all()
    assert of_last.isinf().all()
