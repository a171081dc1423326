"""Every operation on a GPU: values against float64."""

import functools
import math

import pytest
import torch

import definitions
import ntensor
from cases import PUBLIC
from comparison import assert_values, in_tuple
from gpu_tools import (
    PAPER,
    each_backend,
    each_dtype,
    each_operation,
    made,
    moved,
    on_a_gpu,
    pair_of,
    projection_inputs,
    require,
)
from layouts import LAYOUTS
from shapes import MTTKRP, PROJECTION, ROTATION, SYNTHESIS

pytestmark = on_a_gpu


@each_backend
@each_dtype
@pytest.mark.parametrize("case", PUBLIC, ids=str)
def test_every_operation(case, backend, dtype, device):
    require(backend, device, dtype)
    inputs = [moved(t, device) for t in case.inputs(dtype, requires_grad=False)]
    outputs = case.function(*inputs, backend="reference")
    outputs = in_tuple(outputs)
    cotangents = [torch.randn_like(output) for output in outputs]
    ours = functools.partial(case.function, backend=backend)
    assert_values(ours, case.definition, inputs, cotangents)


@each_backend
@each_dtype
@each_operation
@pytest.mark.parametrize("shape", PROJECTION, ids=str)
def test_projection_shapes(operation, backend, dtype, shape, device):
    require(backend, device, dtype)
    inputs, grads = projection_inputs(shape.n, shape.k_x, shape.sizes, dtype, device)
    outputs = 1 + operation.endswith("mean")
    assert_values(*pair_of(operation, backend), inputs, grads[:outputs])


@each_backend
@each_dtype
@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
@pytest.mark.parametrize(
    ("groups", "n", "k_x", "sizes"),
    [
        (1, 5, 6, (3, 4)),
        (3, 1, 2, (1, 1)),
        (3, 65, 1, (7, 1)),
        (2, 17, 40, (200,)),
        (64, 16, 64, (8, 8)),
        (5, 70, 65, (9, 3, 20)),
        (2, 3, 150, (2, 1000)),
    ],
)
def test_groups(groups, n, k_x, sizes, layout, backend, dtype, device, generator):
    """Several cores in one call."""
    require(backend, device, dtype)
    inputs = [made("contiguous", (groups, k_x, *sizes), dtype, generator, device)]
    inputs += [made(layout, (groups, n, k), dtype, generator, device) for k in sizes]

    def definition(*tensors):
        return torch.stack(
            [definitions.synthesis_projection(*group) for group in zip(*tensors, strict=True)]
        )

    ours = functools.partial(ntensor.synthesis_projection, backend=backend)
    assert_values(
        ours, definition, inputs, [made(layout, (groups, n, k_x), dtype, generator, device)]
    )


@each_backend
@each_dtype
@pytest.mark.parametrize("shape", SYNTHESIS, ids=str)
def test_synthesis_shapes(backend, dtype, shape, device, generator):
    require(backend, device, dtype)
    factors = [made("contiguous", (shape.n, k), dtype, generator, device) for k in shape.sizes]
    K = math.prod(shape.sizes)
    grads = [made("contiguous", (shape.n, K), dtype, generator, device)]
    assert_values(*pair_of("synthesis", backend), factors, grads)


@each_backend
@each_dtype
@pytest.mark.parametrize("layout", ["column", "row"])
@pytest.mark.parametrize("shape", ROTATION, ids=str)
def test_rotation_shapes(backend, dtype, layout, shape, device, generator):
    require(backend, device, dtype)
    n, k_exp, k_id, _ = shape
    make = functools.partial(made, "contiguous", dtype=dtype, generator=generator, device=device)
    R, grad = make((n, 3, 3)), make((n, k_exp * k_id))
    for operation, inputs in (
        ("rotation", [make((n, k_exp * k_id)), R]),
        ("rotated_synthesis", [make((n, k_exp)), make((n, k_id)), R]),
    ):
        ours, definition = pair_of(operation, backend)
        assert_values(
            functools.partial(ours, layout=layout),
            functools.partial(definition, layout=layout),
            inputs,
            [grad],
        )


@each_backend
@each_dtype
@pytest.mark.parametrize(("sizes", "rank"), [case[:2] for case in MTTKRP], ids=str)
def test_mttkrp(backend, dtype, sizes, rank, device, generator):
    require(backend, device, dtype)
    tensor = made("contiguous", sizes, dtype, generator, device)
    factors = [made("contiguous", (k, rank), dtype, generator, device) for k in sizes]
    for mode in range(len(sizes)):
        others = [factor for place, factor in enumerate(factors) if place != mode]

        def arranged(function, tensor, *others, mode=mode, **options):
            return function(tensor, [*others[:mode], None, *others[mode:]], mode, **options)

        assert_values(
            functools.partial(arranged, ntensor.mttkrp, backend=backend),
            functools.partial(arranged, definitions.mttkrp),
            [tensor, *others],
            [made("contiguous", (sizes[mode], rank), dtype, generator, device)],
        )


@each_backend
@each_dtype
@each_operation
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(operation, backend, dtype, layout, device):
    """Factors and incoming gradients of any strides."""
    require(backend, device, dtype)
    for sizes in ((3, 17, 5), (2, 33, 32)):
        inputs, grads = projection_inputs(9, 6, sizes, dtype, device, layout=layout)
        outputs = 1 + operation.endswith("mean")
        assert_values(*pair_of(operation, backend), inputs, grads[:outputs])


@each_backend
@each_operation
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("n", [1, 16, 64, 256, 1024])
@pytest.mark.parametrize(("k_x", "sizes"), [PAPER, (28125, (15, 80)), (64, (9, 15, 80))], ids=str)
def test_sizes_of_the_paper(operation, backend, n, k_x, sizes, dtype, device):
    require(backend, device, dtype)
    inputs, grads = projection_inputs(n, k_x, sizes, dtype, device)
    outputs = 1 + operation.endswith("mean")
    assert_values(*pair_of(operation, backend), inputs, grads[:outputs])


@each_backend
def test_tf32_only_where_allowed(backend, device):
    """float32 is as accurate as torch's; with PyTorch's switch on it may be less."""
    require(backend, device)
    (core, *z), _ = projection_inputs(64, 256, (9, 15, 80), torch.float32, device)
    exact = definitions.synthesis_projection(core.double(), *(f.double() for f in z))

    def error():
        x = ntensor.synthesis_projection(core, *z, backend=backend)
        return ((x.double() - exact).norm() / exact.norm()).item()

    assert error() < 1e-6
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = "tf32"
        assert error() < 1e-2
    finally:
        matmul.fp32_precision = before
    assert error() < 1e-6
