"""Several cores in one launch of each Triton kernel, against float64 einsum."""

import math

import pytest
import torch

from ntensor.backends.triton import blocks, projection

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 4e-3}
CASES = [
    (3, 17, 19, (3, 20)),  # formed
    (3, 17, 33, (20,)),
    (3, 1, 2, (1, 1)),
    (2, 5, 19, (3, 2, 5)),  # all samples in one block
    (64, 1, 1, (8, 8)),
    (2, 3, 5, (2, 1000)),  # hoisted
]


@pytest.fixture
def launches(monkeypatch):
    """The names of the kernels that `projection` launches, as they come."""
    names, run = [], projection.launch

    def noting(kernel, grid, *arguments, **constants):
        names.append(kernel.fn.__name__)
        run(kernel, grid, *arguments, **constants)

    monkeypatch.setattr(projection, "launch", noting)
    return names


@pytest.fixture(params=[1, 3])
def splits(request, monkeypatch):
    """Small blocks, so that a group has several, and this many parts of its sums."""
    for name, block in (
        ("projection", blocks.Projection(16, 16, 16, request.param, 4, 2)),
        ("factor_grads", blocks.FactorGrads(16, 16, 16, request.param, request.param, 4, 2)),
        ("core_grad", blocks.CoreGrad(16, 16, 16, request.param, 4, 2)),
    ):
        monkeypatch.setattr(blocks, name, lambda *_, block=block: block)


def new(groups, rows, width, dtype, generator):
    """`(groups rows, width)`, column by column in memory."""
    return torch.randn(width, groups * rows, generator=generator).to(dtype).mT


def assert_close(found, exact, dtype, terms):
    allowed = TOLERANCE[dtype]
    torch.testing.assert_close(found.double(), exact, rtol=allowed, atol=allowed * math.sqrt(terms))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_launch(case, dtype, splits, launches, generator):
    groups, n, k_x, sizes = case
    core = torch.randn(groups * k_x, *sizes, generator=generator).to(dtype)
    z = [new(groups, n, k, dtype, generator) for k in sizes]
    grad, grad_mean = (new(groups, n, k_x, dtype, generator) for _ in range(2))
    mean_z = [torch.full_like(z[0], 1 / sizes[0]), *z[1:]]

    def exact(core, factors, cotangent):
        """The output, and the gradients of the core and of the factors."""
        leaves = [t.double().unflatten(0, (groups, -1)).requires_grad_() for t in (core, *factors)]
        letters = "abc"[: len(sizes)]
        equation = f"gx{letters},{','.join('gn' + k for k in letters)}->gnx"
        x = torch.einsum(equation, *leaves)
        grads = torch.autograd.grad(x, leaves, cotangent.double().view_as(x))
        return [t.detach().flatten(0, 1) for t in (x, *grads)]

    x, d_core, *d_z = exact(core, z, grad)
    x_mean, d_core_mean, *_ = exact(core, mean_z, grad_mean)
    terms, rows = math.prod(sizes), groups * n
    assert_close(projection.grouped_projection(core, z, groups), x, dtype, terms)
    assert len(launches) == 1
    found = projection.grouped_projection_core_grad(grad, z, groups)
    assert_close(found, d_core, dtype, n)
    assert len(launches) == 2
    needs = [True] * len(sizes)
    found = projection.grouped_projection_factor_grads(core, grad, z, groups, needs)
    assert found.shape == (rows, sum(sizes))
    assert_close(found, torch.cat(d_z, 1), dtype, k_x * terms)
    assert len(launches) == 3
    both = projection._project(core, z, True, groups)
    for ours, wanted in zip(both, (x, x_mean), strict=True):
        assert_close(ours, wanted, dtype, terms)
    found = torch.empty_like(core)
    projection._write_core_grad(found, grad, grad_mean, z, False, groups)
    assert_close(found, d_core + d_core_mean, dtype, n)
