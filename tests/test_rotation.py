"""`rotation` and `rotated_synthesis` in both layouts, and their gradients."""

import functools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import definitions
import ntensor
import strategies
from backends import each_backend, each_backend_often, each_kernel, each_kernel_on
from comparison import assert_matches_definition
from layouts import LAYOUTS, make
from shapes import ONCE_ROTATED, ROTATION

each_layout = pytest.mark.parametrize("layout", ["column", "row"])


def operations(operation, layout, backend):
    """The operation and its definition."""
    ours = functools.partial(getattr(ntensor, operation), layout=layout, backend=backend)
    return ours, functools.partial(getattr(definitions, operation), layout=layout)


@each_kernel_on(ROTATION, once=ONCE_ROTATED)
@each_layout
def test_hurtful_shapes(backend, dtype, layout, shape, generator):
    n, K = shape.n, shape.k_exp * shape.k_id
    y, R = (make("contiguous", s, dtype, generator) for s in ((n, K), (n, 3, 3)))
    cotangent = make("contiguous", (n, K), dtype, generator)
    assert_matches_definition(*operations("rotation", layout, backend), [y, R], [cotangent])


@each_kernel_on(ROTATION, once=ONCE_ROTATED)
@each_layout
def test_hurtful_shapes_rotated_synthesis(backend, dtype, layout, shape, generator):
    n, k_exp, k_id, _ = shape
    inputs = [make("contiguous", s, dtype, generator) for s in ((n, k_exp), (n, k_id), (n, 3, 3))]
    cotangent = make("contiguous", (n, k_exp * k_id), dtype, generator)
    functions = operations("rotated_synthesis", layout, backend)
    assert_matches_definition(*functions, inputs, [cotangent])


@each_kernel
@each_layout
@pytest.mark.parametrize("arrangement", LAYOUTS)
def test_memory_layouts(backend, dtype, layout, arrangement, generator):
    y, R, cotangent = (
        make(arrangement, s, dtype, generator) for s in ((9, 51), (9, 3, 3), (9, 51))
    )
    assert_matches_definition(*operations("rotation", layout, backend), [y, R], [cotangent])
    for k_exp, k_id in ((3, 17), (17, 3)):
        inputs = [make(arrangement, s, dtype, generator) for s in ((9, k_exp), (9, k_id))]
        functions = operations("rotated_synthesis", layout, backend)
        assert_matches_definition(*functions, [*inputs, R], [cotangent])


@given(problem=strategies.rotation_problems(), layout=st.sampled_from(["column", "row"]))
@each_backend_often
def test_any_shape_dtype_layout(backend, problem, layout):
    assert_matches_definition(*operations("rotation", layout, backend), *problem)


@given(problem=strategies.rotated_synthesis_problems(), layout=st.sampled_from(["column", "row"]))
@each_backend_often
def test_any_shape_dtype_layout_rotated_synthesis(backend, problem, layout):
    assert_matches_definition(*operations("rotated_synthesis", layout, backend), *problem)


def rotations(n):
    """Proper rotations: the orthogonal factor of a random matrix, determinant +1."""
    Q = torch.linalg.qr(torch.randn(n, 3, 3, dtype=torch.float64)).Q
    return Q * torch.linalg.det(Q)[:, None, None]


@each_backend
@each_layout
def test_identity_inverse_and_length(backend, layout):
    y, R = torch.randn(6, 33, dtype=torch.float64), rotations(6)
    rotate = functools.partial(ntensor.rotation, layout=layout, backend=backend)
    assert torch.equal(rotate(y, torch.eye(3, dtype=torch.float64).expand(6, 3, 3)), y)
    torch.testing.assert_close(rotate(rotate(y, R), R.mT), y)
    torch.testing.assert_close(rotate(y, R).norm(dim=1), y.norm(dim=1))


@each_backend
def test_default_layout_is_column_stacking(backend):
    """`vec` of the paper stacks columns: element `(a, j)` of the matrix is `y[3j + a]`."""
    y, R = torch.randn(2, 12), torch.randn(2, 3, 3)
    ours = ntensor.rotation(y, R, backend=backend)
    matrix = y.reshape(2, 4, 3).mT
    torch.testing.assert_close(ours, (R @ matrix).mT.reshape(2, 12))
    columns = ntensor.rotation(y, R, layout="column", backend=backend)
    assert torch.equal(ours, columns)
    assert not torch.allclose(ours, ntensor.rotation(y, R, layout="row", backend=backend))


@each_backend
def test_row_layout_rotates_the_expression_alone(backend):
    """`rotated_synthesis(..., "row") = synthesis((R (x) I) z_exp, z_id)` where 3 divides k_exp."""
    z_exp, z_id, R = torch.randn(5, 6), torch.randn(5, 7), torch.randn(5, 3, 3)
    rotated = (R @ z_exp.view(5, 3, 2)).reshape(5, 6)
    expected = definitions.synthesis(rotated, z_id)
    ours = ntensor.rotated_synthesis(z_exp, z_id, R, layout="row", backend=backend)
    torch.testing.assert_close(ours, expected)
