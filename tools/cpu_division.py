"""How the kernels for CPUs divide their work among threads, up to more than this machine has.

    python tools/cpu_division.py                # a table of the cases at 64 threads
    python tools/cpu_division.py --write        # every case: benchmarks/results/cpu_division.csv

Nothing here is timed. The native backend plans its jobs as for a call, and the compiled core tells
of each the parts that it would give to every thread (`ntensor._cpu.division`), by the functions
that its kernels follow. Counted are the multiply-adds of every thread and the bytes of the core
that it reads or writes. `balance` is the largest share of multiply-adds by the mean share, of
jobs after one another that of their sums: 1.05 is 5 % lost to waiting. `formed` is what every
thread forms of syntheses for itself, in elements by its multiply-adds. Two NUMA nodes have one
half of the threads each: `own` is the part of the core that the threads of one node alone use,
`as_forward` the part that one node alone uses, and that node alone in the forward pass too. A
contraction, of one mode each, has no samples: its n is 1.
"""

import argparse
import contextlib
import csv
import itertools
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch

from ntensor import _cpu
from ntensor.backends.native import call, core_step, projection, simd_level
from ntensor.backends.native.library import DTYPES, ELEMENTS_A_THREAD, limit_threads, threads_for

FILE = Path(__file__).resolve().parent.parent / "benchmarks/results/cpu_division.csv"
THREADS = (1, 2, 4, 8, 16, 32, 64)
SAMPLES = (1, 16, 64, 1024)
ROWS = (64, 12288, 28125)
EXTENTS = ((9, 15, 80), (15, 80))
ALLOWED = 1.05  # of a balance, before it counts as uneven

# Columns of a table of parts: a `Part` of csrc/cpu/api.h is ten integers.
PHASE, THREAD, S0, S1, R0, R1, L0, L1, P0, P1 = range(10)
ELEMENTS_SEEN = 4001  # of the core, evenly spaced, where nodes are compared


class Job(NamedTuple):
    """A job of the compiled core: its threads and their parts, one a row."""

    name: str
    threads: int
    parts: torch.Tensor
    split: tuple[int, ...]  # of a projection or its gradients

    @property
    def output_inside(self) -> bool:
        """Whether the core lies as (hoisted, outputs, inner)."""
        return self.name == "projection" and self.split[1] == 1

    def one_product(self) -> bool:
        """Whether the phases share one product; else each is a projection of its own."""
        return not (self.name == "projection_factor_grads" and self.split[3])

    def multiply_adds(self) -> torch.Tensor:
        """Of every part."""
        return self.samples() * self.core_elements()

    def samples(self) -> torch.Tensor:
        return self.parts[:, S1] - self.parts[:, S0]

    def core_elements(self) -> torch.Tensor:
        ends = self.parts[:, R0:].unflatten(1, (3, 2))
        return (ends[..., 1] - ends[..., 0]).prod(1)

    def by_thread(self, of_parts: torch.Tensor) -> torch.Tensor:
        """Sums `(phases, threads)`."""
        phases = int(self.parts[:, PHASE].max()) + 1
        place = self.parts[:, PHASE] * self.threads + self.parts[:, THREAD]
        found = torch.zeros(phases * self.threads, dtype=torch.int64)
        return found.index_add_(0, place, of_parts).view(phases, self.threads)

    def formed(self) -> torch.Tensor:
        """Elements of the syntheses that every thread forms, each once."""
        if self.name == "contraction":
            return torch.zeros(self.threads, dtype=torch.int64)
        kinds = self.parts[:, [PHASE, THREAD, S0, S1, P0, P1]].unique(dim=0)
        formed = (kinds[:, 3] - kinds[:, 2]) * (kinds[:, 5] - kinds[:, 4])
        found = torch.zeros(self.threads, dtype=torch.int64)
        return found.index_add_(0, kinds[:, 1], formed)

    def nodes_of(self, elements: torch.Tensor) -> torch.Tensor:
        """Which of two nodes use these elements of the core: 1, 2, or 3 for both."""
        outputs, L, P = self.parts[:, [R1, L1, P1]].amax(0).tolist()
        p, row = elements % P, elements // P
        r, at_l = (row % outputs, row // outputs) if self.output_inside else (row // L, row % L)
        found = torch.zeros(len(elements), dtype=torch.int64)
        on_second = self.parts[:, THREAD] >= (self.threads + 1) // 2
        for bit, here in ((1, ~on_second), (2, on_second)):
            parts = self.parts[here][:, R0:].unique(dim=0)
            inside = torch.ones(len(elements), len(parts), dtype=torch.bool)
            for at, column in ((r, 0), (at_l, 2), (p, 4)):
                inside &= (parts[:, column] <= at[:, None]) & (at[:, None] < parts[:, column + 1])
            found |= bit * inside.any(1)
        return found


def division_of(name: str, threads: int, *job: Any) -> Job:
    """The parts of a job that `call.run` would run."""
    divide, context = getattr(_cpu.division, name), (simd_level(), threads)
    table = torch.empty(divide(context, *job, 0, -1) // 80, 10, dtype=torch.int64)
    assert divide(context, *job, table.data_ptr(), table.nbytes) is None
    has_split = name in ("projection", "projection_factor_grads")
    split = job[-2] if has_split else ()
    return Job(name, threads, table, tuple(split))


@contextlib.contextmanager
def recorded_jobs() -> Iterator[list[Job]]:
    """The jobs that the native backend would run in this block: none is run."""
    jobs: list[Job] = []

    def record(name: str, like: torch.Tensor, threads: int, *job: Any, sizes: Any = None) -> None:
        jobs.append(division_of(name, threads, *job))

    with mock.patch.object(call, "run", record):
        yield jobs


def jobs_of(
    operation: str,
    n: int,
    k_x: int,
    extents: tuple[int, ...],
    threads: int,
    dtype: torch.dtype = torch.float32,
) -> list[Job]:
    """Of an operation, where torch has so many threads. No memory of the core is touched."""
    core = torch.empty(k_x, *extents, dtype=dtype)
    grad = torch.empty(n, k_x, dtype=dtype)
    factors = [torch.empty(n, extent, dtype=dtype) for extent in extents]
    with limit_threads(threads):
        if operation in CONTRACTIONS:
            return [contraction_of(core, CONTRACTIONS[operation])]
        with recorded_jobs() as jobs:
            OPERATIONS[operation](core, grad, factors)
    return jobs


def contraction_of(core: torch.Tensor, mode: int) -> Job:
    """As `contract` of csrc/cpu/direct_features.cpp would run it."""
    shape, threads = core.shape, threads_for(core.numel(), ELEMENTS_A_THREAD)
    sizes = (math.prod(shape[:mode]), shape[mode], math.prod(shape[mode + 1 :]))
    return division_of("contraction", threads, DTYPES[core.dtype], *sizes, 1, 1, 1, 1)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "forward": lambda core, _, z: projection.synthesis_projection(core, z),
    "factor-grads": lambda core, grad, z: projection.projection_grads(
        core, grad, None, z, False, [True] * len(z)
    ),
    "core-grad": lambda _, grad, z: projection.projection_core_grad(grad, None, z),
    "core-step": lambda core, grad, z: core_step.step(
        core, (None, None, None), grad, None, z, core_step.Rule(is_adam=False, rate=1.0)
    ),
}
CONTRACTIONS = {f"contract-{mode}": mode for mode in (1, 2, 3)}

# Operation, extents of the factors, k_x, n.
CASES = [
    *(
        (operation, *sizes)
        for operation in OPERATIONS
        for sizes in itertools.product(EXTENTS, ROWS, SAMPLES)
        if operation != "core-step" or sizes[-1] <= core_step.MOST_SAMPLES
    ),
    *(
        (operation, extents, k_x, 1)
        for operation, mode in CONTRACTIONS.items()
        for extents, k_x in itertools.product(EXTENTS, ROWS)
        if mode <= len(extents)
    ),
]


class Row(NamedTuple):
    """An operation of a case; threads: those that torch has, used: those that the work is worth."""

    operation: str
    k_x: int
    extents: str
    n: int
    threads: int
    used: int
    multiply_adds: int
    largest_share: int
    least_share: int
    balance: float
    core_megabytes: float  # of the thread that has most, once for each slab of samples
    core_balance: float
    formed: float
    own: float
    as_forward: float
    simd: str


def balance_of(shares: list[torch.Tensor]) -> float:
    """The largest share by the mean share, of phases that follow one another."""
    largest = sum(int(phase.max()) for job in shares for phase in job)
    return largest / sum(float(job.double().mean(1).sum()) for job in shares)


def row_of(operation: str, n: int, k_x: int, extents: tuple[int, ...], threads: int) -> Row:
    jobs = jobs_of(operation, n, k_x, extents, threads)
    work = [job.by_thread(job.multiply_adds()) for job in jobs]
    read = [job.by_thread(job.core_elements()) for job in jobs]
    of_threads = torch.stack([job.sum(0) for job in work]).sum(0)
    core_of_threads = torch.stack([job.sum(0) for job in read]).sum(0)
    formed = torch.stack([job.formed() for job in jobs]).sum(0)
    forward = jobs if operation == "forward" else jobs_of("forward", n, k_x, extents, threads)
    last = k_x * math.prod(extents) - 1
    elements = torch.linspace(0, last, ELEMENTS_SEEN, dtype=torch.float64).long()
    nodes, before = (job[0].nodes_of(elements) for job in (jobs, forward))
    own = nodes != 3
    return Row(
        operation, k_x, "x".join(map(str, extents)), n, threads, jobs[0].threads,
        int(of_threads.sum()), int(of_threads.max()), int(of_threads.min()),
        round(balance_of(work), 4), round(int(core_of_threads.max()) * 4e-6, 3),
        round(balance_of(read), 4), round(float((formed / of_threads.clamp(1)).max()), 4),
        round(float(own.double().mean()), 3),
        round(float((own & (nodes == before)).double().mean()), 3), simd_level(),
    )  # fmt: skip


def rows(threads: tuple[int, ...]) -> list[Row]:
    return [
        row_of(operation, n, k_x, extents, count)
        for operation, extents, k_x, n in CASES
        for count in threads
    ]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, nargs="+")
    parser.add_argument("--write", action="store_true", help="every number of threads, to the file")
    parser.add_argument("--out", type=Path, default=FILE)
    given = parser.parse_args(argv)
    found = rows(tuple(given.threads or (THREADS if given.write else THREADS[-1:])))
    if given.write:
        with given.out.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([Row._fields, *found])
    widths = [max(len(str(row[i])) for row in (Row._fields, *found)) for i in range(len(found[0]))]
    for row in (Row._fields, *found):
        print("  ".join(str(cell).rjust(width) for cell, width in zip(row, widths, strict=True)))
    uneven = [row for row in found if row.balance > ALLOWED]
    print(f"{len(uneven)} of {len(found)} over {ALLOWED}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
