"""The two writings of every definition agree, so that the tests do not rest on one slip."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import definitions

FACTORS = [(2,), (2, 3), (3, 1, 4), (2, 3, 2, 2)]


def draw(*shape):
    return torch.randn(shape, dtype=torch.float64)


def assert_equal(result, loops):
    np.testing.assert_allclose(result.numpy(), loops, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sizes", FACTORS, ids=str)
def test_synthesis_and_projection(sizes):
    core, z = draw(4, *sizes), [draw(3, k) for k in sizes]
    arrays = [f.numpy() for f in z]
    assert_equal(definitions.synthesis(*z), definitions.synthesis_loops(*arrays))
    results = definitions.synthesis_projection_with_mean(core, *z)
    loops = definitions.synthesis_projection_with_mean_loops(core.numpy(), *arrays)
    for result, expected in zip(results, loops, strict=True):
        assert_equal(result, expected)


@pytest.mark.parametrize("layout", ["column", "row"])
def test_rotation(layout):
    y, R = draw(2, 12), draw(2, 3, 3)
    expected = definitions.rotation_loops(y.numpy(), R.numpy(), layout)
    assert_equal(definitions.rotation(y, R, layout), expected)


@pytest.mark.parametrize("mode", [0, 1, 2, -1])
def test_mttkrp(mode):
    tensor, factors, weights = draw(2, 3, 4), [draw(k, 5) for k in (2, 3, 4)], draw(5)
    arrays = [f.numpy() for f in factors]
    expected = definitions.mttkrp_loops(tensor.numpy(), arrays, mode, weights.numpy())
    assert_equal(definitions.mttkrp(tensor, factors, mode, weights), expected)


def test_bilinear_is_that_of_torch():
    x1, x2, weight, bias = draw(2, 3, 4), draw(2, 3, 5), draw(6, 4, 5), draw(6)
    expected = F.bilinear(x1, x2, weight, bias)
    assert_equal(definitions.bilinear(x1, x2, weight, bias), expected.numpy())
