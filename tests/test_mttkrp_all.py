"""`mttkrp_all`: the MTTKRP of every mode, partial products shared."""

import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import definitions
import ntensor
from backends import each_backend, each_dtype
from comparison import assert_matches_definition
from layouts import LAYOUTS, make
from partials import each_shape, make_inputs, passes, shared_modes

pytestmark = pytest.mark.usefixtures("shared_at_any_size")


def operations(backend, weighted=False):
    def ours(tensor, *rest):
        factors, weights = (rest[:-1], rest[-1]) if weighted else (rest, None)
        return tuple(ntensor.mttkrp_all(tensor, factors, weights, backend=backend))

    def definition(tensor, *rest):
        factors, weights = (rest[:-1], rest[-1]) if weighted else (rest, None)
        if tensor.dim() == 1:
            return (tensor[:, None].expand(-1, factors[0].shape[1]).clone(),)
        modes = range(tensor.dim())
        return tuple(definitions.mttkrp(tensor, factors, mode, weights) for mode in modes)

    return ours, definition


@each_dtype
@each_shape
def test_hurtful_shapes(dtype, sizes, rank, generator):
    """The compiled core; the kernels of every backend are those of `mttkrp` and its tests."""
    inputs = make_inputs(sizes, rank, dtype, generator)
    cotangents = [make("contiguous", (k, rank), dtype, generator) for k in sizes]
    assert_matches_definition(*operations("native"), inputs, cotangents)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(dtype, layout, generator):
    inputs = make_inputs((3, 4, 70), 5, dtype, generator, layout, "offset")
    cotangents = [make(layout, (k, 5), dtype, generator) for k in (3, 4, 70)]
    assert_matches_definition(*operations("native"), inputs, cotangents)


@each_backend
def test_weights(backend, generator):
    inputs = make_inputs((3, 4, 40), 2, torch.float64, generator)
    inputs.append(torch.rand(2, dtype=torch.float64))
    cotangents = [make("contiguous", (k, 2), torch.float64, generator) for k in (3, 4, 40)]
    assert_matches_definition(*operations(backend, weighted=True), inputs, cotangents)


def test_gradients(generator):
    tensors = make_inputs((2, 3, 18), 1, torch.float64, generator)
    tensors = [t.requires_grad_() for t in tensors]
    ours, _ = operations(None)
    assert shared_modes((2, 3, 18), 1) == 2
    gradcheck(ours, tensors, check_forward_ad=True, check_batched_grad=True, fast_mode=True)
    gradgradcheck(ours, tensors, check_fwd_over_rev=True, fast_mode=True)


@pytest.mark.usefixtures("fresh_compiler")
def test_compile(generator):
    inputs = make_inputs((3, 4, 40), 2, torch.float64, generator)
    ours, definition = operations(None)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), definition(*inputs))


@each_shape
def test_two_passes_over_a_tensor_of_many_modes(monkeypatch, sizes, rank, generator):
    seen = passes(monkeypatch)
    inputs = make_inputs(sizes, rank, torch.float64, generator)
    ntensor.mttkrp_all(inputs[0], inputs[1:])
    shared = shared_modes(sizes, rank)
    assert len(seen) == len(sizes) - max(0, shared - 1)
    if shared:
        assert rank * math.prod(sizes[:shared]) * 8 <= math.prod(sizes)


def t(*shape, dtype=torch.float32):
    return torch.ones(shape, dtype=dtype)


GOOD = [t(2, 4), t(3, 4)]


@pytest.mark.parametrize(
    ("error", "arguments", "words"),
    [
        (TypeError, ([1.0], GOOD), ("tensor", "torch.Tensor", "list")),
        (TypeError, (t(2, 3), 5), ("factors", "sequence", "int")),
        (TypeError, (t(2, 3), [None, t(3, 4)]), ("factors[0]", "torch.Tensor", "NoneType")),
        (TypeError, (t(2, 3), [t(2, 4), t(3, 4, dtype=torch.float64)]), ("factors[1]", "float64")),
        (ValueError, (t(), []), ("tensor", "1 dimension", "()")),
        (ValueError, (t(2, 3), [t(2, 4)]), ("factors", "2 entries", "got 1")),
        (ValueError, (t(2, 3), [t(3, 4), t(3, 4)]), ("factors[0]", "(2, R)", "(3, 4)")),
        (ValueError, (t(2, 3), [t(2, 4), t(3, 5)]), ("factors[1]", "R = 4", "(3, 5)")),
        (ValueError, (t(3, 2).T, GOOD), ("tensor", "contiguous", "(1, 2)")),
        (ValueError, (t(2, 3), GOOD, t(5)), ("weights", "(4,)", "(5,)")),
    ],
)
def test_errors(error, arguments, words):
    with pytest.raises(error) as raised:
        ntensor.mttkrp_all(*arguments)
    message = str(raised.value)
    assert message.startswith("mttkrp_all: ")
    for word in words:
        assert word in message
