"""Sums of many like terms. In a chain of additions their rounding errors all point one way, so the
error of a result tells how long its chains are: at most some five hundred terms, as in a BLAS, or
some more of which each rounds less."""

import math
from contextlib import nullcontext

import pytest
import torch

import ntensor
from ntensor import _cpu
from ntensor.backends.native import force_simd_level, plans
from ntensor.backends.native.library import simd_level
from ntensor.backends.native.plans import force_plan

VALUE = float(torch.tensor(0.1))
BOUND = 512 * 2.0**-24
# k_x, extents, samples. With fewer than four samples, rows of the core are added up one by one;
# 70 000 rows are more than a thread sums up at a time.
SIZES = [
    *((2000, (40, 40), 1), (2000, (40, 40), 3), (30, (400, 300), 1), (2, (100, 90, 80), 1)),
    *((70000, (3, 4), 5), (3, (1000, 700), 2), (4, (3, 5), 50000), (5, (20, 300), 300)),
]


def filled(*shape):
    return torch.full(shape, VALUE).requires_grad_()


def is_torchs(sizes, mean, plan):
    """Whether the gradients of long sums may be products of torch, which have chains of their own:
    up to an error of 5e-4 here, as a user's own product would have."""
    k_x, extents, n = sizes
    if max(k_x, n) < 50000:
        return False
    problem = plans.Sizes(simd_level(), 0, n, extents, k_x, torch.get_num_threads(), 1)
    choice = None if plan is None else str(plan)
    needs = (True,) * len(extents)
    ways = (
        plans.factor_grads(problem, True, mean, needs, True, choice).way,
        plans.core_grad(problem, True, mean, choice),
    )
    return any(way.hoisted < 0 for way in ways)


def assert_exact(found, wanted):
    assert (found.detach().double() - wanted).abs().max() <= BOUND * wanted


@pytest.mark.parametrize("level", [None, *_cpu.simd_levels()[1:]])
@pytest.mark.parametrize("plan", [None, 0, 1, 2])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_projection_and_gradients(sizes, plan, level):
    k_x, extents, n = sizes
    v, k, count = VALUE, math.prod(extents), len(extents)
    core, z = filled(k_x, *extents), [filled(n, extent) for extent in extents]
    with (
        force_simd_level(level) if level else nullcontext(),
        nullcontext() if plan is None else force_plan(plan),
    ):
        if is_torchs(sizes, False, plan):
            pytest.skip("products of torch")
        x = ntensor.synthesis_projection(core, *z)
        core_grad, *grads = torch.autograd.grad(x, [core, *z], filled(n, k_x))
    assert_exact(x, k * v ** (count + 1))
    assert_exact(core_grad, n * v ** (count + 1))
    for grad, extent in zip(grads, extents, strict=True):
        assert_exact(grad, k_x * k / extent * v ** (count + 1))


@pytest.mark.parametrize("plan", [None, 0, 1, 2])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_mean_output(sizes, plan):
    k_x, extents, n = sizes
    v, k, count = VALUE, math.prod(extents), len(extents)
    core, z = filled(k_x, *extents), [filled(n, extent) for extent in extents]
    with nullcontext() if plan is None else force_plan(plan):
        if is_torchs(sizes, True, plan):
            pytest.skip("products of torch")
        outputs = ntensor.synthesis_projection_with_mean(core, *z)
        grads = torch.autograd.grad(outputs, [core, *z], [filled(n, k_x), filled(n, k_x)])
    assert_exact(outputs[0], k * v ** (count + 1))
    assert_exact(outputs[1], k / extents[0] * v**count)
    assert_exact(grads[0], n * (v ** (count + 1) + v**count / extents[0]))
    assert_exact(grads[1], k_x * k / extents[0] * v ** (count + 1))
    for grad, extent in zip(grads[2:], extents[1:], strict=True):
        mean = k_x * k / (extents[0] * extent) * v**count
        assert_exact(grad, k_x * k / extent * v ** (count + 1) + mean)


@pytest.mark.parametrize("mode", range(3))
def test_mttkrp(mode):
    shape, rank = (90, 110, 130), 3
    found = ntensor.mttkrp(filled(*shape), [filled(k, rank) for k in shape], mode)
    assert_exact(found, math.prod(shape) / shape[mode] * VALUE**3)
