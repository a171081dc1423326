"""Every kernel at every SIMD level, in every dtype, on every shape that hurts, in few seconds.

Values are tested elsewhere. Here the kernels run so that AddressSanitizer and UBSan can watch them
(`pytest -m sanitizer`); without a sanitizer the tests say that no NaN of poisoned memory is left.
Each argument has a buffer of its own that is no larger than it must be.
"""

import itertools
import math

import pytest
import torch

from backends import each_dtype
from layouts import make
from ntensor import _cpu
from ntensor.backends.native import force_simd_level
from shapes import PROJECTION, ROTATION

pytestmark = pytest.mark.sanitizer

OPS = torch.ops.ntensor
# How the buffers lie: row by row, column by column, at the odd places of a larger buffer, and with
# one row or one value for all samples.
ARRANGEMENTS = ("contiguous", "transposed", "stepped", "expanded_rows", "expanded")


def assert_written(*results):
    for result in results:
        assert not torch.isnan(result).any()


@each_dtype
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("level", _cpu.simd_levels())
def test_projection(level, threads, dtype, generator):
    torch.set_num_threads(threads)
    for shape, layout in zip(PROJECTION, itertools.cycle(ARRANGEMENTS)):
        sizes, count = shape.sizes, len(shape.sizes)
        core = make("contiguous", (shape.k_x, *sizes), dtype, generator)
        z = [make(layout, (shape.n, k), dtype, generator) for k in sizes]
        G, G_mean = (make(layout, (shape.n, shape.k_x), dtype, generator) for _ in range(2))
        with force_simd_level(level):
            assert_written(OPS.synthesis_projection(core, z, "native"))
            assert_written(*OPS.synthesis_projection_with_mean(core, z, "native"))
            for grad, grad_mean in ((G, None), (None, G_mean), (G, G_mean)):
                for needs in ([True] * count, [m % 2 == 1 for m in range(count)]):
                    assert_written(
                        OPS.projection_factor_grads(core, grad, grad_mean, z, needs, "native")
                    )
                assert_written(OPS.projection_core_grad(grad, grad_mean, z, "native"))
                total = torch.zeros_like(core)
                OPS.projection_core_grad_(total, grad, grad_mean, z, "native")
                assert_written(total)


@each_dtype
@pytest.mark.parametrize("level", _cpu.simd_levels())
def test_not_a_number_stays(level, dtype):
    """In whole vectors and in what is left over."""
    z = [torch.ones(3, k, dtype=dtype) for k in (5, 37)]
    z[1][1] = math.nan
    with force_simd_level(level):
        y = OPS.synthesis(z, "native")
        x = OPS.synthesis_projection(torch.ones(41, 5, 37, dtype=dtype), z, "native")
    for result in (y, x):
        assert torch.isnan(result[1]).all()
        assert_written(result[::2])


@each_dtype
@pytest.mark.parametrize("level", _cpu.simd_levels())
def test_synthesis(level, dtype, generator):
    torch.set_num_threads(3)
    for shape, layout in zip(PROJECTION, itertools.cycle(ARRANGEMENTS)):
        z = [make(layout, (shape.n, k), dtype, generator) for k in shape.sizes]
        grad = make(layout, (shape.n, math.prod(shape.sizes)), dtype, generator)
        needs = [m % 2 == 0 for m in range(len(z))]
        with force_simd_level(level):
            assert_written(OPS.synthesis(z, "native"))
            assert_written(OPS.synthesis_grads(grad, z, [True] * len(z), "native"))
            assert_written(OPS.synthesis_grads(grad, z, needs, "native"))


@each_dtype
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize("level", _cpu.simd_levels())
def test_rotation(level, arrangement, dtype, generator):
    torch.set_num_threads(3)
    for (n, k_exp, k_id, _), layout in itertools.product(ROTATION, ("column", "row")):
        K = k_exp * k_id
        shapes = ((n, k_exp), (n, k_id), (n, 3, 3), (n, K), (n, K))
        z_exp, z_id, R, y, grad = (make(arrangement, s, dtype, generator) for s in shapes)
        with force_simd_level(level):
            assert_written(
                OPS.rotation(y, R, layout, "native"),
                OPS.rotation_matrix_grad(grad, y, layout, "native"),
                OPS.rotated_synthesis(z_exp, z_id, R, layout, "native"),
            )
            for needs in itertools.product([False, True], repeat=3):
                if any(needs):
                    assert_written(
                        OPS.rotated_synthesis_grads(
                            grad, z_exp, z_id, R, layout, list(needs), "native"
                        )
                    )
