"""`mttkrp`: the unfolded tensor times the Khatri-Rao product of the other factors, any mode."""

import math

import pytest
import tensorly
import torch
from hypothesis import given
from tensorly.tenalg import unfolding_dot_khatri_rao

import definitions
import ntensor
import strategies
from backends import each_backend, each_backend_often, each_dtype, each_kernel, each_kernel_on
from comparison import assert_matches_definition
from layouts import LAYOUTS, make
from partials import shared_modes
from shapes import MTTKRP

SHAPES = [(sizes, rank, mode) for sizes, rank, _ in MTTKRP for mode in (*range(len(sizes)), -1)]
# Triton has the projection's kernels here, whose own tests take the same branches.
LARGE = [shape for shape in SHAPES if math.prod(shape[0]) > 1000]


def with_none(factors, mode, ndim):
    """The factors of the other modes, None in the place of `mode`."""
    place = mode % ndim
    return [*factors[:place], None, *factors[place:]]


def operations(mode, ndim, backend, weighted=False):
    """The operation and its definition on (tensor, the other factors, weights where they count)."""

    def ours(tensor, *rest):
        factors, weights = (rest[:-1], rest[-1]) if weighted else (rest, None)
        factors = with_none(factors, mode, ndim)
        return ntensor.mttkrp(tensor, factors, mode, weights=weights, backend=backend)

    def definition(tensor, *rest):
        factors, weights = (rest[:-1], rest[-1]) if weighted else (rest, None)
        return definitions.mttkrp(tensor, with_none(factors, mode, ndim), mode, weights)

    return ours, definition


def arguments(sizes, rank, mode, dtype, generator, layout="contiguous", core_layout="contiguous"):
    others = [k for m, k in enumerate(sizes) if m != mode % len(sizes)]
    tensor = make(core_layout, sizes, dtype, generator)
    return [tensor, *(make(layout, (k, rank), dtype, generator) for k in others)]


@each_kernel_on(SHAPES, LARGE)
def test_hurtful_shapes(backend, dtype, shape, generator):
    sizes, rank, mode = shape
    inputs = arguments(sizes, rank, mode, dtype, generator)
    cotangent = make("contiguous", (sizes[mode], rank), dtype, generator)
    assert_matches_definition(*operations(mode, len(sizes), backend), inputs, [cotangent])


@each_kernel
@pytest.mark.parametrize("mode", [0, 1, 2])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(backend, dtype, mode, layout, generator):
    inputs = arguments((4, 5, 7), 9, mode, dtype, generator, layout, "offset")
    cotangent = make(layout, ((4, 5, 7)[mode], 9), dtype, generator)
    assert_matches_definition(*operations(mode, 3, backend), inputs, [cotangent])


@given(problem=strategies.mttkrp_problems())
@each_backend_often
def test_any_shape_dtype_layout(backend, problem):
    tensors, mode = problem
    functions = operations(mode, tensors.inputs[0].ndim, backend)
    assert_matches_definition(*functions, *tensors)


@each_backend
@each_dtype
@pytest.mark.parametrize("mode", [0, 1, 2, -1, -3])
def test_weights(backend, dtype, mode, generator):
    inputs = arguments((4, 5, 3), 6, mode, dtype, generator)
    inputs.append(make("contiguous", (6,), dtype, generator))
    cotangent = make("contiguous", ((4, 5, 3)[mode], 6), dtype, generator)
    functions = operations(mode, 3, backend, weighted=True)
    assert_matches_definition(*functions, inputs, [cotangent])


@each_backend
@pytest.mark.parametrize("mode", [0, 1, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_equals_tensorly(backend, mode, weighted):
    tensor, factors = torch.randn(4, 5, 6), [torch.randn(k, 3) for k in (4, 5, 6)]
    weights = torch.rand(3) if weighted else None
    with tensorly.backend_context("pytorch"):
        expected = unfolding_dot_khatri_rao(tensor, (weights, factors), mode)
    ours = ntensor.mttkrp(tensor, factors, mode, weights=weights, backend=backend)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


@each_backend
@pytest.mark.parametrize("mode", [0, 1, 2, -1])
def test_factor_at_the_mode_is_ignored(backend, mode):
    """It may be None, of any shape, and gets no gradient."""
    tensor = torch.randn(2, 3, 4)
    factors = [torch.randn(k, 5, requires_grad=True) for k in (2, 3, 4)]
    result = ntensor.mttkrp(tensor, factors, mode, backend=backend)
    result.sum().backward()
    assert factors[mode].grad is None
    for other in (None, torch.full((7, 9), torch.nan)):
        factors[mode] = other
        assert torch.equal(ntensor.mttkrp(tensor, factors, mode, backend=backend), result)


@each_backend
def test_one_mode(backend):
    """The product of no factors is 1: the tensor itself, once a column."""
    tensor, weights = torch.randn(4), torch.randn(3)
    column = tensor[:, None]
    assert torch.equal(ntensor.mttkrp(tensor, [None], 0, backend=backend), column)
    wide = ntensor.mttkrp(tensor, [torch.randn(4, 5)], -1, backend=backend)
    assert torch.equal(wide, column.expand(4, 5))
    weighted = ntensor.mttkrp(tensor, [None], 0, weights=weights, backend=backend)
    torch.testing.assert_close(weighted, column * weights)


def test_small_tensors_share_nothing():
    """A mode by itself is one call; sharing takes several."""
    assert shared_modes((300, 300, 300), 32) == 2
    assert shared_modes((300, 300, 300), 7) == 0
    assert shared_modes((40, 40, 40, 40), 8) == 0
