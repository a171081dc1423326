"""What the tests of shared partial products have in common: sizes, inputs, passes counted."""

import functools
import sys
from contextlib import contextmanager

import pytest

import ntensor
from layouts import make
from shapes import MTTKRP

# `ntensor.ops.mttkrp_all` is the function of this name.
module = sys.modules[ntensor.MttkrpSweep.__module__]
shared_modes = module.shared_modes

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


@contextmanager
def sharing_at_any_size():
    """Modes share wherever a partial product is small beside its tensor, as those of large tensors
    do."""
    before = module.LEAST_SHARED_RANK, module.LEAST_SHARED_WORK
    module.LEAST_SHARED_RANK, module.LEAST_SHARED_WORK = 1, 0
    try:
        yield
    finally:
        module.LEAST_SHARED_RANK, module.LEAST_SHARED_WORK = before


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
