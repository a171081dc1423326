"""`synthesis_projection`, with and without its mean output, and their gradients."""

import functools
import itertools

import pytest
import torch
from hypothesis import given

import definitions
import ntensor
import strategies
from backends import (
    KERNELS,
    each_backend,
    each_backend_often,
    each_kernel,
    each_kernel_on,
    name_of,
)
from comparison import assert_matches_definition, evaluate, exact_copy, plain_copy
from layouts import LAYOUTS, make
from shapes import LARGE, LONG, ONCE, PROJECTION
from tolerances import BFLOAT16_OF_TORCH

OPERATIONS = ("synthesis_projection", "synthesis_projection_with_mean")
each_operation = pytest.mark.parametrize("operation", OPERATIONS)


def operations(operation, backend):
    """The operation and its definition."""
    ours = functools.partial(getattr(ntensor, operation), backend=backend)
    return ours, getattr(definitions, operation)


def outputs_of(operation):
    return 2 if operation.endswith("mean") else 1


def arguments(shape, dtype, generator):
    shapes = [(shape.k_x, *shape.sizes), *((shape.n, k) for k in shape.sizes)]
    return [make("contiguous", s, dtype, generator) for s in shapes]


@each_kernel_on(PROJECTION, LARGE, LONG, ONCE)
def test_hurtful_shapes_with_mean(backend, dtype, shape, generator):
    check_shape("synthesis_projection_with_mean", backend, dtype, shape, generator)


@each_kernel_on(PROJECTION, LARGE + ONCE, LONG)
def test_hurtful_shapes(backend, dtype, shape, generator):
    check_shape("synthesis_projection", backend, dtype, shape, generator)


def check_shape(operation, backend, dtype, shape, generator):
    inputs = arguments(shape, dtype, generator)
    cotangents = [
        make("contiguous", (shape.n, shape.k_x), dtype, generator)
        for _ in range(outputs_of(operation))
    ]
    assert_matches_definition(*operations(operation, backend), inputs, cotangents)


def each_layout():
    """Every layout in every kernel, with small factors and with ones whose leading one is hoisted.
    Triton's kernels take any strides alike: in its interpreter one dtype goes through all layouts,
    with both outputs, and the most general one through the rest; hoisted, that one alone."""
    problems = itertools.product(KERNELS, OPERATIONS, LAYOUTS, ((3, 17, 5), (2, 33, 32)))
    for (backend, dtype), operation, layout, sizes in problems:
        often = (operation, dtype) == (OPERATIONS[1], torch.float32) and sizes[0] == 3
        often |= layout == "stepped"
        yield pytest.param(
            *(backend, dtype, operation, layout, sizes),
            id=f"{layout}-{operation}-{sizes[1]}-{backend}-{name_of(dtype)}",
            marks=() if often or backend != "triton" else pytest.mark.slow,
        )


@pytest.mark.parametrize(("backend", "dtype", "operation", "layout", "sizes"), list(each_layout()))
def test_layouts(backend, dtype, operation, layout, sizes, generator):
    """The core begins anywhere."""
    core = make("offset", (6, *sizes), dtype, generator)
    factors = [make(layout, (9, k), dtype, generator) for k in sizes]
    cotangents = [make(layout, (9, 6), dtype, generator) for _ in range(outputs_of(operation))]
    assert_matches_definition(*operations(operation, backend), [core, *factors], cotangents)


@given(problem=strategies.projection_problems())
@each_backend_often
def test_any_shape_dtype_layout(backend, problem):
    assert_matches_definition(*operations("synthesis_projection", backend), *problem)


@given(problem=strategies.projection_problems(outputs=2))
@each_backend_often
def test_any_shape_dtype_layout_with_mean(backend, problem):
    """Any of the two outputs may take no part in the loss."""
    assert_matches_definition(*operations("synthesis_projection_with_mean", backend), *problem)


@each_kernel
@pytest.mark.parametrize("used", [(True, False), (False, True)], ids=["x alone", "mean alone"])
@pytest.mark.parametrize("sizes", [(3, 4, 5), (2, 33, 32), (1, 6, 5), (7,)], ids=str)
def test_one_of_two_outputs(backend, dtype, used, sizes, generator):
    core = make("contiguous", (6, *sizes), dtype, generator)
    factors = [make("contiguous", (5, k), dtype, generator) for k in sizes]
    cotangents = [make("contiguous", (5, 6), dtype, generator) if use else None for use in used]
    ours, definition = operations("synthesis_projection_with_mean", backend)
    assert_matches_definition(ours, definition, [core, *factors], cotangents)


@each_backend
def test_mean_does_not_depend_on_the_leading_factor(backend):
    core, z = torch.randn(4, 3, 5, 2), [torch.randn(6, k) for k in (3, 5, 2)]
    z[0].requires_grad_()
    mean = ntensor.synthesis_projection_with_mean(core, *z, backend=backend)[1]
    other = ntensor.synthesis_projection_with_mean(core, z[0] + 1, *z[1:], backend=backend)[1]
    assert torch.equal(mean, other)
    if mean.requires_grad:
        (grad,) = torch.autograd.grad(mean.sum(), z[0], materialize_grads=True)
        assert torch.equal(grad, torch.zeros_like(z[0]))


@each_backend
@each_operation
def test_every_choice_of_gradients(backend, operation, generator):
    """All subsets of the inputs, each with the same values as all at once."""
    inputs = [make("contiguous", s, torch.float64, generator) for s in ((4, 2, 3), (5, 2), (5, 3))]
    cotangents = [torch.randn(5, 4, dtype=torch.float64) for _ in range(outputs_of(operation))]
    for mask in range(8):
        needs = [bool(mask >> bit & 1) for bit in range(3)]
        assert_matches_definition(*operations(operation, backend), inputs, cotangents, needs)


# Triton's interpreter truncates bfloat16 where it stores it, so its error says nothing there.
@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("sizes", [(9, 15, 80), (4, 6, 8)], ids=str)
def test_bfloat16_is_more_accurate_than_the_chain_of_torch(backend, sizes, generator):
    """Relative Frobenius error against float64, at most 0.7 of that of torch's own chain."""
    core = make("contiguous", (64, *sizes), torch.bfloat16, generator)
    factors = [make("contiguous", (32, k), torch.bfloat16, generator) for k in sizes]
    cotangent = make("contiguous", (32, 64), torch.bfloat16, generator)
    ours, definition = operations("synthesis_projection", backend)
    inputs, needs = [core, *factors], [False, True, True, True]
    (x,), grads = evaluate(ours, inputs, needs, [cotangent])
    (rival,), rival_grads = evaluate(definition, inputs, needs, [cotangent], plain_copy)
    (exact,), exact_grads = evaluate(definition, inputs, needs, [cotangent], exact_copy)
    error = (x.double() - exact).norm() / (rival.double() - exact).norm()
    assert error <= BFLOAT16_OF_TORCH
    for grad, rival_grad, exact_grad in zip(grads, rival_grads, exact_grads, strict=True):
        own = (grad.double() - exact_grad).norm()
        assert own <= BFLOAT16_OF_TORCH * (rival_grad.double() - exact_grad).norm()


@each_backend
def test_one_factor_is_a_linear_layer(backend):
    core, z = torch.randn(7, 5), torch.randn(4, 5)
    x = ntensor.synthesis_projection(core, z, backend=backend)
    torch.testing.assert_close(x, torch.nn.functional.linear(z, core))
