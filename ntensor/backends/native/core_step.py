"""An optimizer's step for a core by the terms of its gradient, which is never stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ntensor.backends.native import call, plans
from ntensor.backends.native.library import (
    ELEMENTS_A_THREAD,
    describe_factors,
    describe_optional,
    threads_for,
)

MOST_SAMPLES = 256  # most_step_samples of csrc/cpu/api.h


class Rule(NamedTuple):
    """`OptimizerStep` of `csrc/cpu/api.h`, without its arrays."""

    is_adam: bool
    rate: float
    sign: float = 1.0
    coupled: float = 0.0
    kept: float = 1.0
    momentum: float = 0.0
    taken: float = 1.0
    kept_square: float = 0.0
    taken_square: float = 0.0
    correction: float = 1.0
    epsilon: float = 0.0
    is_nesterov: bool = False

    def numbers(self) -> tuple[float, ...]:
        return (
            *(self.sign, self.coupled, self.kept, self.rate, self.momentum, self.taken),
            *(self.kept_square, self.taken_square, self.correction, self.epsilon),
        )


def step(
    core: Tensor,
    states: Sequence[Tensor | None],
    grad: Tensor | None,
    grad_mean: Tensor | None,
    factors: Sequence[Tensor],
    rule: Rule,
) -> None:
    """Writes to the core and the states, all contiguous and on the CPU.

    Args:
        states: the first and second moment and the largest second moment, None for those that the
            rule does not have.
        grad, grad_mean: `(n, k_x)`, one of them at least.
        factors: `(n, k_m)`, `n` at most `MOST_SAMPLES`; nothing is empty.
    """
    matrices = list(factors)
    with_mean = grad_mean is not None
    if len(matrices) == 1:  # the kernel takes two factors or more
        matrices.insert(int(with_mean), matrices[0].new_ones((len(matrices[0]), 1)))
    inputs, extents, _, _ = describe_factors(matrices, int(with_mean))
    sizes = call.sizes_of(core, len(matrices[0]), extents, core.shape[0])
    # Long rows, of a synthesis that is formed once, whatever a gradient alone would take.
    split = plans.Split(int(with_mean))
    arrays = [core.data_ptr(), *(0 if each is None else each.data_ptr() for each in states)]
    both = (describe_optional(grad), describe_optional(grad_mean))
    job = (sizes.dtype, sizes.n, inputs, core.shape[0], *both, split)
    threads = threads_for(core.numel(), ELEMENTS_A_THREAD)
    call.run(
        *("projection_core_step", core, threads, *job),
        *(rule.is_adam, rule.is_nesterov, arrays, rule.numbers()),
    )
    for each in (core, *states):
        if each is not None and not each.is_inference():
            torch.autograd.graph.increment_version(each)
