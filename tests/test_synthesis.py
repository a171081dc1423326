"""`synthesis`: the Kronecker product of each sample's rows, and its gradients."""

import functools
import math

import pytest
import torch
from hypothesis import given

import definitions
import ntensor
import strategies
from backends import each_backend, each_backend_often, each_kernel, each_kernel_on
from comparison import assert_matches_definition
from layouts import LAYOUTS, make
from shapes import SYNTHESIS


def synthesis(backend):
    return functools.partial(ntensor.synthesis, backend=backend)


@each_kernel_on(SYNTHESIS, once=[shape for shape in SYNTHESIS if len(shape.sizes) > 50])
def test_hurtful_shapes(backend, dtype, shape, generator):
    factors = [make("contiguous", (shape.n, k), dtype, generator) for k in shape.sizes]
    cotangent = make("contiguous", (shape.n, math.prod(shape.sizes)), dtype, generator)
    assert_matches_definition(synthesis(backend), definitions.synthesis, factors, [cotangent])


@each_kernel
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(backend, dtype, layout, generator):
    """Every factor and the incoming gradient in one layout, then one factor alone."""
    factors = [make(layout, (9, k), dtype, generator) for k in (3, 17, 5)]
    dense = [make("contiguous", (9, k), dtype, generator) for k in (3, 17, 5)]
    cotangent = make(layout, (9, 255), dtype, generator)
    for inputs in (factors, factors[:1] + dense[1:], dense[:2] + factors[2:]):
        assert_matches_definition(synthesis(backend), definitions.synthesis, inputs, [cotangent])


@given(problem=strategies.synthesis_problems())
@each_backend_often
def test_any_shape_dtype_layout(backend, problem):
    assert_matches_definition(synthesis(backend), definitions.synthesis, *problem)


@each_backend
def test_one_factor_is_copied(backend):
    z = torch.randn(4, 5)
    y = ntensor.synthesis(z, backend=backend)
    assert torch.equal(y, z)
    assert y.data_ptr() != z.data_ptr()


@each_backend
def test_last_factor_varies_fastest(backend):
    """Index `(l*k_exp + e)*k_id + i` of the contract, on numbers that name their own index."""
    z_l, z_exp, z_id = (
        torch.tensor([[2.0, 3.0]]),
        torch.tensor([[5.0, 7.0, 11.0]]),
        torch.tensor([[13.0, 17.0]]),
    )
    y = ntensor.synthesis(z_l, z_exp, z_id, backend=backend)
    for l, e, i in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(2)):
        assert y[0, (l * 3 + e) * 2 + i] == z_l[0, l] * z_exp[0, e] * z_id[0, i]


@each_backend
def test_same_factor_twice(backend):
    """The gradient of `z (x) z` adds the parts of both places."""
    z = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 16, dtype=torch.float64)
    (ours,) = torch.autograd.grad(ntensor.synthesis(z, z, backend=backend), z, weight)
    (plain,) = torch.autograd.grad(definitions.synthesis(z, z), z, weight)
    torch.testing.assert_close(ours, plain)
