"""`mttkrp_all` and `MttkrpSweep`: the MTTKRP of every mode, partial products shared."""

import functools
import gc
import sys

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import definitions
import ntensor
from backends import each_backend, each_dtype
from comparison import assert_matches_definition
from layouts import LAYOUTS, make
from shapes import MTTKRP

# `ntensor.ops.mttkrp_all` is the function of this name.
module = sys.modules[ntensor.MttkrpSweep.__module__]

# With shapes for which a partial product is made, of two, three and four modes.
SHAPES = [
    *MTTKRP,
    ((4,), 3, "one mode"),
    ((3, 4, 40), 2, "two modes share, one has its own pass"),
    ((3, 4, 7, 40), 3, "three share, and of their product two"),
    ((2, 3, 2, 3, 65), 4, "four share"),
    ((3, 4, 8, 9), 5, "two share a product with two factors"),
    ((2, 3, 700), 65, "a rank of more than a slab"),
    ((2, 0, 40), 2, "an empty mode: nothing to share"),
]
each_shape = pytest.mark.parametrize(
    ("sizes", "rank"), [pytest.param(s, r, id=f"{'x'.join(map(str, s))}-{r}") for s, r, _ in SHAPES]
)


def make_inputs(sizes, rank, dtype, generator, layout="contiguous", tensor_layout="contiguous"):
    tensor = make(tensor_layout, sizes, dtype, generator)
    return [tensor, *(make(layout, (k, rank), dtype, generator) for k in sizes)]


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
    assert module.shared_modes((2, 3, 18), 1) == 2
    gradcheck(ours, tensors, check_forward_ad=True, check_batched_grad=True, fast_mode=True)
    gradgradcheck(ours, tensors, check_fwd_over_rev=True, fast_mode=True)


@pytest.mark.usefixtures("fresh_compiler")
def test_compile(generator):
    inputs = make_inputs((3, 4, 40), 2, torch.float64, generator)
    ours, definition = operations(None)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), definition(*inputs))


def passes(monkeypatch):
    """The calls that read the whole tensor, by name."""
    seen = []

    def recorded(name):
        function = getattr(module, name)

        @functools.wraps(function)
        def call(*arguments, **keywords):
            seen.append(name)
            return function(*arguments, **keywords)

        monkeypatch.setattr(module, name, call)

    recorded("mttkrp")
    recorded("_partial")
    return seen


@each_shape
def test_two_passes_over_a_tensor_of_many_modes(monkeypatch, sizes, rank, generator):
    seen = passes(monkeypatch)
    inputs = make_inputs(sizes, rank, torch.float64, generator)
    ntensor.mttkrp_all(inputs[0], inputs[1:])
    shared = module.shared_modes(sizes, rank)
    assert len(seen) == len(sizes) - max(0, shared - 1)
    if shared:
        assert rank * np.prod(sizes[:shared]) * 8 <= np.prod(sizes)


def assert_sweeps_equal(sweep, tensor, factors, rounds=3, weights=None):
    """Factors are replaced one after the other, as in alternating least squares."""
    factors = list(factors)
    for _ in range(rounds):
        for mode in range(tensor.dim()):
            result = sweep(tensor, factors, mode, weights)
            expected = ntensor.mttkrp(tensor, factors, mode, weights)
            torch.testing.assert_close(result, expected)
            factors[mode] = result / result.norm() if result.numel() else result
    return factors


@each_shape
@pytest.mark.parametrize("weighted", [False, True])
def test_sweep(sizes, rank, weighted, generator):
    tensor, *factors = make_inputs(sizes, rank, torch.float64, generator)
    weights = torch.rand(rank, dtype=torch.float64) if weighted else None
    assert_sweeps_equal(ntensor.MttkrpSweep(), tensor, factors, weights=weights)


SIZES, RANK = (3, 4, 7, 40), 2


@pytest.fixture
def problem(generator):
    tensor, *factors = make_inputs(SIZES, RANK, torch.float64, generator)
    return ntensor.MttkrpSweep(), tensor, factors


def test_sweep_reads_the_tensor_twice(monkeypatch, problem):
    sweep, tensor, factors = problem
    seen = passes(monkeypatch)
    for _ in range(2):
        for mode in range(4):
            factors[mode] = sweep(tensor, factors, mode) / 10
    assert seen == ["_partial", "mttkrp"] * 2


@pytest.mark.parametrize("order", [(3, 2, 1, 0), (1, 0, 3, 2), (0, 0, 1, 1), (2, -1, -4, 1)])
def test_sweep_in_any_order(problem, order):
    sweep, tensor, factors = problem
    for _ in range(2):
        for mode in order:
            result = sweep(tensor, factors, mode)
            torch.testing.assert_close(result, ntensor.mttkrp(tensor, factors, mode))
            factors[mode] = result / result.norm()


CHANGES = {
    "the tensor in place": lambda tensor, factors: tensor.mul_(2),
    "a view of the tensor in place": lambda tensor, factors: tensor[0].mul_(3),
    "the last factor in place": lambda tensor, factors: factors[3].add_(1),
    "a view of the last factor": lambda tensor, factors: factors[3][0].add_(1),
    "a shared factor in place": lambda tensor, factors: factors[2].mul_(2),
    "the factor in front in place": lambda tensor, factors: factors[0].mul_(2),
    "the last factor overwritten": lambda tensor, factors: factors[3].copy_(factors[3].flip(0)),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_sweep_sees_a_change(problem, change, mode):
    sweep, tensor, factors = problem
    for m in range(4):
        sweep(tensor, factors, m)
    sweep(tensor, factors, 0)
    CHANGES[change](tensor, factors)
    result = sweep(tensor, factors, mode)
    torch.testing.assert_close(result, ntensor.mttkrp(tensor, factors, mode))


def test_sweep_of_memory_shared_with_numpy(problem):
    """numpy's writes are not counted by torch, so nothing is kept."""
    sweep, tensor, factors = problem
    for place in (0, 1):
        values = [tensor, factors[3]]
        array = np.ones(values[place].shape)
        values[place] = torch.from_numpy(array)
        arguments = values[0], [*factors[:3], values[1]]
        sweep(*arguments, 0)
        array[:] = 5.0
        torch.testing.assert_close(sweep(*arguments, 1), ntensor.mttkrp(*arguments, 1))
    sweep(tensor, factors, 0)
    tensor.numpy()[:] = 5.0
    torch.testing.assert_close(sweep(tensor, factors, 1), ntensor.mttkrp(tensor, factors, 1))


def test_sweep_of_two_tensors_in_turn(problem):
    sweep, tensor, factors = problem
    other = tensor.clone().mul_(2)
    for mode in range(4):
        for each in (tensor, other):
            torch.testing.assert_close(
                sweep(each, factors, mode), ntensor.mttkrp(each, factors, mode)
            )


def test_sweep_keeps_nothing_of_a_tensor_that_is_gone(problem):
    sweep, tensor, factors = problem
    tensor = tensor.clone()
    sweep(tensor, factors, 0)
    assert sweep._partials
    del tensor
    gc.collect()
    assert not sweep._partials


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_sweep_is_differentiable(problem, mode):
    """Twice over the same graph's leaves: a product that was kept would have lost its graph."""
    sweep, tensor, factors = problem
    leaves = [t.requires_grad_() for t in (tensor, *factors)]
    wanted = [t for place, t in enumerate(leaves) if place != mode + 1]
    for _ in range(2):
        ours = torch.autograd.grad(sweep(tensor, factors, mode).sin().sum(), wanted)
        expected = ntensor.mttkrp(tensor, factors, mode).sin().sum()
        torch.testing.assert_close(ours, torch.autograd.grad(expected, wanted))
    assert not sweep._partials


def test_sweep_under_transforms(problem):
    sweep, tensor, factors = problem

    def scaled(function, scale):
        return function(tensor, [*factors[:3], factors[3] * scale], 0)

    scales = torch.tensor([1.0, 2.0], dtype=torch.float64)
    ours, plain = (
        torch.func.vmap(functools.partial(scaled, f))(scales) for f in (sweep, ntensor.mttkrp)
    )
    torch.testing.assert_close(ours, plain)
    with torch.inference_mode():
        inside = [f.clone() for f in factors]
        sweep(tensor, inside, 0)
        inside[3].mul_(2)
        expected = ntensor.mttkrp(tensor, inside, 1)
        torch.testing.assert_close(sweep(tensor, inside, 1), expected)


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


@pytest.mark.parametrize("mode", [2, -3, 0.5])
def test_errors_of_a_sweep_are_those_of_mttkrp(mode):
    with pytest.raises((TypeError, ValueError), match="mttkrp: mode must be"):
        ntensor.MttkrpSweep()(t(2, 3), GOOD, mode)
