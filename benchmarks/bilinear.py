"""Benchmark of `ntensor.bilinear` beside `torch.nn.functional.bilinear` and what replaces it.

    python benchmarks/bilinear.py                       # 64 x 64 -> 64, n = 32 and 512
    python benchmarks/bilinear.py --full --out benchmarks/results
    python benchmarks/bilinear.py --shape square256 --n 128

README.md in this folder explains protocol and columns.
"""

from __future__ import annotations

import sys

from harness import command, options
from harness.cases import Case, Shape, by_name, projections

PASSES = ("forward", "backward", "both")
TIMED = ("forward", "both")
SHAPES = by_name(
    Shape("square64", 64, (64, 64)),
    Shape("square256", 256, (256, 256)),
    Shape("paper2", 28125, (15, 80)),
    Shape("tiny8", 8, (8, 8)),
    Shape("quick", 6, (5, 7)),
)
DEFAULT = projections(SHAPES["square64"], (32, 512), TIMED)
FULL = [
    case
    for shape, sizes in (
        ("square64", (32, 128, 512, 2048, 4096)),
        ("square256", (128,)),
        ("paper2", (16,)),
        ("tiny8", (4,)),
    )
    for case in projections(SHAPES[shape], sizes, TIMED)
]


def cases_of(given) -> list[Case]:
    if given.full:
        return options.selected(given, FULL)
    if not given.quick and not options.names_cases(given):
        return DEFAULT
    sizes = given.n or ((5,) if given.quick else (32, 512))
    return [
        case
        for shape in given.shape or ["quick" if given.quick else "square64"]
        for case in projections(
            SHAPES[shape], sizes, given.passes or TIMED, given.dtype or ("float32",)
        )
    ]


def suite():
    from rivals.bilinear import SUITE

    return SUITE


def main(argv: list[str] | None = None) -> int:
    return command.main(argv, "bilinear", __doc__, SHAPES, PASSES, cases_of, suite)


if __name__ == "__main__":
    sys.exit(main())
