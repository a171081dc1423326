"""What plans depend on, what they choose, and what every SIMD level has and costs."""

from __future__ import annotations

import functools
from typing import NamedTuple

Extents = tuple[int, ...]

FLOAT32, FLOAT64, BFLOAT16, FLOAT16 = range(4)

# Of every SIMD level: bytes of a vector, vectors of the widest tile, and of a square one.
_VECTORS = {
    "avx512bf16": (64, 4, 3),
    "avx512": (64, 4, 3),
    "emulated": (64, 4, 3),
    "avx2": (32, 2, 2),
    "portable": (16, 2, 2),
}
_OF_ARM = (16, 4, 3)
# Of the lanes of a vector, added up; of a sample whose dW is folded into one factor, and into
# several. By bytes of a vector: 64, and fewer.
_WIDE, _NARROW = (6.0, 250.0, 350.0), (6.0, 450.0, 1100.0)
# Of an element that fills no vector; 0 where an instruction loads the part of a vector.
_LEFT = 0.5


class Sizes(NamedTuple):
    """What a plan depends on: the SIMD level, or `plans.CUDA`; the number of the dtype; samples,
    extents and rows of the core; threads; such problems that a thread solves in one call."""

    level: str
    dtype: int
    n: int
    extents: Extents
    k_x: int
    threads: int
    problems: int = 1


class Split(NamedTuple):
    """`Split` of csrc/cpu/api.h."""

    hoisted: int = 0
    output_inside: int = 0
    few: int = 0
    transposed: int = 0


# By plain products of torch, with the synthesis of the batch or its derivative formed in between.
PRODUCT = Split(-1)
# The mean output by a core of its own, the mean over the leading extent, and the rest without it.
MEAN_APART = Split(-2)
# Both outputs by one projection of twice as many samples, half of them with 1 / k_1 for z_1.
MEAN_BESIDE = Split(-3)


class Level(NamedTuple):
    lanes: int
    wide: int
    square: int
    widen: float  # price of widening a vector of stored elements
    left: float
    sum: float
    sample_of_one: float
    sample: float


@functools.cache
def level_of(name: str, dtype: int) -> Level:
    size, wide, square = _VECTORS.get(name, _OF_ARM)
    widen = 2.0 if dtype in (BFLOAT16, FLOAT16) else 0.0
    left = 0.0 if size == 64 or (size == 32 and not widen) else _LEFT
    costs = _WIDE if size == 64 else _NARROW
    return Level(size // (8 if dtype == FLOAT64 else 4), wide, square, widen, left, *costs)


class Torch(NamedTuple):
    """Torch's own product of matrices, for cores that lie in the caches: the price of a vector
    multiply-add, of a vector of the result and of one of the core, the fewest samples, of one
    problem and of each of several, and columns that it is fast at, and whether it may be faster for
    the core's gradient too."""

    multiply: float
    result: float
    core: float
    samples: int
    samples_of_each: int
    columns: int
    core_grad: bool


_TORCH_512 = Torch(1.25, 14.0, 8.0, 2, 1, 4, False)
# Where it may be faster than the kernels.
TORCH = {
    "avx2": Torch(1.05, 0.0, 0.0, 8, 8, 12, True),
    "avx512": _TORCH_512,
    "avx512bf16": _TORCH_512,
}
