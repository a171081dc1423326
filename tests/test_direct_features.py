"""Direct calls of the synthesis, the rotation and the rotated synthesis, and of their gradients."""

import functools
import itertools

import pytest
import torch

import definitions
import ntensor
from comparison import assert_matches_definition, evaluate
from layouts import LAYOUTS, make
from ntensor import _cpu
from ntensor.backends.native import force_simd_level
from ntensor.ops import direct
from ntensor.ops.operation import OPERATIONS
from test_direct_calls import closed
from tolerances import DTYPES

pytestmark = pytest.mark.sanitizer

each_layout = pytest.mark.parametrize("layout", ["column", "row"])
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)

# (k_exp, k_id): 3 divides one, both, or none but by way of the other; extents of 1; a factor that
# is merged with its neighbour; rows of several pieces; a synthesis that half types do not hold.
PAIRS = (
    *((3, 5), (5, 3), (6, 9), (3, 3), (1, 3), (3, 1), (1, 9), (12, 1), (2, 96), (96, 2)),
    *((33, 64), (64, 33), (45, 80), (7, 771), (771, 7), (300, 70), (70, 300)),
)
FEATURES = (3, 6, 12, 51, 96, 1536, 1539, 3093)
SYNTHESES = ((5,), (3, 4), (1, 7, 1), (9, 1), (17, 33), (2, 3, 5, 7), (6, 1, 40, 3))


@pytest.fixture
def direct_alone(monkeypatch):
    """Nothing but the shortest way is open."""

    def closed(*arguments):
        raise AssertionError("the ordinary way")

    for name in ("synthesis", "rotation", "rotated_synthesis"):
        monkeypatch.setattr(OPERATIONS[name], "run", closed)
    for name in ("synthesis_grads", "rotation_matrix_grad", "rotated_synthesis_grads"):
        monkeypatch.setattr(OPERATIONS[name], "run", closed)


def pair(n, extents, dtype, generator, arrangement="contiguous"):
    shapes = (*((n, k) for k in extents), (n, 3, 3))
    cotangent = make(arrangement, (n, extents[0] * extents[1]), dtype, generator)
    return [make(arrangement, shape, dtype, generator) for shape in shapes], cotangent


def of(operation, layout):
    """The operation and its definition."""
    return [
        functools.partial(getattr(module, operation), layout=layout)
        for module in (ntensor, definitions)
    ]


def masks(count):
    return [needs for needs in itertools.product([False, True], repeat=count) if any(needs)]


@pytest.mark.usefixtures("direct_alone")
@pytest.mark.parametrize("level", _cpu.simd_levels())
@each_dtype
@each_layout
@pytest.mark.parametrize("n", [1, 65])
def test_rotated_synthesis(level, dtype, layout, n, generator):
    with force_simd_level(level):
        for extents in PAIRS:
            inputs, cotangent = pair(n, extents, dtype, generator)
            assert_matches_definition(*of("rotated_synthesis", layout), inputs, [cotangent])


@pytest.mark.usefixtures("direct_alone")
@pytest.mark.parametrize("level", _cpu.simd_levels())
@each_dtype
@each_layout
@pytest.mark.parametrize("n", [1, 65])
def test_rotation(level, dtype, layout, n, generator):
    with force_simd_level(level):
        for K in FEATURES:
            y, R, cotangent = (
                make("contiguous", shape, dtype, generator) for shape in ((n, K), (n, 3, 3), (n, K))
            )
            assert_matches_definition(*of("rotation", layout), [y, R], [cotangent])


@pytest.mark.usefixtures("direct_alone")
@pytest.mark.parametrize("level", _cpu.simd_levels())
@each_dtype
@pytest.mark.parametrize("n", [1, 65])
def test_synthesis(level, dtype, n, generator):
    with force_simd_level(level):
        for extents in SYNTHESES:
            z = [make("contiguous", (n, k), dtype, generator) for k in extents]
            y = definitions.synthesis(*z)
            cotangent = make("contiguous", y.shape, dtype, generator)
            assert_matches_definition(ntensor.synthesis, definitions.synthesis, z, [cotangent])


@pytest.mark.usefixtures("direct_alone")
@each_dtype
@each_layout
@pytest.mark.parametrize("arrangement", LAYOUTS)
def test_memory_layouts(dtype, layout, arrangement, generator):
    """Of operands, rotations and incoming gradients."""
    for extents in ((3, 17), (17, 3), (6, 35), (35, 6), (7, 1203), (1203, 7)):
        inputs, cotangent = pair(9, extents, dtype, generator, arrangement)
        assert_matches_definition(*of("rotated_synthesis", layout), inputs, [cotangent])
    y, R = make(arrangement, (9, 51), dtype, generator), inputs[2]
    cotangent = make(arrangement, (9, 51), dtype, generator)
    assert_matches_definition(*of("rotation", layout), [y, R], [cotangent])
    assert_matches_definition(
        ntensor.synthesis, definitions.synthesis, [y[:, :3], y[:, 3:20]], [cotangent]
    )


@pytest.mark.usefixtures("direct_alone")
@each_layout
def test_one_rotation_for_all_samples(layout, generator):
    R = torch.randn(3, 3, generator=generator)
    for matrix in (R, R.T, R[:, :1].expand(3, 3)):
        (z_exp, z_id, _), cotangent = pair(9, (6, 7), torch.float32, generator)
        inputs = [z_exp, z_id, matrix.expand(9, 3, 3)]
        assert_matches_definition(*of("rotated_synthesis", layout), inputs, [cotangent])


@pytest.mark.usefixtures("direct_alone")
@pytest.mark.parametrize("threads", [1, 2, 3])
@each_layout
def test_threads(layout, threads, generator):
    """Few samples and many, with more elements than one thread takes."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for n, extents in ((2, (300, 250)), (40, (96, 64)), (40, (64, 96)), (9, (10, 1500))):
            inputs, cotangent = pair(n, extents, torch.float32, generator)
            assert_matches_definition(*of("rotated_synthesis", layout), inputs, [cotangent])
            y = definitions.synthesis(*inputs[:2])
            assert_matches_definition(*of("rotation", layout), [y, inputs[2]], [cotangent])
    finally:
        torch.set_num_threads(before)


def assert_every_subset(function, inputs, cotangent):
    _, every = evaluate(function, inputs, [True] * len(inputs), [cotangent])
    for needs in masks(len(inputs)):
        wanted = [grad for grad, need in zip(every, needs, strict=True) if need]
        _, found = evaluate(function, inputs, needs, [cotangent])
        for one, other in zip(found, wanted, strict=True):
            assert one.is_contiguous() and torch.equal(one, other)


@pytest.mark.usefixtures("direct_alone")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@each_layout
def test_needed_gradients(dtype, layout, generator):
    for extents in ((3, 4), (4, 3), (6, 300), (300, 6), (7, 1203), (1203, 7), (3, 1), (1, 3)):
        inputs, cotangent = pair(5, extents, dtype, generator)
        assert_every_subset(of("rotated_synthesis", layout)[0], inputs, cotangent)
    y = make("contiguous", cotangent.shape, dtype, generator)
    assert_every_subset(of("rotation", layout)[0], [y, inputs[2]], cotangent)
    z = [make("contiguous", (5, k), dtype, generator) for k in (3, 1, 4)]
    cotangent = make("contiguous", (5, 12), dtype, generator)
    assert_every_subset(ntensor.synthesis, z, cotangent)


@each_layout
@pytest.mark.parametrize("extents", [(3, 2), (2, 3), (3, 3), (1, 3), (3, 1)], ids=str)
def test_higher_derivatives_and_forward_mode(layout, extents):
    inputs, _ = pair(2, extents, torch.float64, torch.Generator().manual_seed(1))
    inputs = [each.requires_grad_() for each in inputs]
    ours = of("rotated_synthesis", layout)[0]
    assert torch.autograd.gradcheck(ours, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(ours, inputs, check_fwd_over_rev=True)


@each_layout
def test_equal_to_the_ordinary_way(layout, generator):
    """Bit for bit: they are the same kernels."""
    for extents in ((3, 4), (4, 3), (6, 35)):
        inputs, cotangent = pair(9, extents, torch.float32, generator)
        for operation, given in (
            ("rotated_synthesis", inputs),
            ("rotation", [definitions.synthesis(*inputs[:2]), inputs[2]]),
            ("synthesis", inputs[:2]),
        ):
            ours = getattr(ntensor, operation)
            ours = ours if operation == "synthesis" else functools.partial(ours, layout=layout)
            ordinary = functools.partial(ours, backend="native")
            needs = [True] * len(given)
            for one, other in zip(
                evaluate(ours, given, needs, [cotangent]),
                evaluate(ordinary, given, needs, [cotangent]),
                strict=True,
            ):
                assert all(map(torch.equal, one, other))


def calls():
    """Each direct function with arguments for which it is open."""
    a, b, R = torch.ones(2, 3), torch.ones(2, 4), torch.ones(2, 3, 3)
    y = torch.ones(2, 12)
    return {
        "synthesise": [(a, b)],
        "rotate": [y, R, "row"],
        "synthesise_rotated": [(a, b, R), "column"],
        "synthesis_gradients": [(a, b), y, [True, False]],
        "rotation_gradients": [(y, R), y, "column", [True, True]],
        "rotated_gradients": [(a, b, R), y, "row", [False, True, True]],
    }


@pytest.mark.parametrize("name", calls())
def test_open_for_plain_tensors_alone(name):
    function, arguments = getattr(direct, name), calls()[name]
    with torch.no_grad():
        assert function(*arguments) is not None
        with torch.autocast("cpu", torch.bfloat16):
            assert function(*arguments) is None
        with ntensor.use_backend("native"):
            assert function(*arguments) is None
        for nonsense in ((), (None,), (1,) * 3, ("row",) * 4, (None,) * 5):
            assert function(*nonsense) is None
        for place, argument in enumerate(arguments):
            for wrong in wrong_ones(argument):
                given = [*arguments[:place], wrong, *arguments[place + 1 :]]
                assert function(*given) is None
    assert (function(*arguments) is None) == name.endswith("gradients")
    if not name.endswith("gradients"):
        lead = arguments[0]
        tensor = lead[0] if isinstance(lead, tuple) else lead
        tensor.requires_grad_()
        assert function(*arguments) is None


def wrong_ones(argument):
    """What no function is open for in the place of an argument."""
    yield from (None, 1)
    if isinstance(argument, torch.Tensor):
        yield from (argument.double(), argument[:0], argument[:1], argument[..., :2], argument[0])
        yield from (argument.to("meta"), argument.to_sparse(), torch._neg_view(argument))
    elif isinstance(argument, str):
        yield from ("", "rows", b"row")
    elif isinstance(argument, list):
        yield from ([], argument[1:])
    else:
        yield from ((), argument[:0])
        for place, each in enumerate(argument):
            for wrong in (None, each.double(), each[:0], each[:1], each[0], each.to("meta")):
                yield (*argument[:place], wrong, *argument[place + 1 :])


def test_closed_for_results_beyond_all_memory():
    R = torch.ones(3, 1, 1).expand(3, 3, 3)
    half, long = torch.ones(3, 1).expand(3, 3 << 31), torch.ones(3, 1).expand(3, 3 << 45)
    with torch.no_grad():
        assert direct.rotate(long, R, "row") is None
        assert direct.rotation_gradients((long, R), long, "row", [True, True]) is None
        for z in ((long, torch.ones(3, 1)), (half, half), (long, long)):
            assert direct.synthesise(z) is None
            assert direct.synthesise_rotated((*z, R), "row") is None


def test_errors_are_those_of_the_ordinary_way():
    with pytest.raises(ValueError, match="K must be divisible by 3, got K = 4"):
        ntensor.rotation(torch.ones(2, 4), torch.ones(2, 3, 3))
    with pytest.raises(ValueError, match="layout"):
        ntensor.rotated_synthesis(torch.ones(2, 3), torch.ones(2, 2), torch.ones(2, 3, 3), "rows")


def test_closed_for_what_does_not_fit():
    a, b, R, y = torch.ones(4, 2), torch.ones(4, 3), torch.ones(4, 3, 3), torch.ones(4, 6)
    wrong_rotations = (
        *(R.double(), R[:3], R[:, :2], R[:, :, :2], R[0], R.int(), None),
        R.clone().requires_grad_(),
    )
    wrong = [(a, b, each) for each in wrong_rotations]
    wrong += [(a, b), (a, b[:, :2], R), (a.double(), b, R), (a[:3], b, R), (), None]
    layouts = ("a", None, 1)
    for layout in ("column", "row"):
        closed(direct.synthesise_rotated, ((a, b, R), layout), {0: wrong, 1: layouts})
        features = (y[:, :5], y[0], y.double(), None)
        closed(direct.rotate, (y, R, layout), {0: features, 1: wrong_rotations, 2: layouts})
        for each in (R.mT, torch.ones(4, 3, 6)[:, :, ::2]):
            found = direct.synthesise_rotated((a, b, each), layout)
            torch.testing.assert_close(found, direct.synthesise_rotated((a, b, R), layout))
