"""The cases of the benchmarks, as data: shapes, sizes, passes, and the lists that are run.

Symbols: n samples, core `(k_x, k_1, ..., k_M)`, `K = k_1 ... k_M`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

PASSES = ("forward", "backward", "both", "mean", "mean-both")
DTYPES = ("float32", "float64", "bfloat16", "float16")
ITEM_BYTES = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Shape:
    """Extents of one problem; `out_features` (k_x) is 0 where there is no core."""

    name: str
    out_features: int
    factor_sizes: tuple[int, ...]

    @property
    def features(self) -> int:
        return math.prod(self.factor_sizes)


@dataclass(frozen=True)
class Case:
    """One table: every method computes the same thing.

    `operation` is "synthesis_projection", "rotation" or "rotated_synthesis"; `layout` is the
    rotation's; `pass_` is one of `PASSES`.
    """

    shape: Shape
    n: int
    dtype: str = "float32"
    pass_: str = "forward"
    operation: str = "synthesis_projection"
    layout: str = ""

    @property
    def differentiates(self) -> bool:
        return self.pass_ in ("backward", "both", "mean-both")

    @property
    def mean(self) -> bool:
        return self.pass_ in ("mean", "mean-both")

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs that are checked: none where only backward is timed."""
        if self.pass_ == "backward":
            return ()
        return ("output", "output_mean") if self.mean else ("output",)

    @property
    def title(self) -> str:
        sizes = "x".join(map(str, self.shape.factor_sizes))
        what = {
            "both": "forward + backward",
            "mean": "forward, mean output too",
            "mean-both": "forward + backward, mean output too",
        }.get(self.pass_, self.pass_)
        if self.operation == "synthesis_projection":
            way = f"{len(self.shape.factor_sizes)}-way"
            where = f"{way}, k_x {self.shape.out_features}, {sizes}"
        else:
            where = f"{self.operation}, {self.layout} layout, {sizes}"
        return f"{where}, n = {self.n}, {self.dtype}, {what}"


def _shapes(*shapes: Shape) -> dict[str, Shape]:
    return {shape.name: shape for shape in shapes}


SHAPES = _shapes(
    Shape("paper3", 12288, (9, 15, 80)),
    Shape("paper2", 28125, (15, 80)),
    Shape("small64", 64, (9, 15, 80)),
    Shape("small512", 512, (9, 15, 80)),
    Shape("tiny", 4, (2, 3, 4)),
    Shape("tiny2", 4, (3, 4)),
    Shape("quick3", 192, (3, 5, 16)),
    Shape("quick2", 320, (6, 16)),
)
ROTATION_SHAPES = _shapes(Shape("paper", 0, (15, 80)), Shape("quick", 0, (6, 10)))


def _synthesis(shape: str, sizes: tuple[int, ...], passes: tuple[str, ...], dtype="float32"):
    return [Case(SHAPES[shape], n, dtype, p) for p, n in product(passes, sizes)]


DEFAULT_SYNTHESIS = _synthesis("paper3", (16, 64), ("forward", "both")) + _synthesis(
    "tiny", (4,), ("forward", "both")
)
FULL_SYNTHESIS = [
    *_synthesis("paper3", (1, 16, 64, 256), ("forward", "both")),
    *_synthesis("paper3", (16, 64, 256), ("mean",)),
    *_synthesis("paper3", (16, 64), ("mean-both",)),
    *_synthesis("paper2", (16, 64), ("forward", "both")),
    *_synthesis("small64", (4096,), ("forward", "both")),
    *_synthesis("paper3", (16, 64), ("forward", "both"), "bfloat16"),
    *_synthesis("tiny", (4,), ("forward", "both")),
    *_synthesis("tiny2", (4,), ("forward", "both")),
]
QUICK_SYNTHESIS = [
    *_synthesis("quick3", (5,), PASSES),
    *_synthesis("quick2", (5,), ("forward", "both")),
    *_synthesis("quick3", (5,), ("forward", "both"), "bfloat16"),
    *_synthesis("tiny", (4,), ("forward", "both")),
]


def rotation_cases(
    shape: Shape, sizes: tuple[int, ...], passes: tuple[str, ...], dtypes: tuple[str, ...]
) -> list[Case]:
    return [
        Case(shape, n, dtype, pass_, operation, layout)
        for n, dtype, operation, layout, pass_ in product(
            sizes, dtypes, ("rotated_synthesis", "rotation"), ("row", "column"), passes
        )
    ]


def synthesis_cases(
    shapes: list[str], sizes: tuple[int, ...], passes: tuple[str, ...], dtypes: tuple[str, ...]
) -> list[Case]:
    return [
        Case(SHAPES[shape], n, dtype, pass_)
        for shape, dtype, pass_, n in product(shapes, dtypes, passes, sizes)
    ]
