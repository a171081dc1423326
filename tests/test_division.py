"""How the kernels for CPUs divide their work among threads, as the compiled core tells it: each
product once, and every thread as much as another."""

import math
import random

import pytest
import torch

import cpu_division
from ntensor import _cpu
from ntensor.backends import DTYPES
from ntensor.backends.native import call, core_step, force_simd_level, library, projection
from ntensor.backends.native.library import limit_threads
from ntensor.backends.native.plans import force_plan
from ntensor.ops import direct

LEVELS = _cpu.simd_levels()
# Of 64 rows of the core a thread has so few that whole ones are no more even, or that one more
# strip of columns would cost it more than the rows that it is short of.
FEW_ROWS, UNEVEN = 64, 1.14
# Operation, extents, n, threads: the same, more so.
MORE_UNEVEN = {("forward", (9, 15, 80), 16, 64): 1.32}


@pytest.fixture(params=LEVELS)
def level(request):
    with force_simd_level(request.param):
        yield request.param


@pytest.fixture
def untouched_memory(monkeypatch):
    """Of large tensors that no kernel runs on: they are not filled with NaN."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)


def times_done(parts):
    """How often each product is done, of blocks of them that no part cuts."""
    ends = parts[:, cpu_division.S0 :].unflatten(1, (4, 2))
    edges = [ends[:, axis].unique() for axis in range(4)]
    for axis, edge in enumerate(edges):
        ends[:, axis] = torch.searchsorted(edge, ends[:, axis].contiguous())
    done = torch.zeros([len(edge) - 1 for edge in edges], dtype=torch.int64)
    for part in ends.tolist():
        done[tuple(slice(first, last) for first, last in part)] += 1
    return done


def assert_each_once(job, products):
    parts = job.parts[job.parts[:, cpu_division.S0 :].diff(dim=1)[:, ::2].amin(1) > 0]
    phases = [parts] if job.one_product() else parts.split(parts[:, 0].bincount().tolist())
    for phase in phases:
        assert torch.equal(times_done(phase.clone()).unique(), torch.ones(1, dtype=torch.int64))
    assert int(job.multiply_adds().sum()) == products * len(phases)
    assert parts[:, cpu_division.THREAD].max() < job.threads


@pytest.mark.usefixtures("untouched_memory")
@pytest.mark.parametrize(("operation", "extents", "k_x", "n"), cpu_division.CASES, ids=str)
def test_threads_have_equal_shares(level, operation, extents, k_x, n):
    for threads in cpu_division.THREADS:
        jobs = cpu_division.jobs_of(operation, n, k_x, extents, threads)
        assert jobs[0].threads <= threads
        for job in jobs:
            assert_each_once(job, n * k_x * math.prod(extents))
        balance = cpu_division.balance_of([job.by_thread(job.multiply_adds()) for job in jobs])
        most = cpu_division.ALLOWED
        if k_x == FEW_ROWS and threads > 2:
            most = MORE_UNEVEN.get((operation, extents, n, threads), UNEVEN)
        assert balance <= most, (threads, balance)


def drawn(source, threads):
    """Samples, extents, rows of a core and threads; plain products of torch are made of them."""
    while True:
        extents = tuple(source.choice((1, 2, 7, 40, 130)) for _ in range(source.randint(2, 4)))
        n, k_x = source.choice((1, 3, 16, 65, 300)), source.choice((1, 2, 9, 64, 700))
        if max(n, k_x) * math.prod(extents) < 1 << 20:
            return n, extents, k_x, source.choice(threads)


@pytest.mark.sanitizer
def test_each_product_is_done_once(level, monkeypatch):
    """Of any sizes, by every plan, in more threads than the work is worth."""
    monkeypatch.setattr(call, "MULTIPLY_ADDS_A_THREAD", 1)
    source = random.Random(5)
    for at in range(100):
        n, extents, k_x, threads = drawn(source, (1, 2, 3, 7, 64, 65))
        dtype = DTYPES[at % len(DTYPES)]
        with force_plan(source.randrange(8)):
            for operation in cpu_division.OPERATIONS:
                if operation == "core-step" and n > core_step.MOST_SAMPLES:
                    continue
                for job in cpu_division.jobs_of(operation, n, k_x, extents, threads, dtype):
                    if job.name.startswith("projection"):
                        assert_each_once(job, n * k_x * math.prod(extents))


@pytest.mark.sanitizer
def test_gradients_that_are_not_needed(level):
    """Have no part."""
    core, grad = torch.empty(300, 6, 5), torch.empty(20, 300)
    z = [torch.empty(20, 6), torch.empty(20, 5)]
    kinds = set()
    for plan in range(8):
        with force_plan(plan), cpu_division.recorded_jobs() as jobs:
            projection.projection_grads(core, grad, None, z, False, [False, True])
        for job in jobs:
            if job.name == "projection_factor_grads":
                kinds.add(job.one_product())
                assert int(job.parts[:, cpu_division.PHASE].max()) == 0
                assert_each_once(job, 20 * 300 * 30)
    assert kinds == {True, False}  # in one job, and as projections


@pytest.mark.sanitizer
def test_contraction(level, monkeypatch):
    """Any mode of any sizes, in as many threads as the kernel would have."""
    monkeypatch.setattr(cpu_division, "ELEMENTS_A_THREAD", 1)
    monkeypatch.setattr(library, "ELEMENTS_A_THREAD", 1)
    source = random.Random(7)
    for at in range(50):
        _, extents, k_x, threads = drawn(source, (1, 2, 3, 7, 64, 65))
        core = torch.empty(k_x, *extents, dtype=DTYPES[at % len(DTYPES)])
        for mode in range(1, core.dim()):
            with limit_threads(threads):
                job = cpu_division.contraction_of(core, mode)
            assert_each_once(job, core.numel())
            before, rest = math.prod(core.shape[:mode]), core.shape[mode:]
            sizes = (before, (rest[0], math.prod(rest[1:])))
            number = library.DTYPES[core.dtype]
            planned = direct._plan(direct._FEATURES, number, *sizes, 1, 0, threads, 1)
            assert planned[:2] == (level, job.threads)


@pytest.mark.sanitizer
@pytest.mark.parametrize("threads", [3, 17])
def test_results_of_a_contraction(level, threads, monkeypatch):
    """Threads that begin and end inside a row."""
    monkeypatch.setattr(library, "ELEMENTS_A_THREAD", 1)
    for sizes in ((1, 5, 4001), (7, 5, 300), (50, 6, 33), (300, 7, 1), (2, 9, 3)):
        core, z = torch.randn(sizes), torch.randn(sizes[1])
        with limit_threads(threads):
            found = direct.contract(core, z, 1)
        wanted = torch.einsum("bea,e->ba", core, z)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.sanitizer
def test_synthesis_and_rotation(level):
    """Elements of rows are divided, and whole rows where sums of them are formed."""
    at = (5, [1, 7, 7, 1, 1, 30, 30, 1])
    for threads in (1, 3, 64):
        job = cpu_division.division_of("synthesis", threads, 0, *at, 1)
        assert_each_once(job, 5 * 210)
        assert cpu_division.balance_of([job.by_thread(job.multiply_adds())]) < 1.05
        rotated = (5, 210, 0, (1, 210, 1), (1, 9, 1), 1)
        assert_each_once(cpu_division.division_of("rotation", threads, 0, *rotated), 5 * 70)
        job = cpu_division.division_of("synthesis_grads", threads, 0, *at, [1, 1], 0, (1, 210, 1))
        assert_each_once(job, 5 * 210)
        of_matrix = (5, 210, 0, (1, 210, 1), (1, 210, 1), 1)
        job = cpu_division.division_of("rotation_matrix_grad", threads, 0, *of_matrix)
        assert_each_once(job, 5 * 70)


@pytest.mark.usefixtures("untouched_memory")
def test_a_thread_writes_the_same_rows_for_every_block_of_samples():
    """So that a fresh gradient is touched first by the thread that adds to it later."""
    (job,) = cpu_division.jobs_of("core-grad", 1024, 12288, (9, 15, 80), 64)
    blocks = job.parts[:, cpu_division.S0].unique()
    assert len(blocks) > 1
    of_blocks = [job.parts[job.parts[:, cpu_division.S0] == block] for block in blocks]
    columns = [cpu_division.THREAD, *range(cpu_division.R0, 10)]
    for parts in of_blocks[1:]:
        assert torch.equal(parts[:, columns], of_blocks[0][:, columns])


@pytest.mark.sanitizer
def test_results_of_many_threads(level, monkeypatch):
    """More threads than there are cores, rows or samples."""
    monkeypatch.setattr(call, "MULTIPLY_ADDS_A_THREAD", 1)
    source = random.Random(6)
    cases = [(1, (7, 130), 2, 7, plan) for plan in range(4)]
    cases += [(*drawn(source, (3, 7, 17)), source.randrange(8)) for _ in range(15)]
    for n, extents, k_x, threads, plan in cases:
        letters = "abcd"[: len(extents)]
        core = torch.randn(k_x, *extents, dtype=torch.float64)
        grad = torch.randn(n, k_x, dtype=torch.float64)
        z = [torch.randn(n, extent, dtype=torch.float64) for extent in extents]
        inputs = ",".join(f"n{letter}" for letter in letters)
        with limit_threads(threads), force_plan(plan):
            x = projection.synthesis_projection(core, z)
            grads = projection.projection_grads(core, grad, None, z, True, [True] * len(z))
        torch.testing.assert_close(x, torch.einsum(f"x{letters},{inputs}->nx", core, *z))
        expected = [torch.einsum(f"nx,{inputs}->x{letters}", grad, *z)]
        for m, letter in enumerate(letters):
            others = [f"n{each}" for each in letters if each != letter]
            equation = ",".join([f"x{letters}", "nx", *others]) + f"->n{letter}"
            expected.append(torch.einsum(equation, core, grad, *z[:m], *z[m + 1 :]))
        for found, wanted in zip(grads, expected, strict=True):
            torch.testing.assert_close(found, wanted)
