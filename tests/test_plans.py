"""How the native backend computes a projection: what it chooses; see `test_candidates.py`."""

import inspect
import itertools
import math
import random
import re
from pathlib import Path

import pytest
import torch

from ntensor import _cpu
from ntensor.backends.native import call, core_step, force_simd_level, plans, prices
from ntensor.backends.native.library import DTYPES as NUMBERS
from ntensor.backends.native.library import describe_sizes
from ntensor.backends.native.plans import Sizes, Split, force_plan
from tolerances import DTYPES

LEVELS = _cpu.simd_levels()
MATRIX, NO_MATRIX = (1, 1, 1), (0, 0, 0)
# Of the paper: rows of a core, factors, samples.
K_X, EXTENTS = 4096, (9, 15, 80)
MEANS = (plans.MEAN_APART, plans.MEAN_BESIDE)
CACHED = (plans.projection, plans.mttkrp, plans.factor_grads, plans.core_grad)

each_level = pytest.mark.parametrize("level", LEVELS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
each_number_of_threads = pytest.mark.parametrize("threads", [1, 2])


def projection(n, extents, k_x, mean=False, level=LEVELS[0], dtype=0, threads=1, choice=None):
    return plans.projection(Sizes(level, dtype, n, extents, k_x, threads), mean, choice)


def mttkrp(rank, shape, mode, level=LEVELS[0], dtype=0, threads=1, choice=None):
    return plans.mttkrp(Sizes(level, dtype, rank, shape, 1, threads), mode, choice)


def factor_grads(
    n,
    extents,
    k_x,
    needs=None,
    grads=(True, False),
    apart=True,
    level=LEVELS[0],
    dtype=0,
    threads=1,
    choice=None,
):
    needs = (True,) * len(extents) if needs is None else needs
    sizes = Sizes(level, dtype, n, extents, k_x, threads)
    return plans.factor_grads(sizes, *grads, needs, apart, choice)


def core_grad(n, extents, k_x, mean=False, level=LEVELS[0], dtype=0, threads=1, choice=None):
    return plans.core_grad(Sizes(level, dtype, n, extents, k_x, threads), True, mean, choice)


@each_level
@each_dtype
@each_number_of_threads
def test_one_output_hoists(level, dtype, threads):
    """Without hoisting its core is one row, and a tile of one row is as slow as one of many."""
    for n in (64, 512):
        assert projection(n, (512, 512), 1, False, level, NUMBERS[dtype], threads) == Split(1)


@each_level
def test_one_sample_is_taken_by_itself(level):
    """A vector of samples would be mostly empty."""
    for n, few in ((1, 1), (2, 1), (64, 0), (65, 0), (10**6, 0)):
        for mean in (False, True):
            assert projection(n, EXTENTS, K_X, mean, level).few == few, n
    assert projection(prices.FEW + 1, EXTENTS, 8).few == 0


@each_level
def test_a_mean_output_hoists(level):
    """What both outputs share lies behind the leading factor."""
    for n, extents, k_x in itertools.product((1, 16, 500), ((2, 3), (1, 1), EXTENTS), (1, 77)):
        for choice in (None, *map(str, range(7))):
            for dtype in (NUMBERS[torch.float32], NUMBERS[torch.bfloat16]):
                for plan in (projection, core_grad):
                    split = plan(n, extents, k_x, True, level, dtype, choice=choice)
                    if dtype == NUMBERS[torch.float32] and split in MEANS:
                        continue
                    assert 1 <= split.hoisted < len(extents)


@each_level
def test_a_mean_core(level):
    """Where the samples are many beside the core; its rounding rules it out for half types."""
    for n, extents, k_x, apart in (
        (220, (87, 17, 16), 4, True),
        (1500, (95, 17), 256, True),
        (16, EXTENTS, K_X, False),
        (1, (300, 300), 100, False),
    ):
        grads = factor_grads(n, extents, k_x, grads=(True, True), level=level)
        assert (grads.way == plans.MEAN_APART) is apart, (n, extents)
        half = {"level": level, "dtype": NUMBERS[torch.float16]}
        assert factor_grads(n, extents, k_x, grads=(True, True), **half).way.hoisted >= 0
    # The mean alone needs no pass of the samples over the whole core.
    alone = factor_grads(64, (8, 30), 500, (False, True), grads=(False, True), level=level)
    assert alone.way == plans.MEAN_APART


@each_level
def test_samples_of_the_mean(level):
    """Few samples and a short rest beside the leading factor: what the kernel shares is little."""
    for n, extents, k_x in ((2, (125, 2), 2766), (2, (40, 3), 5000), (3, (30, 2), 9000)):
        assert projection(n, extents, k_x, True, level) == plans.MEAN_BESIDE
        assert core_grad(n, extents, k_x, True, level) == plans.MEAN_BESIDE
        half = {"level": level, "dtype": NUMBERS[torch.bfloat16]}
        assert projection(n, extents, k_x, True, **half).hoisted >= 0
    for each in (projection, core_grad):
        assert each(16, EXTENTS, K_X, True, level).hoisted >= 0
    long = factor_grads(1, (5, 38, 130, 122), 2, grads=(True, True), level=level)
    assert long.way == plans.MEAN_BESIDE


@each_level
@pytest.mark.parametrize("n", [16, 64])
def test_sizes_of_the_paper(level, n):
    """Many outputs: the lanes are samples, W is the product of two factors or more at all levels,
    and the gradients of all factors take one pass over the core."""
    for mean in (False, True):
        split = projection(n, EXTENTS, K_X, mean, level)
        assert (split.few, split.output_inside, split.transposed) == (0, 0, 0)
        assert split.hoisted <= 1
    grads = factor_grads(n, EXTENTS, K_X, level=level)
    assert grads == (Split(), Split(0), None)
    assert core_grad(n, EXTENTS, K_X, level=level).hoisted <= 1


def test_short_inner_extents_are_not_left_alone():
    """A product with a core of two columns costs more than one with a core of few rows."""
    for level in LEVELS:
        assert projection(64, (500, 2), 64, level=level).hoisted <= 0
        assert core_grad(64, (500, 2), 64, level=level).hoisted <= 0
        assert factor_grads(64, (500, 2), 64, level=level).way.hoisted <= 0


def test_modes_of_an_mttkrp():
    """The mode is the projection's output where its core is long enough, else a gradient."""
    for choice in (None, *map(str, range(9))):
        for mode in range(3):
            projects, split = mttkrp(16, (30, 40, 50), mode, choice=choice)
            if mode == 0:
                assert projects
            if projects:
                assert split.transposed
                assert split.output_inside == (mode > 0)
                assert mode == 0 or split.hoisted == mode
            else:
                assert split.hoisted < mode
    assert not mttkrp(16, (30, 40, 50), 2)[0], "nothing is left for W behind the last mode"
    assert mttkrp(1, (K_X, 15, 80), 0)[1].few


@each_level
def test_gradients_of_leading_factors(level):
    """One pass over the core, or two; the leading ones alone by a projection of the gradient."""
    ways = set()
    for n, k_x in itertools.product((1, 64), (1, 256)):
        for needs in ((True, False, False), (True, True, False), (True, True, True)):
            for choice in (None, *map(str, range(4))):
                plan = factor_grads(n, (20, 30, 40), k_x, needs, level=level, choice=choice)
                if plan.way.hoisted < 0:
                    assert (plan.inner, plan.outer) == (None, None)
                    continue
                if plan.inner is not None and plan.inner.transposed:
                    assert (plan.way, plan.outer) == (Split(), None)
                    continue
                first, last = needs.index(True), max(m for m in range(3) if needs[m])
                assert (plan.inner is None) == (last < plan.way.hoisted)
                assert (plan.outer is None) == (first >= plan.way.hoisted)
                assert plan.inner in (None, plan.way)
                assert plan.outer is None or plan.outer[:2] == (1, 1)
                ways.add((plan.inner is None, plan.outer is None))
    assert ways == {(True, False), (False, True), (False, False)}
    for options in ({"grads": (True, True)}, {"grads": (False, True)}, {"dtype": 2}, {"dtype": 3}):
        for choice in map(str, range(6)):
            assert factor_grads(9, (20, 30, 40), 9, choice=choice, **options).outer is None
    both = (True, True, False)
    for choice in map(str, range(6)):
        assert factor_grads(9, (20, 30, 40), 9, both, apart=False, choice=choice).outer is None


@each_level
@each_dtype
def test_gradients_as_projections(level, dtype):
    """Of many samples beside a small core; a large one is not copied."""
    at = {"level": level, "dtype": NUMBERS[dtype]}
    assert factor_grads(2000, (4, 5), 1, **at).inner.transposed
    assert factor_grads(2000, (3, 20, 40), 1, (False, True, True), **at).inner.transposed
    assert not factor_grads(16, EXTENTS, K_X, **at).inner.transposed
    ways = [factor_grads(100, (90, 800), 20, choice=str(c), **at) for c in range(8)]
    assert not any(way.inner and way.inner.transposed for way in ways)


def some_sizes(source):
    """Samples, extents and rows of a core; mostly small."""
    most = source.choice((4, 70, 1500))
    extents = tuple(source.randint(1, most) for _ in range(source.randint(2, 6)))
    return source.choice((1, 2, 8, 9, 64, 65, source.randint(1, 5000))), extents


def test_candidates_are_legal():
    """Whatever is chosen, the compiled module takes it and says its scratch memory."""
    source = random.Random(2)
    largest = 1 << 40  # the module takes fewer than 2^48 elements
    for _ in range(400):
        n, extents = some_sizes(source)
        k_x = source.choice((1, 2, 7, 16, 300, 5000))
        if max(n, k_x) * math.prod(extents) > largest:
            continue
        at = {
            "level": source.choice(LEVELS),
            "dtype": source.randrange(4),
            "threads": source.choice((1, 2, 3, 16)),
        }
        needs = tuple(source.random() < 0.5 for _ in extents)
        needs = needs if any(needs) else (True,) * len(extents)
        grads = source.choice(((True, False), (False, True), (True, True)))
        apart = source.random() < 0.5
        mode = source.randrange(len(extents) + 1)
        both = [(1, 1, source.choice((1, 2))) if given else NO_MATRIX for given in grads]
        described = describe_sizes(extents)

        def scratch(name, *job, n=n, at=at):
            context = at["level"], at["threads"]
            return getattr(_cpu, name)(context, at["dtype"], n, *job, call.ALONE, 0, -1)

        for choice in (None, *map(str, range(2 * len(extents)))):
            for mean in (False, True):
                split = projection(n, extents, k_x, mean, choice=choice, **at)
                job = (described, 0, k_x, 0, int(mean))
                assert split.hoisted < 0 or scratch("projection", *job, split) > 0
                split = core_grad(n, extents, k_x, mean, choice=choice, **at)
                job = (described, k_x, MATRIX, MATRIX if mean else NO_MATRIX, 0, False)
                assert split.hoisted < 0 or scratch("projection_core_grad", *job, split) > 0
            projects, split = mttkrp(n, (k_x, *extents), mode, choice=choice, **at)
            if projects:
                shape = (k_x, *extents)
                others = describe_sizes(shape[:mode] + shape[mode + 1 :])
                assert scratch("projection", others, 0, shape[mode], 0, 0, split) > 0
            wanted = needs, grads, apart
            way, inner, outer = factor_grads(n, extents, k_x, *wanted, choice=choice, **at)
            h = way.hoisted
            assert inner or outer or h < 0
            if inner:
                flags = [int(need and m >= h) for m, need in enumerate(needs)]
                job = (described, flags, sum(extents), 0, k_x, *both, inner)
                assert scratch("projection_factor_grads", *job) > 0
            if outer:
                swapped = describe_sizes((k_x, *extents[h:]))
                assert scratch("projection", swapped, 0, math.prod(extents[:h]), 0, 0, outer) > 0


def test_a_gpu_chooses_by_itself():
    sizes = Sizes(plans.CUDA, 0, 64, EXTENTS, K_X, 1)
    assert [plans.projection(sizes, mean, None) for mean in (False, True)] == [Split(0), Split(1)]
    assert [plans.core_grad(sizes, True, mean, None) for mean in (False, True)] == [
        Split(0),
        Split(1),
    ]
    found = plans.factor_grads(sizes, True, True, (True,) * 3, True, None)
    assert found == (Split(), Split(0), None)


def test_plans_are_kept():
    """The same object for the same arguments; another one for each that differs."""
    for function in CACHED:
        function.cache_clear()
    assert projection(5, (2, 3), 4) is projection(5, (2, 3), 4)
    assert mttkrp(5, (2, 3, 4), 1) is mttkrp(5, (2, 3, 4), 1)
    assert factor_grads(5, (2, 3), 4) is factor_grads(5, (2, 3), 4)
    assert core_grad(5, (2, 3), 4) is core_grad(5, (2, 3), 4)
    for function in CACHED:
        assert function.cache_info()[:2] == (1, 1), function.__name__


def test_plans_depend_on_their_arguments_alone():
    """Not on torch's threads, the forced level, a forced plan, or what was asked before."""

    def found():
        for function in CACHED:
            function.cache_clear()
        return (
            [projection(n, EXTENTS, 9, mean) for n in (1, 70) for mean in (False, True)],
            [mttkrp(n, EXTENTS, mode) for n in (1, 70) for mode in range(3)],
            [factor_grads(n, EXTENTS, 9) for n in (1, 70)],
            [core_grad(n, EXTENTS, 9) for n in (1, 70)],
        )

    before = found()
    torch.set_num_threads(3)
    with force_plan(1), force_simd_level(LEVELS[-1]):
        assert found() == before
    for function in CACHED:
        assert {"sizes", "choice"} <= set(inspect.signature(function).parameters)


def test_a_forced_plan():
    """One candidate after the other, and from the start again; it ends with its block."""
    with pytest.raises(ZeroDivisionError), force_plan(2):
        assert plans.forced() == "2"
        with force_plan(5):
            assert plans.forced() == "5"
        raise ZeroDivisionError
    assert plans.forced() is None

    few, many = (
        [projection(n, (4, 5, 6), 3, dtype=2, choice=str(i)) for i in range(12)] for n in (8, 9)
    )
    assert few == 2 * [Split(h, 0, few) for few in (0, 1) for h in (0, 1, 2)]
    assert many == 4 * [Split(h) for h in (0, 1, 2)]
    means = [projection(8, (4, 5, 6), 3, True, dtype=2, choice=str(i)) for i in range(8)]
    assert means == 2 * [Split(h, 0, few) for few in (0, 1) for h in (1, 2)]


def test_prices_know_the_kernels():
    """What they repeat of the sources is what stands there."""
    sources = Path(prices.__file__).parents[3] / "csrc" / "cpu"
    stated = {
        "grouping.h": {
            "least_tail": prices.LEAST_TAIL,
            "most_tail": prices.MOST_TAIL,
        },
        "projection.h": {"most_slab": prices.SLAB},
        "projection_plan.h": {
            "panel_budget": f"Pairs ? {prices.PANEL_OF_PAIRS} : {prices.PANEL}",
            "longest_sum": prices.LONGEST_SUM,
            "x_budget": prices.X_BUDGET,
            "shared_core_bytes": "int64_t(1) << 18",
            "least_extent_of_pairs": prices.LEAST_EXTENT_OF_PAIRS,
        },
        "projection_factor_grads_plan.h": {
            "panel_budget": prices.FACTOR_GRADS_PANEL,
            "row_block": prices.ROW_BLOCK,
        },
        "projection_core_grad.cpp": {
            "panel_budget": prices.CORE_GRAD_PANEL,
            "panel_unit": prices.PANEL_UNIT,
            "packed_budget": prices.PACKED,
            "packed_rows": prices.PACKED_ROWS,
            "least_rows": prices.LEAST_ROWS,
        },
    }
    assert prices.SHARED_CORE_BYTES == 1 << 18
    for file, values in stated.items():
        text = (sources / file).read_text()
        for name, value in values.items():
            (found,) = re.findall(rf"constexpr int64_t {name}(?:<Pairs>)? =\s+([^;]*);", text)
            assert found == str(value), (file, name)
    few = (sources / "projection_few.h").read_text()
    assert re.search(rf"short_row = vector_bytes == 64 \? {prices.SHORT_FEW} : 0;", few)
    assert re.search(rf"few_at_once = {max(prices.FEW_ROWS)};", few)
    for rows in (prices.FEW_SHORT_ROWS, prices.FEW_ROWS):
        one, two, three, four = (rows[samples] for samples in (1, 2, 3, 4))
        wanted = f"samples == 1 ? {one} : samples == 2 ? {two} : samples == 3 ? {three} : {four};"
        assert f"return {wanted}" in few
    api = (sources / "api.h").read_text()
    assert f"constexpr int64_t most_step_samples = {core_step.MOST_SAMPLES};" in api
