"""Two forms of one layer beside each other: do they agree, how long is a step, how much memory?"""

from __future__ import annotations

import gc
import os
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import ntensor

Step = Callable[[], Any]
ROUNDS = 5


class Allocations(NamedTuple):
    """Bytes: the highest sum in use at a time over that at the start, the sum left at the end, the
    largest single allocation."""

    peak: int
    left: int
    largest: int


def steps(inputs: Sequence[Tensor], **forms: nn.Module) -> dict[str, Step]:
    """A training step of each form: the output, and the gradients of half its square in all
    parameters and in those inputs that require them. All get the parameters of the first."""
    first, *others = forms.values()
    for form in others:
        form.load_state_dict(first.state_dict())
    given = [tensor for tensor in inputs if tensor.requires_grad]

    def step_of(form: nn.Module) -> Step:
        leaves = [*form.parameters(), *given]

        def step() -> list[Tensor]:
            output = form(*inputs)
            gradients = torch.autograd.grad(output, leaves, output.detach())
            return [output.detach(), *gradients]

        return step

    return {name: step_of(form) for name, form in forms.items()}


def allocations(function: Step) -> Allocations:
    """What one call of `function` allocates through torch on the CPU, its results given up
    afterwards. The compiled core takes its scratch memory from torch, so it is counted."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        results = function()
    events = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    sizes = [
        e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()) if e.name() == "[memory]"
    ]
    running, peak = 0, 0
    for size in sizes:
        running += size
        peak = max(peak, running)
    del results
    return Allocations(peak, running, max(sizes, default=0))


def run(title: str, example: Callable[..., dict[str, Step]]) -> None:
    """An example as a script: its first extents from the command line, its table printed."""
    forms = example(*map(int, sys.argv[1:]))
    print(f"{title}, {torch.get_num_threads()} threads")
    print(f"{'':12}{'step, ms':>12}{'speed':>9}{'peak, MB':>12}{'largest array, MB':>20}")
    times = medians(forms)
    for name, step in forms.items():
        seen = memory(step)
        print(
            f"{name:12}{times[name] * 1e3:12.1f}{times['published'] / times[name]:9.2f}"
            f"{seen.peak / 1e6:12.1f}{seen.largest / 1e6:20.1f}"
        )


def medians(forms: Mapping[str, Step]) -> dict[str, float]:
    """Seconds of a step of each form: the median over rounds in which they take turns."""
    samples: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(ROUNDS + 1):
        for name, step in forms.items():
            start = time.perf_counter()
            step()
            samples[name].append(time.perf_counter() - start)
    return {name: statistics.median(found[1:]) for name, found in samples.items()}


def memory(step: Step) -> Allocations:
    """`allocations` of a step, and the peak of NumPy's memory added to that of torch's."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # the profiler's own messages
    ntensor.release_memory()  # what earlier steps have left to be used again counts as well
    tracemalloc.start()
    seen = allocations(step)
    peak = seen.peak + tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return seen._replace(peak=peak)
