"""The sizes that hurt, each with its reason. Slabs hold 64 samples, hoisting leaves an inner extent
of about 1000 or more, vectors hold up to 16 floats or 32 half floats."""

import math
from typing import NamedTuple


class Projection(NamedTuple):
    n: int
    k_x: int
    sizes: tuple[int, ...]
    why: str

    def __str__(self):
        return f"{self.n}-{self.k_x}-{'x'.join(map(str, self.sizes))[:20]}"


class Rotation(NamedTuple):
    n: int
    k_exp: int
    k_id: int
    why: str

    def __str__(self):
        return f"{self.n}-{self.k_exp}x{self.k_id}"


PROJECTION = [
    Projection(0, 5, (2, 3, 4), "no samples"),
    Projection(1, 1, (1,), "every extent 1, one factor"),
    Projection(1, 1, (1, 1, 1), "every extent 1: no factor is left after dropping"),
    Projection(4, 0, (2, 3), "no outputs"),
    Projection(4, 3, (2, 0, 3), "an empty factor in the middle: zeros, not what was in memory"),
    Projection(4, 3, (0, 3), "an empty leading factor: 1/k_1 has no value"),
    Projection(3, 2, (0,), "an empty only factor"),
    Projection(0, 0, (0,), "nothing at all"),
    Projection(3, 6, (1, 5, 1, 4, 1), "extents of 1 at both ends and between"),
    Projection(3, 6, (5, 1), "one factor is left"),
    Projection(3, 6, (1, 7), "the leading factor is dropped, its mean is another output"),
    Projection(3, 6, (1, 1, 7), "two leading factors are dropped"),
    Projection(7, 9, (6,), "one factor: a matrix product"),
    Projection(63, 7, (3, 5, 7), "one below a slab and a vector"),
    Projection(64, 48, (8, 64), "multiples of every vector and tile: no remainder anywhere"),
    Projection(65, 17, (2, 5, 11), "one over a slab"),
    Projection(129, 5, (3, 7), "two slabs and one sample"),
    Projection(300, 13, (3, 10), "several slabs and a remainder"),
    Projection(33, 33, (3, 33), "one over the vector in every dimension"),
    Projection(17, 300, (3, 4, 5), "more rows than one block of outputs"),
    Projection(3, 4, (2, 2, 2, 2, 2, 2), "six factors"),
    Projection(66, 3, (2, 15, 80), "hoisted, with a second slab of two samples"),
    Projection(16, 97, (2, 1000), "an inner extent at the threshold, whole blocks of samples"),
    Projection(3, 2, (2,) * 12, "twelve factors of two"),
]

# In Triton's interpreter these take the longest, and no branch that the shapes above do not take.
LARGE = [
    Projection(1, 12, (9, 15, 80), "the sizes of the paper, one sample"),
    Projection(16, 7, (9, 15, 80), "the sizes of the paper: the leading factor is hoisted"),
    Projection(3, 7, (3, 1024), "an inner extent of whole panels"),
    Projection(3, 7, (3, 1025), "an inner extent of whole panels and one column"),
    Projection(33, 7, (2, 2600), "an inner extent of several panels, one sample over a vector"),
    Projection(2, 5, (2, 3, 7, 11, 13), "a prefix of two factors is hoisted: 7*11*13 = 1001"),
    Projection(6, 3, (2, 1, 3, 1, 1200), "a hoisted prefix with extents of 1 inside"),
    Projection(19, 31, (1500,), "one factor over the threshold: nothing to hoist"),
    Projection(5, 3, (2, 3, 700), "inner factors too long to be gathered for a slab, two of them"),
    Projection(3, 2, (2, 2, 2, 600), "the same with three of them"),
    Projection(3, 2, (67, 1000), "more hoisted indices than parts of a sum, and one is left over"),
    Projection(2, 2, (1100, 2), "the same where nothing is hoisted"),
    Projection(
        3, 2, (1,) * 50 + (2, 3) + (1,) * 8, "sixty factors, nearly as many as torch allows"
    ),
    Projection(2, 3, (4097,), "one long factor, one over a power of two"),
    Projection(5, 97, (7, 11, 13), "primes; the inner extents are too small to hoist"),
    Projection(5, 1, (3, 1009), "one output; a prime inner extent over the threshold"),
    Projection(3, 7, (3, 999), "an inner extent just below the threshold"),
    Projection(65, 300, (3, 4, 5), "more rows than are kept at a time, for two slabs"),
    Projection(2049, 5, (3, 4), "thousands of samples: the core's gradient adds up many blocks"),
]

LONG = [
    Projection(3, 2, (150, 1000), "more hoisted indices than are kept at a time"),
    Projection(2, 2, (13000, 2), "a factor too long for a slab of more than one sample"),
]
PROJECTION += LARGE + LONG

# In Triton's interpreter these take seconds, float32 for the other dtypes.
ONCE = [
    shape
    for shape in PROJECTION
    if (shape.n, shape.sizes) in ((66, (2, 15, 80)), (16, (2, 1000)), (3, (2,) * 12))
    or shape.sizes.count(1) > 50
]

SYNTHESIS = [
    *(
        Projection(s.n, 0, s.sizes, s.why)
        for s in PROJECTION
        if s.k_x and s.n * math.prod(s.sizes) < 10**5
    ),
    Projection(257, 0, (1, 1, 31), "many rows of one factor: a copy, never a view"),
]

ROTATION = [
    Rotation(0, 3, 4, "no samples"),
    Rotation(1, 3, 1, "the smallest row form: K = 3"),
    Rotation(1, 1, 3, "K = 3 although 3 does not divide k_exp"),
    Rotation(2, 0, 5, "an empty factor"),
    Rotation(2, 5, 0, "the other factor empty"),
    Rotation(63, 3, 5, "3 divides k_exp: the rotation acts on z_exp alone"),
    Rotation(65, 5, 3, "3 divides k_id only: the rows of the 3 x K/3 matrix cut through z_exp"),
    Rotation(7, 2, 9, "K/3 = 6 is below k_id: a third ends inside a row of k_id"),
    Rotation(5, 4, 15, "a third is 20: one row of k_id and a third of the next"),
    Rotation(16, 15, 80, "the sizes of the paper"),
    Rotation(3, 6, 7, "thirds of 14: no multiple of a vector"),
    Rotation(17, 9, 16, "whole vectors and no remainder"),
    Rotation(4, 1, 1023, "one long row"),
    Rotation(4, 1023, 1, "one long column"),
    Rotation(2, 33, 97, "a prime k_id, several vectors and one"),
]

# As above.
ONCE_ROTATED = [shape for shape in ROTATION if shape.n * shape.k_exp * shape.k_id > 10**4]

MTTKRP = [
    ((2, 3), 4, "two modes"),
    ((3, 1, 4), 5, "an extent of 1"),
    ((1, 1, 1), 1, "every extent 1"),
    ((4, 5, 6), 0, "rank 0"),
    ((4, 0, 3), 2, "an empty mode: zeros"),
    ((5, 7, 11), 3, "primes"),
    ((2, 3, 2, 3, 2), 63, "five modes, rank one below a slab"),
    ((3, 33, 40), 65, "a hoisted leading mode, rank one over a slab"),
]
