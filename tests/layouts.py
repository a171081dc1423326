"""Ways to lay a tensor out in memory, each with the mistake that it would show."""

import math

import torch


def randn(shape, dtype, generator):
    return torch.randn(shape, generator=generator).to(dtype)


def contiguous(shape, dtype, generator):
    """The plain case."""
    return randn(shape, dtype, generator)


def offset(shape, dtype, generator):
    """Contiguous, but not aligned to a vector: NaN before and after."""
    numel = math.prod(shape)
    buffer = torch.full((numel + 6,), math.nan, dtype=dtype)
    buffer[3 : 3 + numel] = randn((numel,), dtype, generator)
    return buffer[3 : 3 + numel].view(shape)


def transposed(shape, dtype, generator):
    """Column stacking, as the paper writes it: the sample is the fastest index."""
    return randn(tuple(reversed(shape)), dtype, generator).permute(*reversed(range(len(shape))))


def sliced(shape, dtype, generator):
    """A window of a larger buffer of NaN: a read past any edge of a row shows."""
    buffer = torch.full([s + 5 for s in shape], math.nan, dtype=dtype)
    window = buffer[tuple(slice(2, 2 + s) for s in shape)]
    return window.copy_(randn(shape, dtype, generator))


def stepped(shape, dtype, generator):
    """Every second column, NaN between: the stride of the last dimension is not 1."""
    buffer = torch.full((*shape[:-1], 2 * shape[-1] + 1), math.nan, dtype=dtype)
    return buffer[..., 1::2].copy_(randn(shape, dtype, generator))


def expanded_rows(shape, dtype, generator):
    """One row for all samples: stride 0 in the batch."""
    return randn((1, *shape[1:]), dtype, generator).expand(shape)


def expanded_columns(shape, dtype, generator):
    """One value a sample: stride 0 in the last dimension."""
    return randn((*shape[:-1], 1), dtype, generator).expand(shape)


def expanded(shape, dtype, generator):
    """One value in all: what `y.sum().backward()` sends in."""
    return randn((1,) * len(shape), dtype, generator).expand(shape)


def overlapping(shape, dtype, generator):
    """Rows that share elements: all strides are 1."""
    buffer = randn((sum(shape) + 1,), dtype, generator)
    return buffer.as_strided(shape, (1,) * len(shape))


LAYOUTS = {
    f.__name__: f
    for f in (
        contiguous,
        offset,
        transposed,
        sliced,
        stepped,
        expanded_rows,
        expanded_columns,
        expanded,
        overlapping,
    )
}

OVERLAPPING = ("expanded_rows", "expanded_columns", "expanded", "overlapping")
DENSE = ("contiguous", "offset")  # what the core may be: contiguous, at any place in its buffer


def make(layout, shape, dtype, generator):
    return LAYOUTS[layout](tuple(shape), dtype, generator)
