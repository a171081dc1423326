"""How several problems of one size are divided among threads, and small ones computed."""

import pytest
import torch

import ntensor
from ntensor import _cpu
from ntensor.backends.native import call, force_simd_level, plans, prices
from ntensor.backends.native.plans import Sizes
from ntensor.ops import direct
from test_direct_calls import close

LEVELS = _cpu.simd_levels()


@pytest.mark.parametrize(
    ("problems", "threads", "n", "found"),
    [
        (1, 4, 4096, (4, 1)),
        (3, 4, 4096, (4, 1)),
        (4, 4, 4096, (1, 4)),
        (5, 4, 4096, (4, 1)),  # three threads would idle while the fifth is solved
        (5, 4, 1, (1, 4)),  # which is better than four threads for little work
        (65, 4, 4096, (1, 4)),
        (3, 1, 4096, (1, 1)),
    ],
)
def test_threads_of_a_stack(problems, threads, n, found):
    assert call.divide(problems, threads, call.work_of(problems, n, (20, 20), 20)) == found


def test_a_stack_of_small_problems_has_threads_for_what_its_results_and_cores_take():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        core = torch.empty(22 * 581, 4, 2)
        sizes, stack = call.stacked_sizes_of(core, 22, 5, (4, 2), 581)
        assert sizes == Sizes(sizes.level, 0, 5, (4, 2), 581, 1, 11)
        assert stack == (22, 2)
    finally:
        torch.set_num_threads(threads)


def test_what_the_host_does_for_torch_is_done_once_for_a_stack():
    alone = prices.projection(Sizes("avx512", 0, 8, (4, 4), 800, 1), False)
    stacked = prices.projection(Sizes("avx512", 0, 8, (4, 4), 800, 1, 100), False)
    assert alone[plans.PRODUCT] - stacked[plans.PRODUCT] == pytest.approx(0.99 * prices.HOST)
    assert all(alone[way] == stacked[way] for way in alone if way != plans.PRODUCT)


@pytest.mark.parametrize("level", [level for level in LEVELS if level.startswith("avx512")])
@pytest.mark.parametrize("groups", [1, 40])
def test_products_of_torch_at_avx512(level, groups):
    """Many rows and few columns: torch's own products, and right."""
    n, extents, k_x = (256, (4, 4), 4000) if groups == 1 else (5, (2, 2), 2000)
    generator = torch.Generator().manual_seed(0)
    shapes = [(groups, k_x, *extents), *((groups, n, k) for k in extents)]
    values = [torch.randn(shape, generator=generator) for shape in shapes]
    upstream = torch.randn(groups, n, k_x, generator=generator)
    if groups == 1:
        values, upstream = [each[0] for each in values], upstream[0]
    with force_simd_level(level):
        core = values[0].flatten(0, 1) if groups > 1 else values[0]
        sizes, _ = call.stacked_sizes_of(core, groups, n, extents, k_x)
        assert prices.price_of_product(sizes) is not None
        if groups > 1:
            assert plans.projection(sizes, False, None) == plans.PRODUCT
        assert plans.PRODUCT not in prices.core_grad(sizes, False)
        given = [each.clone().requires_grad_() for each in values]
        found = ntensor.synthesis_projection(*given)
        gradients = torch.autograd.grad(found, given, upstream)
    wide = [each.double().requires_grad_() for each in values]
    equation = "gxab,gna,gnb->gnx" if groups > 1 else "xab,na,nb->nx"
    wanted = torch.einsum(equation, *wide)
    right = torch.autograd.grad(wanted, wide, upstream.double())
    for each, exact in zip((found.detach(), *gradients), (wanted.detach(), *right), strict=True):
        scale = exact.abs().max()
        torch.testing.assert_close(each.double() / scale, exact / scale, rtol=0, atol=1e-5)


@pytest.mark.sanitizer
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("n", [2, 5, 20])
def test_gradients_of_cores_of_few_columns(level, dtype, groups, n):
    """Of every width up to a tile and beyond, whose last vectors are partly filled."""
    k_x = 37
    for P in (*range(1, 20), 31, 33, 47, 48, 49, 50, 63, 65):
        generator = torch.Generator().manual_seed(P)
        shapes = [(groups * k_x, 2, P), (groups * n, 2), (groups * n, P), (groups * n, k_x)]
        *values, grad = [torch.randn(each, generator=generator).to(dtype) for each in shapes]
        wide = [each.double().unflatten(0, (groups, -1)).requires_grad_() for each in values]
        x = torch.einsum("gxab,gna,gnb->gnx", *wide)
        right = torch.autograd.grad(x, wide, grad.double().view(x.shape))
        for choice in (None, 1):  # the leading factor hoisted
            with force_simd_level(level), torch.no_grad():
                if choice is None:
                    found = direct.gradients(values, grad, [True] * 3, groups)
                else:
                    with plans.force_plan(choice):
                        needs = [True, True]
                        native = ntensor.backends.native.projection
                        core_grad = native.grouped_projection_core_grad(grad, values[1:], groups)
                        joined = native.grouped_projection_factor_grads(
                            values[0], grad, values[1:], groups, needs
                        )
                        found = [core_grad, joined[:, :2], joined[:, 2:]]
            for each, exact in zip(found, right, strict=True):
                close(each, exact.flatten(0, 1), dtype)
