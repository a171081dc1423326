"""What the Triton backend decides before a launch: reasons, sizes of blocks, precision."""

import functools
import itertools
import math
import sys

import pytest
import torch
import triton.language as tl

import definitions
import ntensor
from cases import PUBLIC, REGISTERED, Maker
from comparison import assert_matches_definition, in_tuple
from layouts import make
from ntensor import backends
from ntensor.backends import triton as backend
from ntensor.backends.triton import blocks, launch, projection
from ntensor.backends.triton.kernels import rotation
from shapes import LARGE, PROJECTION
from tolerances import DTYPES

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
CAPABILITIES = ((8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0), (11, 7))
SAMPLES = (1, 2, 15, 16, 17, 63, 64, 65, 256, 1024, 4096, 10**6)
CORES = (
    (12288, (9, 15, 80)),
    (28125, (15, 80)),
    (64, (9, 15, 80)),
    (1, (1, 1)),
    (5, (13000, 2)),
    (3, (2,) * 12),
    (2**20, (150, 1000)),
)


def is_power_of_two(number):
    return number >= 1 and number & (number - 1) == 0


def why_not(device):
    return backend.why_not("synthesis", device, torch.float32)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


@pytest.fixture
def gpu(monkeypatch):
    """A GPU as far as questions about it go; the value is its capability, to be changed."""
    facts = {"capability": (9, 0)}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: facts["capability"])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "the card")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("CC", "cc")
    backend._why_no_launcher.cache_clear()
    backends.implementation.cache_clear()
    yield facts
    backend._why_no_launcher.cache_clear()
    backends.implementation.cache_clear()


def test_reasons_without_a_gpu(no_gpu, monkeypatch):
    assert "no CUDA device" in why_not(CPU)
    assert "no CUDA device" in why_not(CUDA)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert why_not(CPU) is None
    assert "no CUDA device" in why_not(CUDA)
    assert "'meta'" in why_not(torch.device("meta"))


def test_reasons_with_a_gpu(gpu, monkeypatch):
    assert why_not(CUDA) is None
    assert "not CPU tensors" in why_not(CPU)
    for capability, name in (((7, 5), "sm_75"), ((7, 0), "sm_70")):
        gpu["capability"] = capability
        reason = why_not(CUDA)
        assert name in reason
        assert "sm_80" in reason
        assert "the card" in reason
    gpu["capability"] = (8, 0)
    assert why_not(CUDA) is None
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert "TRITON_INTERPRET" in why_not(CUDA)
    assert "not CPU tensors" in why_not(CPU), "the interpreter counts only where there is no GPU"


def test_reason_without_a_compiler(gpu, monkeypatch, tmp_path):
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "C compiler" in why_not(CUDA)


def test_reason_without_triton(gpu, monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    assert "not installed" in why_not(CUDA)


def test_precision_of_products(monkeypatch):
    """float32 has its own accuracy, unless PyTorch's switch allows TF32."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = "ieee"
        assert launch.precision(torch.float32, CUDA) == "tf32x3"
        matmul.fp32_precision = "tf32"
        assert launch.precision(torch.float32, CUDA) == "tf32"
        assert launch.precision(torch.float32, CPU) == "ieee"
        for dtype in (torch.float64, torch.bfloat16, torch.float16):
            assert launch.precision(dtype, CUDA) == "ieee"
    finally:
        matmul.fp32_precision = before


@pytest.mark.parametrize(
    ("extents", "expected"),
    [
        ((9, 15, 80), (1, True)),
        ((15, 80), (1, False)),
        ((150, 1000), (1, True)),
        ((3, 999), (1, False)),
        ((2, 3, 7, 11, 13), (2, True)),
        ((2,) * 12, (2, True)),
        ((1, 1200), (1, True)),
        ((13000, 2), (1, False)),
        ((3, 5, 7), (1, False)),
        ((1, 1, 7), (1, False)),
    ],
    ids=str,
)
def test_groups_of_factors(extents, expected):
    assert blocks.modes(extents) == expected


def every_case():
    for (k_x, extents), n, dtype, capability in itertools.product(
        CORES, SAMPLES, DTYPES, CAPABILITIES
    ):
        outer = blocks.modes(extents).outer
        L, P = math.prod(extents[:outer]), math.prod(extents[outer:])
        yield n, k_x, L, P, dtype, capability


def test_blocks_are_what_kernels_can_take():
    """Powers of two, at least 16 in a product; splits within the grid and within the work."""
    for n, k_x, L, P, dtype, capability in every_case():
        for mean in (False, True):
            for formed, sizes in ((False, (L, P)), (True, (1, L * P))):
                block = blocks.projection(n, k_x, *sizes, formed, mean, dtype, capability)
                assert all(is_power_of_two(b) and b >= 16 for b in (block.m, block.n, block.k))
                assert 1 <= block.splits <= sizes[0] * blocks.ceil_div(sizes[1], block.k)
            grads = blocks.factor_grads(n, k_x, L, P, mean, dtype, capability)
            assert all(is_power_of_two(b) and b >= 16 for b in (grads.p, grads.n, grads.m))
            assert 1 <= grads.l_splits <= min(L, 65535)
            assert 1 <= grads.m_splits <= min(blocks.ceil_div(k_x, grads.m), 65535)
            core = blocks.core_grad(n, k_x, L, P, mean, dtype, capability)
            assert all(is_power_of_two(b) and b >= 16 for b in (core.m, core.p, core.n))
            assert 1 <= core.l_splits <= min(L, 65535)
            for block in (grads, core):
                assert is_power_of_two(block.warps)
        for product in (blocks.product, blocks.product_grads):
            block = product(n, L, P, capability)
            assert all(map(is_power_of_two, (block.s, block.u, block.v)))
            assert block.s * block.u * block.v <= 4096
            assert 1 <= block.splits <= min(blocks.ceil_div(L, block.u), 65535)


@pytest.mark.parametrize(
    ("programs", "rows", "most", "expected"),
    [
        (19, 9, 9, 9),  # 2 rounds of 1 row; 5 parts would be 1 round of 2 rows
        (171, 384, 32, 3),  # 4 rounds of 128 rows; a single part is 2 rounds of 384
        (100, 9, 5, 5),  # 4 rounds of 2 rows
        (132, 10, 4, 2),  # 2 rounds of 5 rows; 4 parts of at most 3 rows are 4 rounds
        (1, 100, 90, 50),  # more than 50 parts are 100, which are too many
        (1000, 7, 7, 1),
        (19, 0, 0, 1),  # no rows: one part
    ],
)
def test_splits_go_by_rounds_and_rows(programs, rows, most, expected):
    """On 132 multiprocessors."""
    assert blocks._splits(programs, rows, most, (9, 0)) == expected


def test_splits_are_those_that_result():
    """Rounded as callers do, they are as many as before, and no possible number is much better."""
    for programs, rows in itertools.product((1, 7, 19, 64, 131, 133, 300), (1, 2, 9, 31, 150, 384)):
        for most in {1, rows // 4 + 1, rows}:
            times = {
                splits: math.ceil(programs * splits / 132) * math.ceil(rows / splits)
                for splits in range(1, min(most, max(4 * 132 // programs, 1)) + 1)
                if math.ceil(rows / math.ceil(rows / splits)) == splits
            }
            chosen = blocks._splits(programs, rows, most, (9, 0))
            assert times[chosen] <= 1.05 * min(times.values())


def test_few_samples_fill_the_device():
    """At the sizes of the paper there are at least two programs a multiprocessor."""
    for n, dtype in itertools.product((1, 16, 64), (torch.float32, torch.bfloat16)):
        for capability in ((8, 0), (9, 0)):
            wanted = 2 * blocks.multiprocessors(capability)
            block = blocks.projection(n, 12288, 9, 1200, False, False, dtype, capability)
            tiles = blocks.ceil_div(12288, block.m) * blocks.ceil_div(n, block.n)
            assert tiles * block.splits >= wanted
            grads = blocks.factor_grads(n, 12288, 9, 1200, False, dtype, capability)
            tiles = blocks.ceil_div(1200, grads.p) * blocks.ceil_div(n, grads.n)
            assert tiles * grads.l_splits * grads.m_splits >= wanted


def test_groups_fill_the_device_together():
    """Blocks are those of one core; sums are split less, and not at all where groups are many."""
    sizes, last = (4, 512, 9, 1200), (torch.float32, (9, 0))
    for plan, middle in (
        (blocks.projection, (False, False)),
        (blocks.factor_grads, (False,)),
        (blocks.core_grad, (False,)),
    ):
        alone = plan(*sizes, *middle, *last)
        some, many = (plan(*sizes, *middle, *last, groups) for groups in (8, 600))
        for name, value in alone._asdict().items():
            if name.endswith("splits"):
                assert value > getattr(many, name) == 1 and value >= getattr(some, name)
            else:
                assert value == getattr(some, name) == getattr(many, name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_small_blocks_on_hopper(dtype):
    """Where one block of a multiprocessor waits, others work: four warps, all samples resident."""
    for n in (1, 16, 64):
        block = blocks.core_grad(n, 12288, 9, 1200, False, dtype, (9, 0))
        assert (block.m, block.p, block.warps) == (64, 64, 4) and n <= block.n
        assert blocks.core_grad(n, 12288, 9, 1200, True, dtype, (9, 0)).warps == 8
        assert blocks.core_grad(n, 12288, 9, 1200, False, dtype, (8, 0)).warps == 8
    block = blocks.projection(64, 12288, 9, 1200, False, False, torch.bfloat16, (9, 0))
    assert (block.warps, block.stages) == (4, 4)
    # Rows that begin anywhere take registers of which four warps have too few.
    assert blocks.projection(64, 12288, 9, 1001, False, False, torch.bfloat16, (9, 0)).warps == 8


def test_parts_stay_far_below_the_core():
    """What splits write and read again is at most a quarter of the core."""
    for n, k_x, L, P, dtype, capability in every_case():
        core = k_x * L * P * dtype.itemsize
        block = blocks.projection(n, k_x, L, P, False, False, dtype, capability)
        if block.splits > 1:
            assert 2 * block.splits * n * k_x * 8 <= core
        grads = blocks.factor_grads(n, k_x, L, P, False, dtype, capability)
        if grads.m_splits > 1:
            assert 2 * grads.l_splits * grads.m_splits * n * P * 8 <= core


@pytest.mark.parametrize("operation", ["projection", "projection_with_mean"])
def test_split_sums(operation, generator, monkeypatch):
    """Every number of splits gives the same result: none is empty, none is counted twice."""
    core = torch.randn(20, 3, 7, 12, dtype=torch.float64, generator=generator)
    z = [torch.randn(5, k, dtype=torch.float64, generator=generator) for k in (3, 7, 12)]
    name = f"synthesis_{operation}"
    expected = getattr(ntensor, name)(core, *z, backend="reference")
    monkeypatch.setattr(projection, "_plan", projection._plan.__wrapped__)  # keeps none
    for hoisted, splits in itertools.product((True, False), (1, 2, 3, 5, 7, 16)):
        monkeypatch.setattr(blocks, "modes", lambda _, h=hoisted: blocks.Modes(1, h))
        monkeypatch.setattr(
            blocks, "projection", lambda *_, s=splits: blocks.Projection(16, 16, 16, s, 4, 2)
        )
        torch.testing.assert_close(getattr(ntensor, name)(core, *z, backend="triton"), expected)


@pytest.mark.parametrize("outputs", [1, 2])
def test_split_gradients(outputs, generator, monkeypatch):
    """Several leading indices or steps in each part, and fewer of them in the last one."""
    core = torch.randn(50, 3, 20, dtype=torch.float64, generator=generator)
    z = [torch.randn(6, k, dtype=torch.float64, generator=generator) for k in (3, 20)]
    grads = [torch.randn(6, 50, dtype=torch.float64, generator=generator) for _ in range(outputs)]
    grads += [None] * (2 - outputs)

    def call(name):
        return torch.ops.ntensor.projection_factor_grads(core, *grads, z, [True, True], name)

    def core_grad(name):
        return torch.ops.ntensor.projection_core_grad(*grads, z, name)

    expected, expected_core = call("reference"), core_grad("reference")
    for l_splits, m_splits in ((1, 1), (2, 3), (3, 2), (3, 4)):
        monkeypatch.setattr(
            blocks,
            "factor_grads",
            lambda *_, a=l_splits, b=m_splits: blocks.FactorGrads(16, 16, 16, a, b, 4, 2),
        )
        torch.testing.assert_close(call("triton"), expected)
        monkeypatch.setattr(
            blocks, "core_grad", lambda *_, a=l_splits: blocks.CoreGrad(16, 16, 16, a, 4, 2)
        )
        torch.testing.assert_close(core_grad("triton"), expected_core)


def test_rotation_of_a_feature_beyond_two_to_the_31():
    """Its first block alone, as `J` says that there is more than memory is taken for."""
    J, B = 2**30, 16
    y, R = torch.rand(1, 3 * B), torch.rand(1, 3, 3)
    z, one = torch.rand(1, 3 * B), torch.ones(1, 1)
    expected = definitions.rotation(y, R, "column"), definitions.rotation(z, R, "column")
    sizes = {"BS": 1, "BJ": B, "ACC": tl.float32}
    out = torch.full_like(y, math.nan)
    rotation.rotate[(1,)](y, R, out, 1, J, 1, 3, *y.stride(), *R.stride(), COLUMN=True, **sizes)
    torch.testing.assert_close(out, expected[0])
    out = torch.full_like(y, math.nan)
    places = (*one.stride(), *z.stride(), *R.stride())
    rotation.rotate_product[(1,)](
        one, z, R, out, 1, J, 3 * J, 1, 3, *places, COLUMN=True, WIDE=True, **sizes
    )
    torch.testing.assert_close(out, expected[1])


HALF = [
    shape
    for shape in PROJECTION
    if shape not in LARGE and shape.n * shape.k_x * math.prod(shape.sizes) < 20000
]


@pytest.mark.parametrize("shape", HALF, ids=str)
def test_bfloat16(shape, generator):
    """The interpreter cuts bfloat16 off where a GPU rounds, which the table's second rounding
    allows for in small shapes."""
    dtype = torch.bfloat16
    inputs = [make("contiguous", (shape.k_x, *shape.sizes), dtype, generator)]
    inputs += [make("contiguous", (shape.n, k), dtype, generator) for k in shape.sizes]
    grads = [make("contiguous", (shape.n, shape.k_x), dtype, generator) for _ in range(2)]
    ours = functools.partial(ntensor.synthesis_projection_with_mean, backend="triton")
    definition = definitions.synthesis_projection_with_mean
    assert_matches_definition(ours, definition, inputs, grads)


@pytest.mark.parametrize("registered", REGISTERED, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "sliced"])
def test_registration(registered, layout):
    """Schema and fake kernel of every sample; every check of the last one, on strided arguments.

    All samples go through all checks in `test_transforms.py`, by the compiled core: what is
    registered is the same."""
    checks = ("test_schema", "test_faketensor")
    samples = registered.samples
    if layout == "sliced":
        checks += ("test_autograd_registration", "test_aot_dispatch_dynamic")
        samples = samples[-1:]
    for sample in samples:
        arguments = sample(Maker(torch.float32, layout, True), 3)
        torch.library.opcheck(registered.op, (*arguments, "triton"), test_utils=checks)


@pytest.mark.parametrize("case", PUBLIC[3:13:3], ids=str)
def test_compiled(case, fresh_compiler):
    """No graph break, and the values and gradients of a plain call."""
    function = functools.partial(case.function, backend="triton")
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    results = []
    for call in (function, compiled):
        inputs = case.inputs(torch.float32)
        outputs = call(*inputs)
        outputs = in_tuple(outputs)
        results.append([*outputs, *torch.autograd.grad(sum(o.sum() for o in outputs), inputs)])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("operation", ["projection", "projection_with_mean"])
def test_no_array_of_n_K_elements(operation):
    """All that a projection or one of its gradients takes at a time is smaller than one."""
    n, k_x, sizes = 256, 24, (9, 15, 80)
    taken = ntensor.scratch_bytes(f"synthesis_{operation}", n, sizes, k_x, backend="triton")
    assert 0 < taken < n * math.prod(sizes) * torch.float32.itemsize
