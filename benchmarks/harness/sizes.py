"""Kinds of the cases of `sweep.py`, and their random sizes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from random import Random

BOTH = "-both"  # forward + backward of all operands
KINDS = (
    *("forward", "both", "bilinear", "bilinear-both", "mean", "mean-both"),
    *("synthesis", "synthesis-both", "rotated", "rotated-both"),
    *("mttkrp", "mttkrp-weights", "mttkrp-all"),
    *("einsum", "einsum-both", "permuted", "permuted-both"),
    *("grouped", "grouped-both"),
)
SPELLED = ("einsum", "permuted")  # whose operands are stored as the labels of an equation say
WITH_K_X = (
    *("forward", "both", "bilinear", "bilinear-both", "mean", "mean-both"),
    *("einsum", "einsum-both", "permuted", "permuted-both"),
    *("grouped", "grouped-both"),
)
GROUPED = ("grouped", "grouped-both")


@dataclass(frozen=True)
class Limits:
    elements: int  # of the cores, of the synthesis of the batch, and of the result
    products: int  # n k_x K, of all groups


FULL, QUICK = Limits(1 << 23, 1 << 30), Limits(1 << 16, 1 << 20)


@dataclass(frozen=True)
class Sizes:
    """`n` is the rank of an MTTKRP; `k_x` is 1 where an operation has none.

    `layout` is the rotation's, or the equation whose labels say how the operands are stored.
    """

    n: int
    extents: tuple[int, ...]
    k_x: int = 1
    mode: int = 0
    layout: str = ""
    groups: int = 1

    @property
    def is_bilinear(self) -> bool:
        return len(self.extents) == 2

    def within(self, limits: Limits) -> bool:
        K = math.prod(self.extents)
        most = self.groups * max(self.n * K, self.k_x * K, self.n * self.k_x)
        products = self.groups * self.n * self.k_x * K
        return most <= limits.elements and products <= limits.products


def differentiates(kind: str) -> bool:
    return kind.endswith("both")


def draw(kind: str, source: Random, limits: Limits) -> Sizes:
    """Log-uniform extents, samples, rows and groups, made smaller at random until they fit."""

    def size(most: int) -> int:
        return round(math.exp(source.uniform(0, math.log(most))))

    base = kind.removesuffix(BOTH)
    if base.startswith("mttkrp"):
        order = source.randint(3, 4)
    elif base == "grouped":
        order = source.randint(2, 3)
    else:
        order = 2 if base in ("bilinear", "rotated") else source.randint(2, 4)
    extents = [size(700) for _ in range(order)]
    n = size(64 if base.startswith("mttkrp") else 4096)
    mode = source.randrange(order) if base.startswith("mttkrp") else 0
    k_x = size(4000) if kind in WITH_K_X else 1
    layout = source.choice(("row", "column")) if base == "rotated" else ""
    groups = size(64) if kind in GROUPED else 1
    spelled = base in SPELLED
    if layout:
        which = source.randrange(order)
        extents[which] = max(3, extents[which] // 3 * 3)
    while True:
        sizes = Sizes(n, tuple(extents), k_x, mode, layout, groups)
        if sizes.within(limits):
            return replace(sizes, layout=_spelling(base, order, source)) if spelled else sizes
        place = source.randrange(order + (3 if kind in GROUPED else 2))
        if place == order:
            n = max(1, n * 2 // 3)
        elif place == order + 2:
            groups = max(1, groups * 2 // 3)
        elif place > order:
            k_x = max(1, k_x * 2 // 3)
        elif layout and place == which:
            extents[place] = max(3, extents[place] * 2 // 9 * 3)
        else:
            extents[place] = max(1, extents[place] * 2 // 3)


def _spelling(base: str, order: int, source: Random) -> str:
    """An equation of a projection in letters of `abcd`, samples `n` and rows `x`.

    "permuted": the core's modes are in another order than the library's; "einsum": all labels and
    operands are in any.
    """
    modes = "abcd"[:order]
    core = plain = "x" + modes
    while core == plain:
        core = _shuffled(plain, source)
    terms, output = ["n" + mode for mode in modes], "nx"
    if base == "permuted":
        return f"{','.join([core, *terms])}->{output}"
    terms = source.sample([core, *(_shuffled(term, source) for term in terms)], order + 1)
    return f"{','.join(terms)}->{_shuffled(output, source)}"


def _shuffled(text: str, source: Random) -> str:
    return "".join(source.sample(text, len(text)))
