"""What a call allocates through torch on the CPU, allocation by allocation."""

import gc
from typing import NamedTuple

from torch.profiler import ProfilerActivity, profile


class Allocations(NamedTuple):
    """Bytes: the highest sum in use at a time over that at the start, the sum left at the end, the
    largest single allocation."""

    peak: int
    left: int
    largest: int


def allocations(function):
    """What one call of `function` allocates. The results are given up after the measurement."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        results = function()
    events = profiler.profiler.kineto_results.events()
    sizes = [
        e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()) if e.name() == "[memory]"
    ]
    running, peak = 0, 0
    for size in sizes:
        running += size
        peak = max(peak, running)
    del results
    return Allocations(peak, running, max(sizes, default=0))
