"""`contract`: a core with one factor put in, beside its definition and under every transform."""

import csv
import functools

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck, gradgradcheck

import contract as benchmark
import ntensor
from backends import each_dtype
from comparison import assert_matches_definition
from layouts import DENSE, LAYOUTS, make
from ntensor import _cpu
from ntensor.backends.native import force_simd_level
from ntensor.ops import direct
from shapes import PROJECTION

F64 = torch.float64
SHAPES = [
    pytest.param((shape.k_x, *shape.sizes), mode, id=f"{shape}-mode{mode}")
    for shape in PROJECTION
    for mode in sorted({1, (len(shape.sizes) + 1) // 2, len(shape.sizes)})
]


def definition(core, z, mode):
    """`C'[..., i, j, ...] = sum_m z[m] C[..., i, m, j, ...]`."""
    return torch.tensordot(core, z, dims=([mode], [0]))


def test_definition():
    """Term by term."""
    core, z = inputs(False)
    expected = sum(z[m] * core[:, :, m] for m in range(4))
    torch.testing.assert_close(definition(core, z, 2), expected)


def operations(mode):
    return (
        functools.partial(ntensor.contract, mode=mode),
        functools.partial(definition, mode=mode),
    )


def inputs(requires_grad=True, mode=2):
    torch.manual_seed(1)
    core, z = torch.randn(2, 3, 4, 2, dtype=F64), torch.randn((2, 3, 4, 2)[mode], dtype=F64)
    return core.requires_grad_(requires_grad), z.requires_grad_(requires_grad)


each_mode = pytest.mark.parametrize("mode", [1, 2, 3, -1, -2, -3])


@each_dtype
@pytest.mark.parametrize(("sizes", "mode"), SHAPES)
def test_hurtful_shapes(dtype, sizes, mode, generator):
    core = make("contiguous", sizes, dtype, generator)
    z = make("contiguous", (sizes[mode],), dtype, generator)
    cotangent = make("contiguous", (*sizes[:mode], *sizes[mode + 1 :]), dtype, generator)
    assert_matches_definition(*operations(mode), [core, z], [cotangent])


@each_dtype
@each_mode
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(dtype, mode, layout, generator):
    sizes = (5, 3, 7, 33)
    core = make("offset", sizes, dtype, generator)
    z = make(layout, (1, sizes[mode]), dtype, generator)[0]
    shape = [k for place, k in enumerate(sizes) if place != mode % 4]
    cotangent = make(layout, shape, dtype, generator)
    assert_matches_definition(*operations(mode), [core, z], [cotangent])


@pytest.mark.parametrize("layout", DENSE)
@pytest.mark.parametrize("mode", [1, 2, 3])
def test_the_rest_of_the_projection(layout, mode, generator):
    """A projection by the contracted core is the projection with that factor in all samples."""
    core = make(layout, (6, 3, 4, 5), F64, generator)
    factors = [torch.randn(7, k, dtype=F64) for k in (3, 4, 5)]
    z = torch.randn(core.shape[mode], dtype=F64)
    factors[mode - 1] = z.expand(7, -1)
    expected = ntensor.synthesis_projection(core, *factors)
    del factors[mode - 1]
    fixed = ntensor.contract(core, z, mode)
    assert fixed.is_contiguous()
    torch.testing.assert_close(ntensor.synthesis_projection(fixed, *factors), expected)


def test_to_the_end():
    """The last contraction leaves the output `x` itself."""
    core, *rows = (torch.randn(s, dtype=F64) for s in ((5, 2, 3), (2,), (3,)))
    x = ntensor.contract(ntensor.contract(core, rows[0], 1), rows[1], 1)
    torch.testing.assert_close(
        x[None], ntensor.synthesis_projection(core, *(z[None] for z in rows))
    )


@each_mode
def test_gradients(mode):
    function = functools.partial(ntensor.contract, mode=mode)
    gradcheck(function, inputs(mode=mode), check_forward_ad=True, check_batched_grad=True)
    gradgradcheck(function, inputs(mode=mode), check_fwd_over_rev=True, check_batched_grad=True)


@each_mode
@pytest.mark.parametrize("dims", [(0, None), (None, 0), (0, 0)])
def test_vmap(mode, dims):
    core, z = inputs(False, mode)
    stacked = [
        t if dim is None else torch.stack([t, t + 1, 2 * t])
        for t, dim in zip((core, z), dims, strict=True)
    ]
    ours, plain = (torch.func.vmap(f, dims)(*stacked) for f in operations(mode))
    torch.testing.assert_close(ours, plain)


@each_mode
@pytest.mark.usefixtures("fresh_compiler")
def test_compile_and_transforms(mode):
    ours, plain = operations(mode)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    for function in (compiled, ours):
        tensors = inputs(mode=mode)
        result = function(*tensors)
        torch.testing.assert_close(result, plain(*tensors))
        grads = torch.autograd.grad(result.sin().sum(), tensors)
        expected = torch.autograd.grad(plain(*tensors).sin().sum(), tensors)
        torch.testing.assert_close(grads, expected)
    tensors = inputs(False, mode)
    jacobians = (torch.func.jacfwd(f, (0, 1))(*tensors) for f in (ours, plain))
    torch.testing.assert_close(*jacobians)


@pytest.mark.usefixtures("fresh_compiler")
def test_export_with_any_number_of_outputs():
    class Edit(torch.nn.Module):
        def forward(self, core, z):
            return ntensor.contract(core, z, 2)

    core, z = inputs(False)
    rows = torch.export.Dim("rows", min=2, max=64)
    program = torch.export.export(Edit(), (core, z), dynamic_shapes=({0: rows}, None))
    other = torch.cat([core, core + 1])
    torch.testing.assert_close(program.module()(other, z), definition(other, z, 2))


def test_meta_and_fake_tensors():
    core, z = inputs(False)
    meta = ntensor.contract(core.to("meta"), z.to("meta"), 2)
    with FakeTensorMode() as mode:
        fake = ntensor.contract(mode.from_tensor(core), mode.from_tensor(z), 2)
    for result in (meta, fake):
        assert result.shape == (2, 3, 2)
        assert result.is_contiguous()


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(half):
    core, z = (t.float() for t in inputs(False))
    with torch.autocast("cpu", dtype=half):
        result = ntensor.contract(core, z, 2)
    assert torch.equal(result, ntensor.contract(core.to(half), z.to(half), 2))


def t(*shape, dtype=torch.float32):
    return torch.ones(shape, dtype=dtype)


@pytest.mark.parametrize(
    ("error", "arguments", "words"),
    [
        (TypeError, ([1.0], t(3), 1), ("core", "torch.Tensor", "list")),
        (TypeError, (t(2, 3), None, 1), ("z", "torch.Tensor", "NoneType")),
        (TypeError, (t(2, 3), t(3), 1.0), ("mode", "int", "float")),
        (TypeError, (t(2, 3), t(3, dtype=F64), 1), ("z", "float32", "float64")),
        (TypeError, (t(2, 3, dtype=torch.int64), t(3), 1), ("core", "float16", "int64")),
        (ValueError, (t(2, 3), t(2), 0), ("mode", "1 to 1", "-1", "got 0")),
        (ValueError, (t(2, 3, 4), t(4), 3), ("mode", "1 to 2", "got 3")),
        (ValueError, (t(2, 3, 4), t(2), -3), ("mode", "-2 to -1", "got -3")),
        (ValueError, (t(2), t(2), 1), ("core", "2 dimensions", "(2,)")),
        (ValueError, (t(2, 3, 4), t(3), 2), ("z", "(4,)", "k_2", "(3,)")),
        (ValueError, (t(2, 3, 4), t(5, 4), 2), ("z", "one vector", "(5, 4)")),
        (ValueError, (t(3, 2).T, t(3), 1), ("core", "contiguous", "(1, 2)")),
        (ValueError, (t(2, 3).to("meta"), t(3), 1), ("z", "meta", "cpu")),
    ],
)
def test_errors(error, arguments, words):
    with pytest.raises(error) as raised:
        ntensor.contract(*arguments)
    message = str(raised.value)
    assert message.startswith("contract: ")
    for word in words:
        assert word in message


def test_benchmark(tmp_path):
    """Every way of every small case gives the same, and the files are written."""
    assert (
        benchmark.main(["--quick", "--repeats", "1", "--threads", "1", "--out", str(tmp_path)]) == 0
    )
    rows = list(csv.DictReader((tmp_path / "contract.csv").open()))
    assert len(rows) == 18
    assert not any(row["status"] for row in rows)
    assert (tmp_path / "contract.png").stat().st_size > 0


# (before, extent, after): rows, fewer and more than the lanes of a vector; columns, up to a block
# of them and beyond; chains of terms that are cut.
KERNEL = (
    *((1, 5, 1), (3, 6, 1), (17, 5, 1), (33, 80, 1), (2, 5000, 1), (40, 31, 1), (1, 9000, 1)),
    *((2, 3, 2), (5, 4, 15), (3, 7, 16), (2, 9, 17), (2, 15, 80), (1, 300, 33), (2, 700, 5)),
    *((2, 3, 127), (2, 3, 128), (3, 2, 129), (2, 3, 255), (1, 3, 256), (1, 3, 257), (2, 2, 1200)),
    *((9001, 70, 1), (3, 50, 4001), (301, 40, 60)),  # for two threads
)


@pytest.mark.sanitizer
@pytest.mark.parametrize("level", _cpu.simd_levels())
@each_dtype
def test_kernel(dtype, level, generator):
    for before, extent, after in KERNEL:
        core = make("contiguous", (before, extent, after), dtype, generator)
        for layout in ("contiguous", "stepped", "expanded"):
            z = make(layout, (extent,), dtype, generator)
            with force_simd_level(level):
                found = direct.contract(core, z, 1)
            assert found is not None and found.dtype is dtype
            wanted = torch.einsum("bea,e->ba", core.double(), z.double())
            scale = torch.einsum("bea,e->ba", core.double().abs(), z.double().abs())
            bound = {F64: 1e-14, torch.float32: 4e-6}.get(dtype, 5e-3)
            assert ((found.double() - wanted).abs() <= bound * scale + 1e-30).all()


@pytest.mark.sanitizer
def test_left_to_torch():
    core, z = torch.randn(2, 3, 4), torch.randn(3)
    assert direct.contract(core, z, 1) is not None and direct.contract(core, z, -2) is not None
    assert direct.contract(torch.randn(2, 9), torch.randn(9), 1) is not None
    recorded = core.clone().requires_grad_()
    for others in (
        *((core, z, 0), (core, z, 2), (core, z, 3), (core, z, -3), (core, z, 1.0), (core, z, True)),
        *(
            (core, z.double(), 1),
            (core, z[None], 1),
            (core[0, 0], z[:0], 0),
            (core.mT, torch.ones(4), 1),
        ),
        *((core[:0], z, 1), (core.to("meta"), z, 1), (core.int(), z.int(), 1), (core, None, 1)),
        *((torch.randn(7, 4), torch.randn(4), 1), (torch.ones(2, *9 * (1,)), torch.ones(1), 1)),
        *((recorded, z, 1), (core, z.clone().requires_grad_(), 1), (core, z)),
    ):
        assert direct.contract(*others) is None


@pytest.mark.parametrize("mode", [1, 2, 3])
@each_dtype
def test_recorded(dtype, mode, generator):
    """One node, with the gradients of the product that it stands for, any number of times."""
    sizes = (5, 3, 4, 6)
    core = make("contiguous", sizes, dtype, generator).requires_grad_()
    z = make("stepped", (sizes[mode],), dtype, generator).requires_grad_()
    found = ntensor.contract(core, z, mode)
    assert found.grad_fn.name() == "_RecordedBackward"
    wide = [each.detach().double().requires_grad_() for each in (core, z)]
    wanted = definition(*wide, mode)
    cotangent = make("contiguous", wanted.shape, dtype, generator)
    ours = torch.autograd.grad(found, (core, z), cotangent, create_graph=True)
    exact = torch.autograd.grad(wanted, wide, cotangent.double(), create_graph=True)
    again = torch.autograd.grad(sum(each.sum() for each in ours), (core, z))
    exactly = torch.autograd.grad(sum(each.sum() for each in exact), wide)
    bound = {F64: 1e-13, torch.float32: 1e-5}.get(dtype, 4e-2)
    for one, other in zip((*ours, *again), (*exact, *exactly), strict=True):
        assert (one.double() - other).abs().max() <= bound * other.abs().max()
    only = ntensor.contract(core, z.detach(), mode)
    (gradient,) = torch.autograd.grad(only, core, cotangent)
    torch.testing.assert_close(gradient, ours[0].detach())
