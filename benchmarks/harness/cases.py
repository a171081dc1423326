"""What a case of the benchmarks is; the commands list theirs.

Symbols: n samples, core `(k_x, k_1, ..., k_M)`, `K = k_1 ... k_M`.
"""

from __future__ import annotations

import math
import string
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

PASSES = ("forward", "backward", "both", "mean", "mean-both", "factor-grads", "core-grad")
DTYPES = ("float32", "float64", "bfloat16", "float16")
ITEM_BYTES = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Shape:
    """Extents of one problem; `out_features` (k_x) is 0 where there is no core.

    `title` says what has these extents.
    """

    name: str
    out_features: int
    factor_sizes: tuple[int, ...]
    title: str = ""

    @property
    def features(self) -> int:
        return math.prod(self.factor_sizes)


@dataclass(frozen=True)
class Case:
    """One table: every method computes the same thing.

    `operation` is "synthesis_projection", "synthesis", "rotation", "rotated_synthesis", or a whole
    layer, "tucker" or "fusion"; `layout` is the rotation's, or the equation of a layer as its users
    write it; `pass_` is one of `PASSES`. `autotune`: torch.compile's max-autotune, which takes
    minutes, is measured too.
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
        extents = self.shape.factor_sizes
        sizes = "x".join(map(str, extents))
        if len(extents) > 4 and len(set(extents)) == 1:
            sizes = f"{extents[0]}^{len(extents)}"
        what = {
            "both": "forward + backward",
            "mean": "forward, mean output too",
            "mean-both": "forward + backward, mean output too",
            "factor-grads": "gradients of the factors",
            "core-grad": "gradient of the core",
        }.get(self.pass_, self.pass_)
        if self.operation == "synthesis_projection":
            where = f"{len(extents)}-way, k_x {self.shape.out_features}, {sizes}"
        else:
            layout = f"{self.layout} layout, " if self.layout else ""
            where = f"{self.operation}, {layout}{sizes}"
        if self.shape.title:
            where = f"{self.shape.title}: {where}"
        return f"{where}, n = {self.n}, {self.dtype}, {what}"


def by_name(*shapes: Shape) -> dict[str, Shape]:
    return {shape.name: shape for shape in shapes}


SHAPES = by_name(
    Shape("paper3", 12288, (9, 15, 80)),
    Shape("paper2", 28125, (15, 80)),
    Shape("small64", 64, (9, 15, 80)),
    Shape("small512", 512, (9, 15, 80)),
    Shape("tiny", 4, (2, 3, 4)),
    Shape("tiny2", 4, (3, 4)),
    Shape("quick3", 192, (3, 5, 16)),
    Shape("quick2", 320, (6, 16)),
)
# Of features, without a core.
FEATURE_SHAPES = by_name(Shape("paper", 0, (15, 80)), Shape("quick", 0, (6, 10)))
# Operations on features with their layouts; the first is the feature alone, without a rotation.
PLAIN = [("synthesis", "")]
ROTATIONS = [*product(("rotated_synthesis", "rotation"), ("row", "column"))]


def projections(
    shape: Shape | str,
    sizes: Iterable[int],
    passes: Iterable[str],
    dtypes: Iterable[str] = ("float32",),
) -> list[Case]:
    """Every dtype, pass and number of samples, in this order; a name is one of `SHAPES`."""
    shape = SHAPES[shape] if isinstance(shape, str) else shape
    return [Case(shape, n, dtype, pass_) for dtype, pass_, n in product(dtypes, passes, sizes)]


def plain_equation(order: int) -> str:
    """That of a projection by `order` factors, stored as the library's."""
    letters = (string.ascii_lowercase + string.ascii_uppercase).replace("n", "").replace("x", "")
    modes = letters[:order]
    return f"x{modes},{','.join('n' + mode for mode in modes)}->nx"
