"""What products of torch do better than the kernels: its values, derivatives and limits."""

import pytest
import torch

import ntensor
from layouts import make
from ntensor.backends.native.plans import force_plan
from ntensor.ops import by_torch, direct


def problem(n, k_1, k_2, dtype=torch.float32, grad=True):
    generator = torch.Generator().manual_seed(n)
    shapes = (1, k_1, k_2), (n, k_1), (n, k_2)
    return [torch.randn(s, generator=generator, dtype=dtype).requires_grad_(grad) for s in shapes]


def exact(core, z_1, z_2):
    return torch.einsum("xij,ni,nj->nx", core, z_1, z_2)


FUNCTIONS = {
    "synthesis_projection": ntensor.synthesis_projection,
    "bilinear": lambda core, z_1, z_2: ntensor.bilinear(z_1, z_2, core),
    "module": lambda core, z_1, z_2: torch.func.functional_call(
        ntensor.nn.Bilinear(*core.shape[1:], 1, bias=False), {"weight": core}, (z_1, z_2)
    ),
}


@pytest.mark.parametrize("sizes", [(320, 128, 128), (5, 960, 900), (3600, 400, 3), (4700, 1, 900)])
@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_values_and_derivatives(sizes, function, dtype):
    given = problem(*sizes, dtype)
    assert by_torch.one_output(*given) is not None
    wide = [each.detach().double().requires_grad_() for each in given]
    results = []
    for tensors, evaluate in ((given, function), (wide, exact)):
        x = evaluate(*tensors)
        first = torch.autograd.grad(x.square().sum(), tensors, create_graph=True)
        second = torch.autograd.grad(sum(each.square().sum() for each in first), tensors)
        results.append([x, *first, *second])
    for found, wanted in zip(*results, strict=True):
        assert found.dtype is dtype and found.shape == wanted.shape
        bound = 1e-11 if dtype == torch.float64 else 2e-4
        assert (found.double() - wanted).abs().max() <= bound * wanted.abs().max()


@pytest.mark.sanitizer
def test_left_to_the_kernels():
    core, z_1, z_2 = given = problem(320, 128, 128)
    half = [each.detach().bfloat16().requires_grad_() for each in given]
    for others in (
        *((core.detach(), z_1, z_2), (core, z_1, z_2.detach()), (core, z_1, None)),
        *((core, z_1, z_2[:, :5]), (core, z_1[:5], z_2), (core, z_1[0], z_2), (core[0], z_1, z_2)),
        *((core, z_1, z_2.double()), (core, z_1[0, 0], z_2)),
        *(problem(3, 1300, 1200), problem(320, 4, 4), problem(0, 128, 128), half),
        (torch.randn(2, 128, 128, requires_grad=True), z_1, z_2),
        *((core, z_1.double(), z_2), (None, z_1, z_2), (core, None, z_2), problem(320, 0, 128)),
    ):
        assert by_torch.one_output(*others) is None
    assert direct.is_one_output(core, z_1, z_2) is None
    with ntensor.use_backend("native"):
        assert by_torch.one_output(*given) is None
    assert by_torch.one_output(*given) is not None
    with torch.no_grad():
        assert by_torch.one_output(*given) is None
    with force_plan(0):
        assert by_torch.one_output(*given) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert by_torch.one_output(*given) is None


@pytest.mark.sanitizer
def test_leading_dimensions():
    given = [each.requires_grad_() for each in (torch.randn(4, 150, 90), torch.randn(4, 150, 80))]
    weight, bias = torch.randn(1, 90, 80, requires_grad=True), torch.randn(1, requires_grad=True)
    assert by_torch.one_output(weight, *given) is not None
    operands = *given, weight, bias
    found = ntensor.bilinear(*operands)
    wide = [each.detach().double().requires_grad_() for each in operands]
    wanted = torch.nn.functional.bilinear(*wide)
    assert found.shape == wanted.shape == (4, 150, 1)
    for x, y in zip(
        torch.autograd.grad(found.sum(), operands),
        torch.autograd.grad(wanted.sum(), wide),
        strict=True,
    ):
        torch.testing.assert_close(x.double(), y, rtol=1e-4, atol=1e-3)
    with pytest.raises(ValueError, match="dimension"):
        ntensor.synthesis_projection(weight, *given)


@pytest.mark.parametrize("layout", ["transposed", "sliced", "stepped", "expanded_columns"])
def test_weights_and_factors_of_any_strides(layout):
    generator = torch.Generator().manual_seed(3)
    shapes = (1, 90, 80), (600, 90), (600, 80)
    given = [make(layout, s, torch.float64, generator).requires_grad_() for s in shapes]
    assert by_torch.one_output(*given) is not None
    results = []
    for function in (lambda c, a, b: ntensor.bilinear(a, b, c), exact):
        x = function(*given)
        results.append([x, *torch.autograd.grad(x.square().sum(), given)])
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted)


def test_under_transforms_and_the_compiler():
    given = problem(320, 128, 128, torch.float64)
    jacobians = torch.func.jacrev(ntensor.synthesis_projection, argnums=(0, 1))(*given)
    wanted = torch.func.jacrev(exact, argnums=(0, 1))(*given)
    torch.testing.assert_close(jacobians, wanted)
    compiled = torch.compile(ntensor.synthesis_projection, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*given), exact(*given))


def test_accumulated_gradient():
    core, z_1, z_2 = problem(320, 128, 128, torch.float64)
    core.grad = torch.ones_like(core)
    x = ntensor.synthesis_projection(core, z_1, z_2, accumulate_core_grad=True)
    x.sum().backward()
    (wanted,) = torch.autograd.grad(exact(core, z_1, z_2).sum(), [core])
    torch.testing.assert_close(core.grad, 1 + wanted)


@pytest.mark.sanitizer
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str
)
@pytest.mark.parametrize(
    "layout", ["contiguous", "transposed", "sliced", "expanded_columns", "expanded"]
)
@pytest.mark.parametrize("extents", [(1, 5), (5, 1), (1, 1)], ids=str)
def test_scaled_rows(extents, layout, dtype):
    generator = torch.Generator().manual_seed(4)
    given = [make(layout, (3000, k), dtype, generator) for k in extents]
    found = by_torch.scaled_rows(*given)
    wanted = given[0].double() * given[1].double()
    for each in (found, ntensor.synthesis(*given), ntensor.einsum("na,nb->nab", *given).flatten(1)):
        assert each.is_contiguous() and torch.equal(each, wanted.to(dtype))
    leaves = [each.detach().requires_grad_() for each in given]
    wide = [each.detach().double().requires_grad_() for each in given]
    cotangent = make("contiguous", wanted.shape, dtype, generator)
    gradients = torch.autograd.grad(ntensor.synthesis(*leaves), leaves, cotangent)
    exactly = torch.autograd.grad(wide[0] * wide[1], wide, cotangent.double())
    tolerance = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 4e-3}.get(dtype, 5e-4)
    for one, other in zip(gradients, exactly, strict=True):
        assert (one.double() - other).abs().max() <= tolerance * other.abs().max()


@pytest.mark.sanitizer
def test_scaled_rows_are_closed():
    column, matrix = torch.ones(3000, 1), torch.ones(3000, 5)
    half = column.bfloat16().requires_grad_(), matrix.bfloat16()
    for given in (
        *((matrix, matrix), (column, matrix.double()), (column[:7], matrix), (column, None)),
        *((column[0], matrix), (column, matrix[0]), (column.int(), matrix.int()), half, half[::-1]),
    ):
        assert by_torch.scaled_rows(*given) is None
    assert direct.scales_rows(column) is None
    with torch.no_grad():
        assert by_torch.scaled_rows(*half) is not None
    with ntensor.use_backend("native"):
        assert by_torch.scaled_rows(column, matrix) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert by_torch.scaled_rows(column, matrix) is None
        assert ntensor.synthesis(column, matrix).dtype is torch.bfloat16
    assert torch.func.vmap(ntensor.synthesis)(column[None], matrix[None]).shape == (1, 3000, 5)
    column.requires_grad_()
    assert torch.autograd.gradcheck(ntensor.synthesis, (column[:2].double(), matrix[:2].double()))
    with pytest.raises(ValueError, match="n"):
        ntensor.synthesis(column[:7], matrix)
