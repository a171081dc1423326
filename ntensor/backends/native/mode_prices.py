"""Every way to a projection whose output mode lies anywhere in memory, with its price.

In one pass over the tensor, as `prices.py` counts it.
"""

from __future__ import annotations

import math

from ntensor.backends.native import prices
from ntensor.backends.native.prices import Sizes, Split, level_of

# Of the core, of which a copy is made with the output mode in front.
MOST_MOVED_BYTES = 8 << 20


def mttkrp(sizes: Sizes, mode: int, by_rows: bool) -> dict[tuple[bool, Split], float]:
    """Of an MTTKRP, the rank in the place of the samples, the shape in that of the extents.

    By whether the mode is the output of a projection, with the modes before it hoisted and those
    behind it in W; else it is a factor's gradient, or a projection of a copy.

    Args:
        sizes: extents of 1 come before the others, but for the mode.
        by_rows: the result is `(R, I_mode)`; else `(I_mode, R)`.
    """
    level, dtype, rank, shape, _, threads = sizes
    at = level_of(level, dtype)
    last = len(shape) - 1
    others = shape[:mode] + shape[mode + 1 :]
    found: dict[tuple[bool, Split], float] = {}
    for h in range(last) if mode == 0 else range(mode, mode + (mode < last)):
        paired = prices.is_paired(level, dtype, others, h)
        split = Split(h, output_inside=int(mode > 0), transposed=int(not by_rows))
        found[True, split] = prices.price_of_samples(
            at, rank, others, shape[mode], h, threads, paired
        )
        if rank <= prices.FEW:
            split = split._replace(few=1)
            found[True, split] = prices.price_of_few(at, rank, others, shape[mode], h, threads)
    if mode == 0:
        return found
    leading = next(place for place, extent in enumerate(shape) if extent != 1)
    extents = shape[:leading] + shape[leading + 1 :]
    for h in range(mode):
        found[False, Split(h)] = prices.price_of_inner_grads(
            at, rank, extents, shape[leading], h, 1, threads
        )
    elements = math.prod(shape)
    if by_rows and rank > prices.FEW and elements * _bytes(dtype) <= MOST_MOVED_BYTES:
        for h in range(last):
            paired = prices.is_paired(level, dtype, others, h)
            found[False, Split(h, transposed=1)] = (
                prices.price_of_samples(at, rank, others, shape[mode], h, threads, paired)
                + prices.MOVE * elements / threads
            )
    return found


def _bytes(dtype: int) -> int:
    return {prices.FLOAT32: 4, prices.FLOAT64: 8}.get(dtype, 2)
