"""The compiled core: SIMD levels, thread counts, repeats, guard bands, special values."""

import functools
import itertools
import math

import pytest
import torch

import definitions
import ntensor
from backends import each_backend, each_dtype, each_kernel, each_kernel_on
from cases import REGISTERED, Maker
from comparison import assert_matches_definition, evaluate, in_tuple
from layouts import make
from ntensor.backends.native import force_simd_level, simd_level

ROWS = functools.partial(ntensor.rotated_synthesis, layout="row", backend="native")
COLUMNS = functools.partial(ntensor.rotated_synthesis, layout="column", backend="native")

# (operation, definition, shapes of the inputs, shapes of the outputs): hoisted and not, several
# slabs of samples, remainders in every dimension, and enough work for every thread.
JOBS = {
    "synthesis": (
        functools.partial(ntensor.synthesis, backend="native"),
        definitions.synthesis,
        [(131, 5), (131, 7), (131, 29)],
        [(131, 1015)],
    ),
    "projection": (
        functools.partial(ntensor.synthesis_projection, backend="native"),
        definitions.synthesis_projection,
        [(97, 5, 7, 11), (67, 5), (67, 7), (67, 11)],
        [(67, 97)],
    ),
    "with_mean": (
        functools.partial(ntensor.synthesis_projection_with_mean, backend="native"),
        definitions.synthesis_projection_with_mean,
        [(61, 3, 13, 83), (67, 3), (67, 13), (67, 83)],
        [(67, 61), (67, 61)],
    ),
    "rotated-row": (
        ROWS,
        functools.partial(definitions.rotated_synthesis, layout="row"),
        [(259, 5), (259, 99), (259, 3, 3)],
        [(259, 495)],
    ),
    "rotated-column": (
        COLUMNS,
        definitions.rotated_synthesis,
        [(259, 5), (259, 99), (259, 3, 3)],
        [(259, 495)],
    ),
}
each_job = pytest.mark.parametrize("job", JOBS)


def draw(job, dtype, generator):
    """The operation, its definition, its inputs and incoming gradients."""
    function, definition, inputs, outputs = JOBS[job]
    new = functools.partial(make, "contiguous", dtype=dtype, generator=generator)
    return function, definition, [new(s) for s in inputs], [new(s) for s in outputs]


def test_compiled_module_is_there():
    """The compiled core is part of the package: its absence is a failed build."""
    import ntensor._cpu

    levels = ntensor._cpu.simd_levels()
    assert levels
    assert len(set(levels)) == len(levels)


@each_job
@each_dtype
def test_every_simd_level(job, dtype, generator):
    """Each level that this processor can run obeys the tolerance rule."""
    import ntensor._cpu

    arguments = draw(job, dtype, generator)
    for level in ntensor._cpu.simd_levels():
        with force_simd_level(level):
            assert_matches_definition(*arguments)


def test_forced_level():
    """The level holds in its block, also where the block raises; an unknown one is refused."""
    import ntensor._cpu

    chosen = simd_level()
    for level in ntensor._cpu.simd_levels():
        with force_simd_level(level):
            assert simd_level() == level
        assert simd_level() == chosen
    with pytest.raises(ZeroDivisionError), force_simd_level(chosen):
        raise ZeroDivisionError
    with pytest.raises(ValueError, match="no such level"), force_simd_level("no such level"):
        pass
    assert simd_level() == chosen


@each_job
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_thread_counts(job, threads, dtype, generator):
    """One thread, as many as cores, and more than cores."""
    arguments = draw(job, dtype, generator)
    torch.set_num_threads(threads)
    assert_matches_definition(*arguments)


@pytest.mark.parametrize("threads", [2, 7])
def test_more_threads_than_work(threads, generator):
    """Fewer rows, columns and samples than threads."""
    torch.set_num_threads(threads)
    for sizes in ((1, 1), (2, 3)):
        inputs = [
            make("contiguous", s, torch.float32, generator)
            for s in ((1, *sizes), *((1, k) for k in sizes))
        ]
        function, definition = JOBS["projection"][:2]
        cotangent = make("contiguous", (1, 1), torch.float32, generator)
        assert_matches_definition(function, definition, inputs, [cotangent])


@each_job
@each_dtype
@pytest.mark.parametrize("threads", [1, 2])
def test_bitwise_repeats(job, dtype, threads, generator):
    """Ten runs give the same bits, output and every gradient."""
    function, _, inputs, cotangents = draw(job, dtype, generator)
    torch.set_num_threads(threads)
    needs = [True] * len(inputs)
    first = evaluate(function, inputs, needs, cotangents)
    for _ in range(9):
        again = evaluate(function, inputs, needs, cotangents)
        for a, b in zip((*first[0], *first[1]), (*again[0], *again[1]), strict=True):
            assert torch.equal(a, b)


EDGE = 128


@pytest.fixture
def guarded_allocations(monkeypatch):
    """Every allocation of a backend lies in a larger buffer of a fixed pattern; gives the check."""
    buffers = []

    def guarded(original):
        @functools.wraps(original)
        def allocate(*args, **kwargs):
            plain = original(*args, **kwargs)
            size = plain.numel() * plain.element_size()
            buffer = torch.full((size + 2 * EDGE,), 0xA5, dtype=torch.uint8)
            inside = buffer[EDGE : EDGE + size]
            inside.fill_(0xFF)
            buffers.append(buffer)
            return inside.view(plain.dtype).as_strided(plain.shape, plain.stride())

        return allocate

    def check():
        assert buffers, "nothing was allocated by torch"
        for buffer in buffers:
            edges = torch.cat([buffer[:EDGE], buffer[-EDGE:]])
            assert (edges == 0xA5).all(), "a write outside of an allocation"
        buffers.clear()

    for owner, name in (
        (torch, "empty"),
        (torch, "empty_like"),
        (torch, "empty_strided"),
        (torch.Tensor, "new_empty"),
    ):
        monkeypatch.setattr(owner, name, guarded(getattr(owner, name)))
    return check


@each_dtype
@pytest.mark.parametrize("registered", REGISTERED, ids=str)
def test_guard_bands(registered, dtype, guarded_allocations):
    """Arguments in buffers of NaN, results and scratch in guarded buffers: nothing outside is read
    into a result or written."""
    for number, sample in enumerate(registered.samples):
        for layout in ("offset", "sliced", "stepped"):
            arguments = sample(Maker(dtype, layout, False, seed=number), 5)
            results = registered.op(*arguments, "native")
            results = arguments[0] if results is None else results
            for result in in_tuple(results):
                assert torch.isfinite(result).all()
    if not registered.name.endswith("_"):
        guarded_allocations()


@each_dtype
@each_job
def test_guard_bands_of_larger_work(job, dtype, guarded_allocations, generator):
    """The same with slabs, panels and several threads."""
    function, _, inputs, cotangents = draw(job, dtype, generator)
    outputs, grads = evaluate(function, inputs, [True] * len(inputs), cotangents)
    assert all(torch.isfinite(t).all() for t in (*outputs, *grads))
    guarded_allocations()


def positive(shapes, dtype, generator):
    """Without signs, so that a special value has one result in whatever order sums are taken."""
    return [make("contiguous", s, dtype, generator).abs_() for s in shapes]


def assert_same_special_values(function, definition, inputs, cotangents):
    """NaN and infinities stand in the same places of outputs and gradients: not more of them (a
    padded lane), not fewer (a product that was skipped)."""
    needs = [True] * len(inputs)
    ours = evaluate(function, inputs, needs, cotangents)
    plain = evaluate(definition, inputs, needs, cotangents)
    for kind, results, expected in zip(("output", "gradient"), ours, plain, strict=True):
        for i, (a, b) in enumerate(zip(results, expected, strict=True)):
            for place in (torch.isnan, torch.isposinf, torch.isneginf):
                assert torch.equal(place(a), place(b)), f"{kind} {i}: {place.__name__}"


SPECIAL = (math.inf, -math.inf, math.nan)


# Zero times infinity is NaN, so that infinity stands for all where the interpreter takes long.
@each_kernel_on(
    [*itertools.product([(3, 5, 7), (2, 33, 32), (1, 9)], SPECIAL)],
    large=[*itertools.product([(2, 33, 32)], SPECIAL[1:])],
    once=[((2, 33, 32), math.inf)],
)
def test_special_values_pass_through(backend, dtype, shape, generator):
    sizes, value = shape
    operation = functools.partial(ntensor.synthesis_projection_with_mean, backend=backend)
    shapes = [(6, *sizes), *((5, k) for k in sizes), (5, 6), (5, 6)]
    # In the core, a factor of each half, and one incoming gradient where each takes seconds.
    in_seconds = backend == "triton" and math.prod(sizes) > 1000
    for place in (0, 1, 2, 5) if in_seconds else range(len(shapes)):
        tensors = positive(shapes, dtype, generator)
        tensors[place].view(-1)[-1] = value
        assert_same_special_values(
            operation, definitions.synthesis_projection_with_mean, tensors[:-2], tensors[-2:]
        )


@each_kernel
@pytest.mark.parametrize("value", SPECIAL, ids=str)
@pytest.mark.parametrize("layout", ["column", "row"])
@pytest.mark.parametrize("k_exp", [3, 5])
def test_special_values_pass_through_rotation(backend, dtype, value, layout, k_exp, generator):
    ours = functools.partial(ntensor.rotated_synthesis, layout=layout, backend=backend)
    definition = functools.partial(definitions.rotated_synthesis, layout=layout)
    shapes = [(4, k_exp), (4, 9), (4, 3, 3), (4, 9 * k_exp)]
    for place in range(len(shapes)):
        tensors = positive(shapes, dtype, generator)
        tensors[place].view(-1)[-1] = value
        assert_same_special_values(ours, definition, tensors[:-1], tensors[-1:])


@each_backend
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
def test_denormals_are_kept(backend, dtype, generator):
    """Numbers below the smallest normal one are not flushed to zero. (The bfloat16 instructions of
    the processor flush them, for torch as well, so bfloat16 is left out.)"""
    tiny = torch.finfo(dtype).tiny / 8
    core = torch.full((5, 3, 7), tiny, dtype=dtype)
    z = [torch.ones(4, 3, dtype=dtype), torch.ones(4, 7, dtype=dtype)]
    x = ntensor.synthesis_projection(core, *z, backend=backend)
    assert torch.equal(x, torch.full((4, 5), 21 * tiny, dtype=dtype))
    small = torch.full((4, 3), math.sqrt(tiny), dtype=dtype)
    y = ntensor.synthesis(small, small, backend=backend)
    assert torch.equal(y, definitions.synthesis(small, small))
    assert torch.count_nonzero(y) == y.numel()
