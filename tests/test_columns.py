"""Factors whose samples lie side by side, kept whole or some columns at a time, against float64."""

import math

import pytest
import torch

import ntensor
from ntensor import _cpu
from ntensor.backends.native import force_simd_level
from ntensor.backends.native.plans import force_plan
from tolerances import DTYPES

# Before the last factor: those that are kept whole, one that is not, two that are not in one group;
# then tails of several factors, merged into one, with more columns and fewer than are read at once.
EXTENTS = (
    *((3, 40), (129, 2), (300, 33), (130, 17, 2), (20, 140, 5), (513, 1)),
    *((17, 7), (16, 2), (2, 33, 3), (40, 5, 4, 4), (150, 18, 1, 2)),
)

pytestmark = pytest.mark.sanitizer


@pytest.mark.parametrize("level", _cpu.simd_levels())
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("extents", EXTENTS, ids=str)
@pytest.mark.parametrize("by_columns", [False, True], ids=["rows", "columns"])
def test_every_plan(extents, by_columns, dtype, level):
    generator = torch.Generator().manual_seed(math.prod(extents))

    def positive(*shape):
        return (0.5 + torch.rand(shape, generator=generator) / 2).to(dtype)

    core = positive(3, *extents)
    bound = {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 2.0**-6)
    for n in (5, 67):
        factors = [positive(n, k) for k in extents]
        exact = core.double().flatten(1)
        y = torch.ones(n, 1, dtype=torch.float64)
        for factor in factors:
            y = (y[:, :, None] * factor.double()[:, None]).flatten(1)
        exact = y @ exact.T
        if by_columns:
            factors = [factor.T.contiguous().T for factor in factors]
        for plan in range(len(extents) + 1):
            with force_simd_level(level), force_plan(plan):
                x = ntensor.synthesis_projection(core, *factors, backend="native")
            error = ((x.double() - exact) / exact).abs().max()
            assert error <= bound, (n, plan, error)
