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
from tolerances import DTYPES

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


WEIGHTS = {
    "transposed": lambda w: w.mT.contiguous().mT,
    "output last": lambda w: w.permute(1, 2, 0).contiguous().permute(2, 0, 1),
    "reversed": lambda w: w.permute(2, 1, 0).contiguous().permute(2, 1, 0),
    "sliced": lambda w: torch.cat([w, w], 2)[..., : w.shape[2]],
    "rows of a larger one": lambda w: torch.cat([w, w])[: w.shape[0]],
    "stepped": lambda w: torch.stack([w, w], -1)[..., 0],
    "expanded": lambda w: w[:1].expand_as(w),
    "a Fortran inverse": lambda w: torch.linalg.inv(w[:, :5, :5] + 9 * torch.eye(5).to(w)),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_of_any_strides(name, dtype, generator):
    """Values and all gradients, against float64."""
    if name == "a Fortran inverse" and dtype not in (torch.float32, torch.float64):
        pytest.skip("torch has no inverse in half types")
    base = make("contiguous", (6, 5, 33), dtype, generator)
    weight = WEIGHTS[name](base).detach()
    inputs = [make("contiguous", (2, 4, k), dtype, generator) for k in weight.shape[1:]]
    given = [each.requires_grad_() for each in (*inputs, weight)]
    wide = [each.detach().double().requires_grad_() for each in given]
    result, wanted = ntensor.bilinear(*given), F.bilinear(*wide)
    cotangent = make("contiguous", tuple(wanted.shape), dtype, generator)
    found = [result, *torch.autograd.grad(result, given, cotangent)]
    exact = [wanted, *torch.autograd.grad(wanted, wide, cotangent.double())]
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-12}.get(dtype, 4e-2)
    for one, other in zip(found, exact, strict=True):
        scale = other.abs().max()
        assert one.dtype is dtype
        torch.testing.assert_close(one.double() / scale, other / scale, rtol=0, atol=tolerance)


def test_names_are_torchs():
    inputs = torch.randn(4, 2), torch.randn(4, 3), torch.randn(5, 2, 3), torch.randn(5)
    names = dict(zip(("input1", "input2", "weight", "bias"), inputs, strict=True))
    torch.testing.assert_close(ntensor.bilinear(**names), F.bilinear(**names))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.complex64, torch.complex128])
def test_other_dtypes_are_torchs(dtype):
    inputs = [torch.ones(shape, dtype=dtype) for shape in ((4, 2), (4, 3), (5, 2, 3), (5,))]
    try:
        wanted = F.bilinear(*inputs)
    except RuntimeError as error:
        with pytest.raises(RuntimeError) as found:
            ntensor.bilinear(*inputs)
        assert str(found.value) == str(error)
    else:
        assert torch.equal(ntensor.bilinear(*inputs), wanted)


class _Overrides(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, arguments=(), keywords=None):
        return function if function is F.bilinear else NotImplemented


@pytest.mark.parametrize("place", range(4))
def test_a_type_that_overrides_torchs_function(place):
    inputs = [torch.randn(4, 2), torch.randn(4, 3), torch.randn(5, 2, 3), torch.randn(5)]
    inputs[place] = inputs[place].as_subclass(_Overrides)
    assert ntensor.bilinear(*inputs) is F.bilinear


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("name", ["transposed", "output last", "stepped"])
def test_weights_of_any_strides_compiled_and_mapped(name):
    """Sizes that the compiler does not know; `vmap` over weights; a weight put into a layer."""
    weight = WEIGHTS[name](torch.randn(6, 5, 33))
    layer = ntensor.nn.convert(torch.nn.Bilinear(5, 33, 6, bias=False))
    compiled = torch.compile(ntensor.bilinear, fullgraph=True, dynamic=True, backend="aot_eager")
    close = functools.partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)
    for n in (7, 4):
        a, b = torch.randn(n, 5), torch.randn(n, 33)
        wanted = F.bilinear(a, b, weight)
        close(compiled(a, b, weight), wanted)
        close(torch.func.functional_call(layer, {"weight": weight}, (a, b)), wanted)
        stacked = torch.stack([weight, 2 * weight], -1)
        mapped = torch.func.vmap(ntensor.bilinear, (None, None, -1))(a, b, stacked)
        close(mapped, torch.stack([wanted, 2 * wanted]))
