"""The cases of the benchmarks, as data: shapes, sizes, passes, and the lists that are run.

Symbols: n samples, core `(k_x, k_1, ..., k_M)`, `K = k_1 ... k_M`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import product

PASSES = ("forward", "backward", "both", "mean", "mean-both", "factor-grads", "core-grad")
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

    `operation` is "synthesis_projection", "synthesis", "rotation", "rotated_synthesis", or a whole
    layer, "tucker" or "fusion"; `layout` is the rotation's; `pass_` is one of `PASSES`. `autotune`:
    torch.compile's max-autotune, which takes minutes, is measured too.
    """

    shape: Shape
    n: int
    dtype: str = "float32"
    pass_: str = "forward"
    operation: str = "synthesis_projection"
    layout: str = ""
    autotune: bool = False

    @property
    def only_backward(self) -> bool:
        """Whether the forward pass is not timed."""
        return self.pass_ in ("backward", "factor-grads", "core-grad")

    @property
    def differentiates(self) -> bool:
        return self.only_backward or self.pass_ in ("both", "mean-both")

    @property
    def core_grad(self) -> bool:
        """Whether the core's gradient is among what is computed."""
        projects = self.operation == "synthesis_projection"
        return projects and self.differentiates and self.pass_ != "factor-grads"

    @property
    def factor_grads(self) -> bool:
        return self.differentiates and self.pass_ != "core-grad"

    @property
    def mean(self) -> bool:
        return self.pass_ in ("mean", "mean-both")

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs that are checked: none where only backward is timed."""
        if self.only_backward:
            return ()
        return ("output", "output_mean") if self.mean else ("output",)

    @property
    def title(self) -> str:
        sizes = "x".join(map(str, self.shape.factor_sizes))
        what = {
            "both": "forward + backward",
            "mean": "forward, mean output too",
            "mean-both": "forward + backward, mean output too",
            "factor-grads": "gradients of the factors",
            "core-grad": "gradient of the core",
        }.get(self.pass_, self.pass_)
        if self.operation == "synthesis_projection":
            way = f"{len(self.shape.factor_sizes)}-way"
            where = f"{way}, k_x {self.shape.out_features}, {sizes}"
        else:
            layout = f"{self.layout} layout, " if self.layout else ""
            where = f"{self.operation}, {layout}{sizes}"
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
BILINEAR_SHAPES = _shapes(
    Shape("square64", 64, (64, 64)),
    Shape("square256", 256, (256, 256)),
    SHAPES["paper2"],
    Shape("tiny8", 8, (8, 8)),
    Shape("quick", 6, (5, 7)),
)
CONSUMER_SHAPES = _shapes(
    Shape("tucker-fb15k237", 200, (200, 200)),
    Shape("tucker-wn18rr", 200, (30, 200)),
    Shape("fusion", 128, (129, 33, 33)),
    Shape("tucker-quick", 6, (4, 6)),
    Shape("fusion-quick", 5, (4, 3, 3)),
)
ROTATION_SHAPES = _shapes(Shape("paper", 0, (15, 80)), Shape("quick", 0, (6, 10)))


def _synthesis(shape: str, sizes: tuple[int, ...], passes: tuple[str, ...], dtype="float32"):
    return [Case(SHAPES[shape], n, dtype, p) for p, n in product(passes, sizes)]


DEFAULT_SYNTHESIS = _synthesis("paper3", (16,), ("forward", "both")) + _synthesis(
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
    *_synthesis("quick3", (5,), PASSES[:5]),
    *_synthesis("quick2", (5,), ("forward", "both")),
    *_synthesis("quick3", (5,), ("forward", "both"), "bfloat16"),
    *_synthesis("tiny", (4,), ("forward", "both")),
]

DEFAULT_BILINEAR = [
    Case(BILINEAR_SHAPES["square64"], n, pass_=p) for p in ("forward", "both") for n in (32, 512)
]
FULL_BILINEAR = [
    Case(BILINEAR_SHAPES[shape], n, pass_=p)
    for shape, sizes in (
        ("square64", (32, 128, 512, 2048, 4096)),
        ("square256", (128,)),
        ("paper2", (16,)),
        ("tiny8", (4,)),
    )
    for p in ("forward", "both")
    for n in sizes
]

GPU_SIZES = (16, 64, 256, 1024, 4096)
GPU_DTYPES = ("bfloat16", "float32")
GPU_PASSES = ("forward", "factor-grads", "core-grad", "mean", "both", "mean-both")


def _gpu_synthesis() -> list[Case]:
    """What the targets speak of comes first, for runs that end before the list does."""
    autotuned = [
        replace(case, autotune=True)
        for case in (
            *_synthesis("paper3", (64, 1024), ("mean-both",), "bfloat16"),
            *_synthesis("paper3", (64, 1024), ("forward",), "bfloat16"),
        )
    ]
    first = [
        *_synthesis("paper3", (16, 64), ("forward", "factor-grads"), "bfloat16"),
        *_synthesis("paper3", (4096,), ("forward",), "bfloat16"),
        *_synthesis("paper3", (64, 1024, 4096), ("mean",), "bfloat16"),
        *_synthesis("paper3", (64,), ("core-grad",), "bfloat16"),
        *_synthesis("paper3", (16, 64), ("forward", "factor-grads")),
        *_synthesis("paper3", (64,), ("core-grad",)),
        *_synthesis("paper2", (64,), ("forward",), "bfloat16"),
        *_synthesis("paper2", (64,), ("forward",)),
        *_synthesis("tiny", (4,), ("forward", "both")),
        *_synthesis("paper3", (4096,), ("both",), "bfloat16"),
        *_synthesis("paper3", (64, 1024), ("mean-both", "forward"), "bfloat16"),
    ]
    rest = [
        *(
            case
            for dtype in GPU_DTYPES
            for case in _synthesis("paper3", GPU_SIZES, GPU_PASSES, dtype)
        ),
        *_synthesis("paper2", (16, 64), ("forward", "both"), "bfloat16"),
        *_synthesis("paper2", (16,), ("forward",)),
    ]
    tuned = {replace(case, autotune=False): case for case in autotuned}
    return [tuned.get(case, case) for case in dict.fromkeys([*first, *rest])]


DEFAULT_GPU_SYNTHESIS = _synthesis("paper3", (64, 1024), ("forward", "both"), "bfloat16")
FULL_GPU_SYNTHESIS = _gpu_synthesis()
QUICK_GPU_SYNTHESIS = [
    *QUICK_SYNTHESIS,
    *_synthesis("quick3", (5,), ("factor-grads", "core-grad")),
    *_synthesis("quick3", (70,), ("forward", "both", "mean-both"), "bfloat16"),
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


def plain_synthesis_cases(
    shape: Shape, sizes: tuple[int, ...], passes: tuple[str, ...], dtypes: tuple[str, ...]
) -> list[Case]:
    """The feature alone: no core, no rotation."""
    return [
        Case(shape, n, dtype, pass_, "synthesis")
        for n, dtype, pass_ in product(sizes, dtypes, passes)
    ]


def synthesis_cases(
    shapes: list[str], sizes: tuple[int, ...], passes: tuple[str, ...], dtypes: tuple[str, ...]
) -> list[Case]:
    return [
        Case(SHAPES[shape], n, dtype, pass_)
        for shape, dtype, pass_, n in product(shapes, dtypes, passes, sizes)
    ]
