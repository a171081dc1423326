"""Benchmark of `rotation` and `rotated_synthesis`, both layouts; on a GPU of `synthesis` too.

    python benchmarks/rotation.py                       # 15x80, n = 4096
    python benchmarks/rotation.py --full --out benchmarks/results
    python benchmarks/rotation.py --device cuda         # n = 65536

README.md in this folder explains protocol and columns.
"""

from __future__ import annotations

import sys

import gpu.cases
from harness import command, options
from harness.cases import FEATURE_SHAPES, PLAIN, ROTATIONS, Case

PASSES = ("forward", "backward", "both")
SHAPES = FEATURE_SHAPES


def cases_of(given) -> list[Case]:
    on_gpu = options.on_gpu(given)
    sizes = (5,) if given.quick else (4096, 65536) if given.full else (4096,)
    if on_gpu:
        sizes = (70,) if given.quick else (65536, 262144) if given.full else (65536,)
    return [
        Case(SHAPES[shape], n, dtype, pass_, operation, layout)
        for shape in given.shape or ["quick" if given.quick else "paper"]
        for n in given.n or sizes
        for operations in ([PLAIN] if on_gpu else []) + [ROTATIONS]
        for dtype in given.dtype or (gpu.cases.DTYPES if on_gpu else ("float32",))
        for operation, layout in operations
        for pass_ in given.passes or ("forward", "both")
    ]


def suite():
    from rivals.rotation import SUITE

    return SUITE


def main(argv: list[str] | None = None) -> int:
    return command.main(argv, "rotation", __doc__, SHAPES, PASSES, cases_of, suite)


if __name__ == "__main__":
    sys.exit(main())
