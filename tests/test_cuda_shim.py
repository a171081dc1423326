"""The CUDA kernels, run on the CPU by the host shim, against the definitions.

What this cannot show: races between warps, the speed, and what the compiler for GPUs makes of the
instructions behind `csrc/cuda/instructions.cuh`, which are replaced by twins here.
"""

import ctypes
import functools
import itertools
import math

import pytest
import torch

import cuda_shim
import definitions
import ntensor
from backends import each_dtype
from cases import mttkrp
from comparison import assert_matches_definition, evaluate, exact_copy
from layouts import LAYOUTS, make
from ntensor.backends import devices
from shapes import LONG, MTTKRP, PROJECTION, ROTATION, SYNTHESIS
from tolerances import DTYPES, assert_within_rule, largest

OPS = torch.ops.ntensor

# Shapes of more than this many steps of a tile product are left to the full run.
MOST_STEPS = 130


def steps(shape):
    lead, *others = [k for k in shape.sizes if k > 1] or [1]
    along_inner = math.ceil(math.prod(others) / 16) * math.ceil(shape.n / 64)
    along_samples = math.ceil(shape.n / 16)
    return lead * (along_inner + along_samples)


def marked(shape):
    marks = [pytest.mark.slow] * (steps(shape) > MOST_STEPS)
    marks += [pytest.mark.exhaustive, pytest.mark.timeout(3600)] * (shape in LONG)
    return pytest.param(shape, id=str(shape), marks=marks)


@pytest.fixture(autouse=True)
def device():
    with cuda_shim.native_on_the_shim() as imagined:
        yield imagined


def operations(name, **keywords):
    ours = functools.partial(getattr(ntensor, name), backend="native", **keywords)
    return ours, functools.partial(getattr(definitions, name), **keywords)


def projection(n, k_x, sizes, dtype, generator, layout="contiguous", core_layout="contiguous"):
    """Core and factors, and both incoming gradients."""
    core = make(core_layout, (k_x, *sizes), dtype, generator)
    factors = [make(layout, (n, k), dtype, generator) for k in sizes]
    return [core, *factors], [make(layout, (n, k_x), dtype, generator) for _ in range(2)]


def rotated(shape, dtype, generator, layout="contiguous"):
    """z_exp, z_id, R, and a feature with its incoming gradient."""
    n, K = shape.n, shape.k_exp * shape.k_id
    shapes = ((n, shape.k_exp), (n, shape.k_id), (n, 3, 3), (n, K), (n, K))
    return [make(layout, each, dtype, generator) for each in shapes]


@each_dtype
@pytest.mark.parametrize("shape", list(map(marked, PROJECTION)))
def test_projection(dtype, shape, generator):
    """Both outputs and every gradient; one output alone is another instance of the kernel."""
    given, cotangents = projection(shape.n, shape.k_x, shape.sizes, dtype, generator)
    both = operations("synthesis_projection_with_mean")
    assert_matches_definition(*both, given, cotangents)
    needs = [False] * len(given)
    assert_matches_definition(*operations("synthesis_projection"), given, cotangents[:1], needs)


@each_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_the_projection(dtype, layout, generator):
    for n, sizes in ((9, (3, 17, 5)), (20, (2, 32))):
        core_layout = "offset" if n == 9 else "contiguous"
        given, cotangents = projection(n, 24, sizes, dtype, generator, layout, core_layout)
        both = operations("synthesis_projection_with_mean")
        assert_matches_definition(*both, given, cotangents)


@each_dtype
def test_rows_between_padding(dtype, generator):
    """Rows begin at multiples of 16 bytes and end within them: what follows is never read."""
    given, grads = projection(9, 21, (2, 4, 8), dtype, generator)
    padded = [torch.full((9, 24), math.nan, dtype=dtype) for _ in grads]
    for place, grad in zip(padded, grads, strict=True):
        place[:, :21] = grad
    both = operations("synthesis_projection_with_mean")
    assert_matches_definition(*both, given, [place[:, :21] for place in padded])


@each_dtype
def test_infinity_in_every_operand(dtype, generator):
    """Where an operand is infinite the result is what one product alone tells, also in the
    gradients, and finite results beside it are what they are without it."""
    given, (G, _) = projection(20, 40, (2, 3, 8), dtype, generator)
    plain = ntensor.synthesis_projection(*given, backend="native")
    given[2][3, 1] = math.inf
    x = ntensor.synthesis_projection(*given, backend="native")
    others = torch.arange(20) != 3
    assert torch.equal(x[others], plain[others])
    assert not torch.isfinite(x[3]).any()
    G[5, 7] = -math.inf
    core_grad = OPS.projection_core_grad(G, None, given[1:], "native")
    assert torch.isfinite(core_grad[torch.arange(40) != 7, :, 0]).all()
    assert not torch.isfinite(core_grad[7]).any()


@pytest.mark.parametrize("used", [(True, False), (False, True)], ids=["x alone", "mean alone"])
@pytest.mark.parametrize("sizes", [(3, 4, 5), (1, 6, 5), (1, 1, 6), (5, 1)], ids=str)
def test_every_choice_of_gradients(used, sizes, generator):
    given, cotangents = projection(3, 6, sizes, torch.float64, generator)
    cotangents = [each if use else None for each, use in zip(cotangents, used, strict=True)]
    both = operations("synthesis_projection_with_mean")
    for needs in itertools.product([False, True], repeat=len(given)):
        assert_matches_definition(*both, given, cotangents, list(needs))


@each_dtype
@pytest.mark.parametrize("multiprocessors", [1, 132])
def test_split_sums(dtype, multiprocessors, device, generator):
    """Many parts of a sum or one: within the rule, and the same bits every time."""
    device.multiprocessors = multiprocessors
    given, cotangents = projection(19, 260, (3, 100), dtype, generator)
    both = operations("synthesis_projection_with_mean")
    first = assert_matches_definition(*both, given, cotangents)
    outputs, grads = evaluate(both[0], given, [True] * 3, cotangents)
    for one, other in zip(first, (*outputs, *grads), strict=True):
        assert torch.equal(one, other)


def recorded(device, n, dtype, resident):
    """The launches of a projection of the paper's size and of its factor gradients, on memory that
    nothing touches."""
    device.multiprocessors = 132
    core = torch.empty(12288, 9, 15, 80, dtype=dtype)
    z, G = [torch.empty(n, k, dtype=dtype) for k in (9, 15, 80)], torch.empty(n, 12288, dtype=dtype)
    with cuda_shim.recording((name, resident) for name in cuda_shim.kernels()) as found:
        OPS.synthesis_projection(core, z, "native")
        OPS.projection_factor_grads(core, G, None, z, [True] * 3, "native")
    return found


@pytest.mark.parametrize("resident", [1, 2, 3])
@pytest.mark.parametrize("n", [16, 64, 1024])
def test_blocks_fill_the_device(n, resident, device):
    """Whole rounds of as many blocks as it holds at once, however many these are."""
    launches = recorded(device, n, torch.bfloat16, resident)
    blocks = [each.blocks for each in launches if "_tilesI" in each.kernel]
    assert len(blocks) == 2
    for count in blocks:
        rounds = count / (132 * resident)
        assert rounds / math.ceil(rounds) >= 0.9


def test_many_parts_are_added_by_many_threads(device, generator):
    """A thread adds up no more than a sixteenth of many parts, and the sum is right."""
    for each in recorded(device, 64, torch.bfloat16, 2):
        if "sum_parts" in each.kernel:
            last = each
    assert last.blocks * last.threads >= 16 * 64 * 9
    given, cotangents = projection(3, 8400, (2, 3), torch.float32, generator)
    assert_matches_definition(*operations("synthesis_projection"), given, cotangents[:1])


@each_dtype
def test_core_gradient_is_added(dtype, generator):
    """Accumulated in place: what was there, plus the gradient, rounded once."""
    for sizes in ((3, 4, 8), (2, 17)):
        given, (G, G_mean) = projection(5, 20, sizes, dtype, generator)
        total = make("contiguous", given[0].shape, dtype, generator)
        before = total.to(torch.float64, copy=True)
        OPS.projection_core_grad_(total, G, G_mean, given[1:], "native")
        alone = OPS.projection_core_grad(G, G_mean, given[1:], "native").double()
        allowed = 2 * torch.finfo(dtype).eps * largest(before.abs() + alone.abs())
        assert largest(total.double() - before - alone) <= allowed


def test_tf32_only_where_it_is_allowed(device, generator):
    given, cotangents = projection(20, 40, (3, 4, 25), torch.float32, generator)
    both = operations("synthesis_projection_with_mean")
    needs = [True] * len(given)
    truth = evaluate(both[1], given, needs, cotangents, exact_copy)
    term = evaluate(both[1], given, needs, cotangents, lambda t: exact_copy(t).square_())
    for device.tf32, least, most in ((False, 0, 2**-20), (True, 2**-16, 2**-9)):
        results = evaluate(both[0], given, needs, cotangents)
        for kind in range(2):
            for ours, exact, squares in zip(results[kind], truth[kind], term[kind], strict=True):
                error = largest(ours.double() - exact) / largest(squares.sqrt())
                assert least <= error <= most


@each_dtype
def test_infinity_and_nan_stay(dtype, generator):
    given, _ = projection(2, 3, (2, 5), dtype, generator)
    given[0][1, 1, 2] = math.inf
    given[0][2, 0, 0] = math.nan
    x = ntensor.synthesis_projection(*given, backend="native")
    assert torch.isfinite(x[:, 0]).all()
    assert torch.equal(x[:, 1], given[1][:, 1] * given[2][:, 2] * math.inf)
    assert torch.isnan(x[:, 2]).all()


def long_sums(dtype, sign, generator):
    """A call of each primitive with a long sum, with its equation and operands: all terms are
    positive, or (sign -1) those of the second half take away what the first half has added up."""
    half = {torch.float16: 8192, torch.bfloat16: 32768}.get(dtype, 4096)

    def random(*shape):
        return (torch.rand(shape, generator=generator) + 0.5).to(dtype)

    def twice(tensor, dim, second=1):
        return torch.cat([tensor, second * tensor], dim)

    core, z = twice(random(3, 1, half), 2, sign), [random(2, 1), twice(random(2, half), 1)]
    yield OPS.synthesis_projection(core, z, "native"), "oab,na,nb->no", core, *z
    core, z = twice(random(half, 2, 3), 0, sign), [random(2, 2), random(2, 3)]
    grad = twice(random(2, half), 1)
    grads = OPS.projection_factor_grads(core, grad, None, z, [True, True], "native")
    yield grads[:, :2], "oab,no,nb->na", core, grad, z[1]
    yield grads[:, 2:], "oab,no,na->nb", core, grad, z[0]
    grad, z = twice(random(half, 3), 0, sign), [twice(random(half, k), 0) for k in (2, 3)]
    yield OPS.projection_core_grad(grad, None, z, "native"), "no,na,nb->oab", grad, *z


@pytest.mark.parametrize("tf32", [False, True], ids=["", "tf32"])
@each_dtype
def test_long_sums(dtype, tf32, device, generator):
    """What tensor cores cut off at each product does not add up over a long sum."""
    if tf32 and dtype is not torch.float32:
        pytest.skip("TF32 is for float32")
    device.multiprocessors = 0  # no sum is split
    device.tf32 = tf32
    narrow = torch.float16 if tf32 else dtype  # of as many digits as TF32
    sign = 1 if narrow in (torch.float32, torch.float64) else -1
    for result, equation, *operands in long_sums(dtype, sign, generator):
        rival, exact, squares = (
            torch.einsum(equation, *map(convert, operands))
            for convert in (lambda t: t.to(narrow), torch.Tensor.double, lambda t: t.double() ** 2)
        )
        assert_within_rule(equation, result.to(narrow), rival, exact, squares.sqrt())


@pytest.mark.parametrize("largest_one", [torch.finfo(torch.float32).max, math.inf], ids=str)
def test_float32_near_its_largest(largest_one, generator):
    """Rounded to TF32 the largest numbers would be infinite; a product that is says so itself."""
    given, _ = projection(2, 3, (2, 5), torch.float32, generator)
    given[0][1, 1, 2] = largest_one
    small = [z.abs() * 2.0**-10 for z in given[1:]]
    x = ntensor.synthesis_projection(given[0], *small, backend="native")
    exact = definitions.synthesis_projection(*(t.double() for t in (given[0], *small)))
    assert torch.isfinite(x[:, 1]).all() == math.isfinite(largest_one)
    torch.testing.assert_close(x.double(), exact, rtol=2.0**-19, atol=1e-9)
    x = ntensor.synthesis_projection(given[0] * 1e20, *(z * 1e15 for z in small), backend="native")
    assert torch.equal(x[:, 1], torch.full((2,), math.inf))


@each_dtype
@pytest.mark.parametrize("shape", SYNTHESIS, ids=str)
def test_synthesis(dtype, shape, generator):
    factors = [make("contiguous", (shape.n, k), dtype, generator) for k in shape.sizes]
    grad = make("contiguous", (shape.n, math.prod(shape.sizes)), dtype, generator)
    assert_matches_definition(*operations("synthesis"), factors, [grad])


@each_dtype
@pytest.mark.parametrize("shape", ROTATION, ids=str)
@pytest.mark.parametrize("layout", ["column", "row"])
def test_rotation(dtype, shape, layout, generator):
    z_exp, z_id, R, y, grad = rotated(shape, dtype, generator)
    assert_matches_definition(*operations("rotation", layout=layout), [y, R], [grad])
    ours = operations("rotated_synthesis", layout=layout)
    assert_matches_definition(*ours, [z_exp, z_id, R], [grad])


@each_dtype
@pytest.mark.parametrize("arrangement", LAYOUTS)
def test_layouts_of_synthesis_and_rotation(dtype, arrangement, generator):
    for shape, layout in itertools.product((ROTATION[6], ROTATION[11]), ("column", "row")):
        z_exp, z_id, R, y, grad = rotated(shape, dtype, generator, arrangement)
        assert_matches_definition(*operations("rotation", layout=layout), [y, R], [grad])
        ours = operations("rotated_synthesis", layout=layout)
        assert_matches_definition(*ours, [z_exp, z_id, R], [grad])
        assert_matches_definition(*operations("synthesis"), [z_exp, z_id], [grad])


@pytest.mark.parametrize("sizes", [row[0] for row in MTTKRP if math.prod(row[0]) > 0], ids=str)
def test_mttkrp_of_every_mode(sizes, generator):
    for mode in range(len(sizes)):
        function, definition = mttkrp(mode)
        others = [(k, 3) for place, k in enumerate(sizes) if place != mode]
        given = [make("contiguous", s, torch.float32, generator) for s in (sizes, *others)]
        cotangent = make("contiguous", (sizes[mode], 3), torch.float32, generator)
        ours = functools.partial(function, backend="native")
        assert_matches_definition(ours, definition, given, [cotangent])


def test_current_device(monkeypatch, generator):
    """Where there are several, kernels are launched inside torch's guard of the inputs' device, and
    only there."""
    guarded, inside = torch.cuda.device_of, []

    class Guard(guarded):
        def __init__(self, tensor):
            super().__init__(tensor)
            self.count = sum(cuda_shim.launched().values())

        def __exit__(self, *error):
            inside.append(sum(cuda_shim.launched().values()) - self.count)
            return super().__exit__(*error)

    monkeypatch.setattr(torch.cuda, "device_of", Guard)
    monkeypatch.setattr(devices, "_has_several", lambda: True)
    before = sum(cuda_shim.launched().values())
    given, cotangents = projection(3, 6, (3, 5), torch.float32, generator)
    evaluate(*operations("synthesis_projection")[:1], given, [True] * 3, cotangents[:1])
    assert sum(inside) == sum(cuda_shim.launched().values()) - before > 0


def test_indices_are_taken_apart():
    """Of any extent, at and beyond the 2^31 from which on they are divided."""
    extents = (1, 2, 3, 5, 7, 64, 1200, 65537, 2**30 + 1, 2**31 - 2, 2**31, 2**40 + 7)
    outers = (0, 1, 2, 79, 1199, 2**20, 2**31 - 3, 2**31 + 1)
    pairs = [(d, outer) for d in extents for outer in outers if d * outer < 2**62]
    for most in (2**31 - 2, 2**31 + 5):  # the largest index, just below and just beyond
        pairs += [(d, most // d - 1) for d in extents if d < most]
    columns = [(ctypes.c_int64 * len(pairs))(*column) for column in zip(*pairs, strict=True)]
    assert cuda_shim.text_of("ntensor_shim_splits", *columns, len(pairs)) == ""


def test_the_shim_notices_what_it_should():
    *failures, fine, copied = cuda_shim.text_of("ntensor_shim_outcomes").splitlines()
    words = ("divergent barrier", "divergent barrier", "under way", "not aligned")
    for failure, word in zip(failures, words, strict=True):
        assert "check" in failure
        assert word in failure
    assert (fine, copied) == ("done", "copied")


@pytest.mark.sanitizer
def test_every_kernel_under_a_sanitizer(device, generator):
    """For AddressSanitizer and UBSan to watch: each kernel in each instance, buffers no larger than
    they must be."""
    for dtype in DTYPES:
        run_every_kernel(dtype, device, generator)
    left = cuda_shim.kernels() - set(cuda_shim.launched())
    assert not left


def run_every_kernel(dtype, device, generator):
    device.multiprocessors = 32
    shapes = ((2, 3, (3, 5)), (17, 130, (4, 3, 11)), (20, 40, (8, 64)), (3, 150, (1, 9, 16)))
    layouts = ("contiguous", "transposed", "stepped", "expanded_rows")
    core_layouts = ("offset", "offset", "contiguous", "contiguous")
    for (n, k_x, sizes), layout, core_layout in zip(shapes, layouts, core_layouts, strict=True):
        given, grads = projection(n, k_x, sizes, dtype, generator, layout, core_layout)
        core, *z = given
        for device.tf32 in (False, True)[: 1 + (dtype is torch.float32)]:
            results = [
                OPS.synthesis_projection(core, z, "native"),
                *OPS.synthesis_projection_with_mean(core, z, "native"),
                OPS.projection_factor_grads(core, *grads, z, [True] * len(z), "native"),
                OPS.projection_core_grad(*grads, z, "native"),
            ]
            OPS.projection_core_grad_(core.clone(), *grads, z, "native")
            long = [torch.ones(1030, k, dtype=dtype) for k in (3, 1, 2)]
            results.append(OPS.projection_core_grad(long[0], None, long[1:], "native"))
        grad = make(layout, (n, math.prod(sizes)), dtype, generator)
        results.append(OPS.synthesis(z, "native"))
        results.append(OPS.synthesis_grads(grad, z, [True] * len(z), "native"))
        assert not any(torch.isnan(result).any() for result in results)
    for shape, layout in itertools.product((ROTATION[6], ROTATION[11]), ("column", "row")):
        for arrangement in ("contiguous", "stepped"):
            z_exp, z_id, R, y, grad = rotated(shape, dtype, generator, arrangement)
            results = (
                OPS.rotation(y, R, layout, "native"),
                OPS.rotation_matrix_grad(grad, y, layout, "native"),
                OPS.rotated_synthesis(z_exp, z_id, R, layout, "native"),
                OPS.rotated_synthesis_grads(grad, z_exp, z_id, R, layout, [True] * 3, "native"),
            )
            assert not any(torch.isnan(result).any() for result in results)
