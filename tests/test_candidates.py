"""Every way in which the native backend computes a projection is right; see `test_plans.py`."""

import functools
import itertools

import pytest
import torch

import definitions
import ntensor
from backends import each_dtype
from comparison import evaluate, exact_copy, plain_copy
from layouts import make
from ntensor import _cpu
from ntensor.backends.native import call, force_simd_level
from ntensor.backends.native.plans import Split, force_plan
from tolerances import assert_within_rule

LEVELS = _cpu.simd_levels()

# (n, k_x, extents): few samples and one over a slab, one output and many, short and long factors.
SIZES = (
    (3, 5, (4, 3, 37)),
    (8, 1, (40, 33)),
    (67, 3, (9, 2, 35)),
    (65, 41, (3, 130)),
    (1, 70, (2, 3, 2, 9)),
    (20, 2, (130, 70)),
)
each_size = pytest.mark.parametrize("size", SIZES, ids=str)


def operands(size, dtype, generator):
    n, k_x, extents = size
    shapes = [(k_x, *extents), *((n, k) for k in extents)]
    return [make("contiguous", shape, dtype, generator) for shape in shapes]


class Every:
    """Runs a call by the candidates of the plans, at every level, by one thread and by two."""

    def __init__(self, monkeypatch):
        self.threads = 1
        monkeypatch.setattr(call, "threads_for", lambda *_: self.threads)

    def way(self, count):
        """`count`: of candidates; a name for each way, which holds until the next."""
        for level, self.threads, choice in itertools.product(LEVELS, (1, 2), range(count)):
            with force_simd_level(level), force_plan(choice):
                yield f"{level}, {self.threads} threads, candidate {choice}"

    def check(self, count, ours, definition, inputs, cotangents, needs=None):
        """Outputs and gradients of each way against the definition, by the tolerances' rule."""
        needs = [True] * len(inputs) if needs is None else needs
        rows = [
            evaluate(definition, inputs, needs, cotangents, convert)
            for convert in (plain_copy, exact_copy, lambda t: exact_copy(t).square_())
        ]
        for way in self.way(count):
            found = evaluate(ours, inputs, needs, cotangents)
            for kind, results in enumerate(found):
                others = [row[kind] for row in rows]
                for place, values in enumerate(zip(results, *others, strict=True)):
                    result, rival, exact, term = values
                    name = f"{('output', 'gradient')[kind]} {place}, {way}"
                    assert_within_rule(name, result, rival, exact, term.sqrt())


@pytest.fixture
def every(monkeypatch):
    return Every(monkeypatch)


def projecting(name):
    return functools.partial(getattr(ntensor, name), backend="native"), getattr(definitions, name)


def test_candidates_reach_the_module(every, monkeypatch):
    """The ways below differ: in the level, the threads and the split of a call."""
    seen = set()

    class Module:
        def __getattr__(self, name):
            def noting(context, *arguments):
                split = arguments[-4]  # before the stack and the scratch memory
                seen.add((name, *context, split))
                return getattr(_cpu, name)(context, *arguments)

            return noting

    monkeypatch.setattr(call, "cpu_module", Module)
    core, z = torch.randn(4, 3, 5), [torch.randn(6, k, requires_grad=True) for k in (3, 5)]
    for _ in every.way(4):
        ntensor.synthesis_projection(core, *z, backend="native").sum().backward()
    splits = [Split(h, 0, few) for few in (0, 1) for h in (0, 1)]
    for level, threads in itertools.product(LEVELS, (1, 2)):
        assert {("projection", level, threads, split) for split in splits} <= seen
        assert ("projection_factor_grads", level, threads, Split(0)) in seen
        assert ("projection", level, threads, Split(1, 1, 0)) in seen or (
            ("projection", level, threads, Split(1, 1, 1)) in seen
        )


@each_dtype
@each_size
def test_every_candidate(size, dtype, every, generator):
    """Of the projection, with and without the mean, and of all gradients."""
    n, k_x, extents = size
    inputs = operands(size, dtype, generator)
    cotangents = [make("contiguous", (n, k_x), dtype, generator) for _ in range(2)]
    # Each number of hoisted factors, sample by sample too or as projections of their own, and what
    # torch or a mean core does.
    count = 2 + 2 * len(extents)
    every.check(count, *projecting("synthesis_projection"), inputs, cotangents[:1])
    every.check(count, *projecting("synthesis_projection_with_mean"), inputs, cotangents)


@each_dtype
@pytest.mark.parametrize("needs", [*itertools.product((False, True), repeat=3)], ids=str)
def test_gradients_of_some_factors(needs, dtype, every, generator):
    """Plans that read the core twice, or once for the leading factors alone; a projection each."""
    size = (11, 30, (6, 5, 33))
    inputs = operands(size, dtype, generator)
    cotangent = make("contiguous", size[:2], dtype, generator)
    operations = projecting("synthesis_projection")
    every.check(7, *operations, inputs, [cotangent], [False, *needs])


@each_dtype
@pytest.mark.parametrize("rank", [3, 33])
@pytest.mark.parametrize("mode", range(4))
def test_every_candidate_of_an_mttkrp(mode, rank, dtype, every, generator):
    shape = (5, 21, 34, 3)
    tensor = make("contiguous", shape, dtype, generator)
    factors = [make("contiguous", (k, rank), dtype, generator) for k in shape]

    def ours(tensor, *factors):
        return ntensor.mttkrp(tensor, factors, mode, backend="native")

    def definition(tensor, *factors):
        return definitions.mttkrp(tensor, factors, mode)

    every.check(6, ours, definition, [tensor, *factors], [None], [False] * 5)


@each_size
def test_samples_and_outputs_do_not_mix(size, every):
    """Whole numbers, so that every candidate gives the same bits as float64."""
    n, k_x, extents = size
    core = torch.randint(-2, 3, (k_x, *extents)).float()
    z = [torch.randint(-2, 3, (n, k)).float() for k in extents]
    exact = definitions.synthesis_projection(core.double(), *(each.double() for each in z))
    for way in every.way(2 * len(extents)):
        found = ntensor.synthesis_projection(core, *z, backend="native")
        assert torch.equal(found.double(), exact), way
