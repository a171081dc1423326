"""Several cores in one launch of each Triton kernel: against float64 einsum, and against each core
alone. `test_kernel_plans.py` has random groups."""

import functools
import math
import mmap

import pytest
import torch
import triton.language as tl

from ntensor.backends.triton import blocks, projection
from ntensor.backends.triton.kernels import projection as kernels
from ntensor.backends.triton.kernels.projection_core_grad import core_grad
from ntensor.backends.triton.kernels.projection_factor_grads import factor_grads

CASES = [  # groups, n, k_x, sizes; several blocks each way, and one alone
    (3, 17, 19, (3, 20)),
    (2, 17, 33, (20,)),
    (3, 1, 2, (1, 1)),
    (2, 5, 19, (3, 2, 5)),
    (9, 1, 1, (4, 1)),
]


@pytest.fixture
def launches(monkeypatch):
    """The names of the kernels that `projection` launches, as they come."""
    names, run = [], projection.launch

    def noting(made, *arguments):
        names.append(made.kernel.fn.__name__)
        run(made, *arguments)

    monkeypatch.setattr(projection, "launch", noting)
    return names


@pytest.fixture(params=[1, 3])
def splits(request, monkeypatch):
    """Small blocks, so that a group has several, and at most this many parts of its sums."""
    for name, block in (
        ("projection", blocks.Projection(16, 16, 16, request.param, 4, 2)),
        ("factor_grads", blocks.FactorGrads(16, 16, 16, request.param, request.param, 4, 2)),
        ("core_grad", blocks.CoreGrad(16, 16, 16, request.param, 4, 2)),
    ):
        monkeypatch.setattr(blocks, name, lambda *_, block=block: block)
    monkeypatch.setattr(projection, "_plan", projection._plan.__wrapped__)  # keeps none
    # The order in which torch's sum adds parts up depends on their shape.
    monkeypatch.setattr(projection, "add_parts", functools.partial(functools.reduce, torch.add))


def new(groups, rows, width, generator):
    """`(groups rows, width)`, column by column in memory."""
    return torch.randn(width, groups * rows, generator=generator).mT


def assert_close(found, exact, terms):
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5 * math.sqrt(terms))


def one_by_one(solve, groups, *tensors):
    """`solve(1, ...)` of each group's rows of the tensors."""
    parts = zip(*(tensor.tensor_split(groups) for tensor in tensors), strict=True)
    return torch.cat([solve(1, *part) for part in parts])


def modes(hoisted):
    """The outer product is of all factors but the last one: in the mean output it differs from
    sample to sample, where the leading factor is a constant."""
    return lambda extents: blocks.Modes(max(1, len(extents) - 1), hoisted)


def einsum(core, factors, groups):
    """Both outputs `(g, n, k_x)`, and what they are made of, in float64."""
    core, *z = [t.double().unflatten(0, (groups, -1)).requires_grad_() for t in (core, *factors)]
    letters = "abc"[: len(z)]
    equation = f"gx{letters},{','.join('gn' + k for k in letters)}->gnx"
    leads = z[0], torch.full_like(z[0], 1 / z[0].shape[2])
    return [torch.einsum(equation, core, lead, *z[1:]) for lead in leads], [core, *z]


@pytest.mark.parametrize("hoisted", [True, False])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_projection(case, hoisted, splits, launches, generator, monkeypatch):
    """Both outputs side by side."""
    groups, n, k_x, sizes = case
    monkeypatch.setattr(blocks, "modes", modes(hoisted))
    core = torch.randn(groups * k_x, *sizes, generator=generator)
    z = [new(groups, n, k, generator) for k in sizes]

    def solve(count, core, *z):
        return torch.cat(projection._project(core, list(z), True, count), 1)

    found = solve(groups, core, *z)
    assert len(launches) == (2 if len(z) == 1 else 1)
    exact = torch.cat(einsum(core, z, groups)[0], 2).flatten(0, 1)
    assert_close(found, exact, math.prod(sizes))
    assert torch.equal(found, one_by_one(solve, groups, core, *z))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients(case, splits, launches, generator, monkeypatch):
    """Of both outputs together."""
    groups, n, k_x, sizes = case
    monkeypatch.setattr(blocks, "modes", modes(False))
    core = torch.randn(groups * k_x, *sizes, generator=generator)
    z = [new(groups, n, k, generator) for k in sizes]
    grads = [new(groups, n, k_x, generator) for _ in range(2)]

    def of_core(count, grad, grad_mean, *z):
        out = torch.empty(count * k_x, *sizes)
        projection._write_core_grad(out, grad, grad_mean, list(z), False, count)
        return out

    def of_factors(count, core, grad, grad_mean, *z):
        needs = [True] * len(z)
        return projection.projection_factor_grads(core, grad, grad_mean, list(z), needs, count)

    d_core, d_z = of_core(groups, *grads, *z), of_factors(groups, core, *grads, *z)
    assert launches == ["core_grad"] * (2 if len(z) == 1 else 1) + ["factor_grads"]
    outputs, leaves = einsum(core, z, groups)
    cotangents = [grad.double().view_as(x) for grad, x in zip(grads, outputs, strict=True)]
    exact = torch.autograd.grad(outputs, leaves, cotangents)
    exact_core, *exact_z = (each.flatten(0, 1) for each in exact)
    assert_close(d_core, exact_core, n)
    assert_close(d_z, torch.cat(exact_z, 1), k_x * math.prod(sizes))
    assert torch.equal(d_core, one_by_one(of_core, groups, *grads, *z))
    assert torch.equal(d_z, one_by_one(of_factors, groups, core, *grads, *z))


def test_what_is_not_finite_stays_in_its_group(splits, generator):
    """The last blocks of a group hold rows of the next one, which must not be read."""
    groups, n, k_x, sizes = 3, 5, 3, (2, 18)
    for place in range(4):
        core = torch.randn(groups * k_x, *sizes, generator=generator)
        grad, *z = (torch.randn(groups * n, k, generator=generator) for k in (k_x, *sizes))
        tensor = (core, grad, *z)[place]
        tensor.tensor_split(groups)[1].fill_(math.nan)
        for found, reads in (
            (projection.grouped_projection(core, z, groups), (0, 2, 3)),
            (projection.grouped_projection_core_grad(grad, z, groups), (1, 2, 3)),
            (projection.grouped_projection_factor_grads(core, grad, z, groups, [True, True]),
             (0, 1, 2, 3)),
        ):  # fmt: skip
            finite = [part.isfinite().all().item() for part in found.tensor_split(groups)]
            assert finite == [True, place not in reads, True]


def test_a_core_beyond_two_to_the_31():
    """The second of two cores of 2^31 elements: a step of its sums, and the block of its gradient
    that has these elements. Memory that nobody touches takes none."""
    L, P, count = 2**27, 16, 2**31
    core = torch.frombuffer(mmap.mmap(-1, 2 * (count + P)), dtype=torch.float16)
    values = core[count : count + P]
    values.copy_(torch.arange(P))
    outer, inner = torch.tensor([5.0, 2.0]), torch.rand(2, P).half()
    sums, grad = torch.zeros(2, 1), torch.tensor([[7.0], [3.0]])
    sizes, places = (1, 1, L, P), (1, 0, 1, 0, P, 1)
    common = {"MEAN": False, "GROUPED": True, "PRECISION": "ieee", "ACC": tl.float32}
    for kernel in (kernels.hoisted, kernels.formed):
        sums.fill_(math.nan)
        kernel[(2, 1)](
            core, outer, outer, inner, sums, sums, *sizes, *places, 1,
            WIDE=False, BM=16, BN=16, BK=16, **common,
        )  # fmt: skip
        wanted = torch.stack([torch.tensor(0.0), 2 * (values.float() @ inner[1].float())])
        torch.testing.assert_close(sums[:, 0], wanted, rtol=1e-3, atol=0)
    d_inner = torch.full((2, P), math.nan)
    grads = (1, 1, 1, 1)
    factor_grads[(2, 1, 1)](
        core, grad.half(), grad.half(), outer, outer, inner, d_inner, d_inner, d_inner,
        *sizes, *grads, *places, 1, 1, OUTER=False, INNER=True, BP=16, BN=16, BM=16, **common,
    )  # fmt: skip
    assert torch.equal(d_inner[1], 2 * 3 * values.float())
    core_grad[(2, 1)](
        grad.half(), grad.half(), outer, outer, inner, core, *sizes, *grads, *places, 1,
        ACCUMULATE=False, RESIDENT=True, BM=16, BP=16, BN=16, **common,
    )  # fmt: skip
    torch.testing.assert_close(values, (3 * 2 * inner[1].float()).half(), rtol=1e-3, atol=0)
