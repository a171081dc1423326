"""Every way to a projection whose output mode lies anywhere in memory, and to its gradients, with
its price, as `prices.py` counts it."""

from __future__ import annotations

import math

from ntensor.backends.native import prices, ways
from ntensor.backends.native.levels import FLOAT32, FLOAT64, Sizes, Split, level_of

# Of the tensor, of which a copy is made with the output mode in front.
MOST_MOVED_BYTES = 32 << 20
# Of an element, of one in a tensor that does not stay in the caches, of what lies behind an index
# of the mode, up to 8 elements and more, and of the call.
MOVE, MOVE_IN_MEMORY, MOVE_SHORT, MOVE_LONG = 0.5, 4.0, 2.0, 9.0
SHORT_CHUNK, MOST_CACHED_BYTES = 8, 4 << 20
MOVE_CALL = 10000.0


def mttkrp(sizes: Sizes, mode: int, by_rows: bool) -> dict[tuple[bool, Split], float]:
    """Of an MTTKRP, the rank in the place of the samples, the shape in that of the extents.

    By whether the mode is the output of a projection, with the modes before it hoisted and those
    behind it in W; else it is a factor's gradient, or a projection of a copy.

    Args:
        sizes: extents of 1 come before the others, but for the mode.
        by_rows: the result is `(R, I_mode)`; else `(I_mode, R)`.
    """
    level, dtype, rank, shape, _, threads, _ = sizes
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
    move = price_of_move(sizes, mode)
    if by_rows and rank > prices.FEW and move is not None:
        for h in range(last):
            paired = prices.is_paired(level, dtype, others, h)
            found[False, Split(h, transposed=1)] = (
                prices.price_of_samples(at, rank, others, shape[mode], h, threads, paired) + move
            )
    return found


def gradients(
    sizes: Sizes, mode: int, needs: tuple[bool, ...]
) -> tuple[dict[bool, float], dict[bool, float]]:
    """Of the gradients of an MTTKRP: those of the matrices, and that of the tensor.

    By whether they are made with the output mode in front, of a copy of the tensor, or of one that
    is then put in order; else as the tensor lies in memory, where the first matrix stands as the
    incoming gradient, and its own gradient is a projection.

    Args:
        sizes: as of `mttkrp`, with extents of 1 anywhere.
        needs: of the tensor and of each matrix.
    """
    needs_tensor, *needed = needs
    needed[mode] = False
    lies, front = _led_by(sizes, 0), _led_by(sizes, mode)
    move = price_of_move(sizes, mode)
    of_tensor = {False: min(ways.core_grad(lies, True, False).values()) if needs_tensor else 0.0}
    of_matrices = {False: _factor_grads(sizes, needed, 0)}
    if needed[0]:
        of_matrices[False] += min(ways.projection(lies, False).values())
    if move is not None:
        if needs_tensor:
            of_tensor[True] = min(ways.core_grad(front, True, False).values()) + move
        of_matrices[True] = _factor_grads(sizes, needed, mode) + move
    return of_matrices, of_tensor


def price_of_move(sizes: Sizes, mode: int) -> float | None:
    """Of a copy of the tensor with a mode in front; None where it is too large for one."""
    elements = math.prod(sizes.extents)
    size = {FLOAT32: 4, FLOAT64: 8}.get(sizes.dtype, 2)
    if elements * size > MOST_MOVED_BYTES:
        return None
    chunk = math.prod(sizes.extents[mode + 1 :])
    each = MOVE if elements * size <= MOST_CACHED_BYTES else MOVE_IN_MEMORY
    each += (MOVE_SHORT if chunk <= SHORT_CHUNK else MOVE_LONG) / chunk
    return each * elements / sizes.threads + MOVE_CALL


def _order(extents: tuple[int, ...], lead: int) -> list[int]:
    """Of the modes behind one that comes first: those of extent 1 before the others."""
    rest = [place for place in range(len(extents)) if place != lead]
    return sorted(rest, key=lambda place: extents[place] != 1)


def _led_by(sizes: Sizes, lead: int) -> Sizes:
    extents = tuple([sizes.extents[place] for place in _order(sizes.extents, lead)])
    return sizes._replace(extents=extents, k_x=sizes.extents[lead])


def _factor_grads(sizes: Sizes, needed: list[bool], lead: int) -> float:
    needs = tuple([needed[place] for place in _order(sizes.extents, lead)])
    if True not in needs:
        return 0.0
    return min(ways.factor_grads(_led_by(sizes, lead), True, False, needs, True).values())
