"""`bilinear`: the contract of `torch.nn.functional.bilinear`, leading dimensions included."""

import functools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given

import definitions
import ntensor
import strategies
from backends import each_backend, each_backend_often, each_kernel
from comparison import assert_matches_definition
from layouts import LAYOUTS, make

LEADING = [
    ((), "no leading dimension: one sample"),
    ((1,), "one sample in a batch"),
    ((0,), "no samples"),
    ((63,), "one below a slab"),
    ((2, 33), "two leading dimensions"),
    ((2, 0, 3), "an empty dimension in the middle"),
]


def bilinear(backend):
    return functools.partial(ntensor.bilinear, backend=backend)


@each_kernel
@pytest.mark.parametrize("leading", [shape for shape, _ in LEADING], ids=str)
@pytest.mark.parametrize("biased", [False, True])
def test_leading_dimensions(backend, dtype, leading, biased, generator):
    shapes = [(*leading, 5), (*leading, 7), (6, 5, 7), *([(6,)] if biased else [])]
    inputs = [make("contiguous", s, dtype, generator) for s in shapes]
    cotangent = make("contiguous", (*leading, 6), dtype, generator)
    assert_matches_definition(bilinear(backend), definitions.bilinear, inputs, [cotangent])


@each_kernel
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(backend, dtype, layout, generator):
    inputs = [make(layout, s, dtype, generator) for s in ((3, 4, 5), (3, 4, 33))]
    inputs += [make("contiguous", s, dtype, generator) for s in ((6, 5, 33), (6,))]
    cotangent = make(layout, (3, 4, 6), dtype, generator)
    assert_matches_definition(bilinear(backend), definitions.bilinear, inputs, [cotangent])


@given(problem=strategies.bilinear_problems())
@each_backend_often
def test_any_shape_dtype_layout(backend, problem):
    assert_matches_definition(bilinear(backend), definitions.bilinear, *problem)


@each_backend
@pytest.mark.parametrize("biased", [False, True])
def test_equals_torch(backend, biased):
    """Outputs and every gradient of the function that it stands in for."""
    inputs = [torch.randn(s, requires_grad=True) for s in ((4, 3, 5), (4, 3, 6), (7, 5, 6))]
    inputs += [torch.randn(7, requires_grad=True)] if biased else []
    cotangent = torch.randn(4, 3, 7)
    ours, theirs = ntensor.bilinear(*inputs, backend=backend), F.bilinear(*inputs)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    grads = [torch.autograd.grad(x, inputs, cotangent) for x in (ours, theirs)]
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-5)
