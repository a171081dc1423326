"""Benchmark of `synthesis_projection`: `x = core_(1) (z_1 (x) ... (x) z_M)` for n samples.

    python benchmarks/synthesis.py  # a first look: the paper's 3-way shape, n = 16
    python benchmarks/synthesis.py --full --out benchmarks/results
    python benchmarks/synthesis.py --shape small64 --n 4096 --dtype bfloat16 --pass forward
    python benchmarks/synthesis.py --device cuda        # the same on a GPU

README.md in this folder explains protocol and columns.
"""

from __future__ import annotations

import sys

import gpu.cases
from harness import command, options
from harness.cases import PASSES, SHAPES, Case, projections

TIMED = ("forward", "both")
DEFAULT = [*projections("paper3", (16,), TIMED), *projections("tiny", (4,), TIMED)]
FULL = [
    *projections("paper3", (1, 16, 64, 256), TIMED),
    *projections("paper3", (16, 64, 256), ("mean",)),
    *projections("paper3", (16, 64), ("mean-both",)),
    *projections("paper2", (16, 64), TIMED),
    *projections("small64", (4096,), TIMED),
    *projections("paper3", (16, 64), TIMED, ("bfloat16",)),
    *projections("tiny", (4,), TIMED),
    *projections("tiny2", (4,), TIMED),
]
QUICK = [
    *projections("quick3", (5,), PASSES[:5]),
    *projections("quick2", (5,), TIMED),
    *projections("quick3", (5,), TIMED, ("bfloat16",)),
    *projections("tiny", (4,), TIMED),
]


def cases_of(given) -> list[Case]:
    on_gpu = options.on_gpu(given)
    if given.full:
        return options.selected(given, gpu.cases.full() if on_gpu else FULL)
    if given.quick:
        return options.selected(given, QUICK + gpu.cases.QUICK if on_gpu else QUICK)
    if not options.names_cases(given):
        return gpu.cases.DEFAULT if on_gpu else DEFAULT
    return [
        case
        for shape in given.shape or ["paper3"]
        for case in projections(
            shape, given.n or (16, 64), given.passes or TIMED, given.dtype or ("float32",)
        )
    ]


def suite():
    from rivals.synthesis import SUITE

    return SUITE


def main(argv: list[str] | None = None) -> int:
    return command.main(argv, "synthesis", __doc__, SHAPES, PASSES, cases_of, suite)


if __name__ == "__main__":
    sys.exit(main())
