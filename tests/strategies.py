"""Hypothesis strategies: sizes, dtypes, layouts, inputs that need gradients, outputs that count."""

import math
from typing import NamedTuple

import torch
from hypothesis import strategies as st

from layouts import DENSE, LAYOUTS, make
from tolerances import DTYPES

layouts = st.sampled_from(sorted(LAYOUTS))
dtypes = st.sampled_from(DTYPES)
samples = st.one_of(st.integers(0, 9), st.sampled_from([16, 31, 63, 64, 65, 130]))
EXTENTS = (*range(10), 11, 16, 17, 32, 63, 64, 65)
extents = st.sampled_from(EXTENTS)
backends = st.sampled_from(["native", "reference"])


class Problem(NamedTuple):
    """Inputs, incoming gradients (None: the output takes no part), inputs to differentiate."""

    inputs: list[torch.Tensor]
    cotangents: list[torch.Tensor | None]
    needs: list[bool]


@st.composite
def factor_sizes(draw, largest=4096):
    """One to six extents, whose product is at most `largest` where each 0 counts as 1."""
    sizes, room = [], largest
    for _ in range(draw(st.integers(1, 6))):
        sizes.append(draw(st.sampled_from([k for k in EXTENTS if k <= room])))
        room //= max(sizes[-1], 1)
    return tuple(sizes)


@st.composite
def problems(draw, input_shapes, output_shapes, dense=()):
    """Tensors of the given shapes in drawn layouts; the inputs in `dense` stay contiguous."""
    dtype = draw(dtypes)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    inputs = [
        make(draw(st.sampled_from(DENSE) if i in dense else layouts), shape, dtype, generator)
        for i, shape in enumerate(input_shapes)
    ]
    used = draw(st.sets(st.sampled_from(range(len(output_shapes))), min_size=1))
    cotangents = [
        make(draw(layouts), shape, dtype, generator) if place in used else None
        for place, shape in enumerate(output_shapes)
    ]
    needs = draw(st.lists(st.booleans(), min_size=len(inputs), max_size=len(inputs)))
    return Problem(inputs, cotangents, needs)


@st.composite
def synthesis_problems(draw):
    n, sizes = draw(samples), draw(factor_sizes())
    return draw(problems([(n, k) for k in sizes], [(n, math.prod(sizes))]))


@st.composite
def projection_problems(draw, outputs=1):
    n, k_x, sizes = draw(samples), draw(extents), draw(factor_sizes())
    shapes = [(k_x, *sizes), *((n, k) for k in sizes)]
    return draw(problems(shapes, [(n, k_x)] * outputs, dense={0}))


@st.composite
def rotation_problems(draw):
    n, K = draw(samples), 3 * draw(st.integers(0, 50))
    return draw(problems([(n, K), (n, 3, 3)], [(n, K)]))


@st.composite
def rotated_synthesis_problems(draw):
    n, k_exp, k_id = draw(samples), draw(extents), draw(extents)
    if k_exp * k_id % 3:
        k_id *= 3
    return draw(problems([(n, k_exp), (n, k_id), (n, 3, 3)], [(n, k_exp * k_id)]))


@st.composite
def mttkrp_problems(draw):
    """The tensor, then the factors of the other modes; and the mode, negative ones too."""
    sizes = tuple(draw(st.lists(st.integers(0, 9), min_size=2, max_size=4)))
    rank, mode = draw(samples), draw(st.integers(-len(sizes), len(sizes) - 1))
    others = [k for m, k in enumerate(sizes) if m != mode % len(sizes)]
    shapes = [sizes, *((k, rank) for k in others)]
    return draw(problems(shapes, [(sizes[mode], rank)], dense={0})), mode


@st.composite
def bilinear_problems(draw):
    leading = tuple(draw(st.lists(st.integers(0, 5), min_size=0, max_size=3)))
    k_1, k_2, k_x = draw(extents), draw(extents), draw(extents)
    shapes = [(*leading, k_1), (*leading, k_2), (k_x, k_1, k_2)]
    if draw(st.booleans()):
        shapes.append((k_x,))
    return draw(problems(shapes, [(*leading, k_x)], dense={2}))
