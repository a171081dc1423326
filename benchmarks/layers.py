"""Benchmark of two models over the library: TuckER's scores and a tensor fusion layer.

    python benchmarks/layers.py                      # at the papers' sizes
    python benchmarks/layers.py --shape fusion --n 32 256

The whole layer is timed, forward and with the gradients of all its parameters and inputs: TuckER
with the product that scores every entity, the fusion with the appended ones and its bias. The plain
forms are those that the papers' implementations use, and what replaces them. README.md in this
folder explains protocol and columns.
"""

from __future__ import annotations

import sys

from harness import command
from harness.cases import Case, Shape, by_name

PASSES = ("forward", "backward", "both")
SHAPES = by_name(
    Shape("tucker-fb15k237", 200, (200, 200)),
    Shape("tucker-wn18rr", 200, (30, 200)),
    Shape("fusion", 128, (129, 33, 33)),
    Shape("tucker-quick", 6, (4, 6)),
    Shape("fusion-quick", 5, (4, 3, 3)),
)


def cases_of(given) -> list[Case]:
    shapes = given.shape or (
        ["tucker-quick", "fusion-quick"]
        if given.quick
        else ["tucker-fb15k237", "tucker-wn18rr", "fusion"]
    )
    return [
        Case(SHAPES[shape], n, dtype, pass_, operation=shape.partition("-")[0])
        for shape in shapes
        for dtype in given.dtype or ("float32",)
        for pass_ in given.passes or ("forward", "both")
        for n in given.n or ((5,) if given.quick else (32,) if shape == "fusion" else (128,))
    ]


def suite():
    from rivals.layers import SUITE

    return SUITE


def main(argv: list[str] | None = None) -> int:
    return command.main(argv, "layers", __doc__, SHAPES, PASSES, cases_of, suite)


if __name__ == "__main__":
    sys.exit(main())
