"""Blocks of matrices: indices, loads, stores and products."""

import triton
import triton.language as tl


@triton.jit
def indices(block, EXTENT: tl.constexpr):
    """The indices of block number `block`."""
    return tl.cast(block, tl.int64) * EXTENT + tl.arange(0, EXTENT)


@triton.jit
def divided(k, V, WIDE: tl.constexpr):
    """`k // V` and `k % V`, by 32-bit division unless indices are `WIDE`."""
    if not WIDE:
        k = k.to(tl.int32)
    quotient = k // V
    return quotient.to(tl.int64), (k - quotient * V).to(tl.int64)


@triton.jit
def of_group(tile, tiles, GROUPED: tl.constexpr):
    """The group and the tile in it of program `tile`, where each of the groups has `tiles`."""
    if GROUPED:
        group = tile // tiles
        tile -= group * tiles
    else:
        group = tl.cast(0, tl.int32)
    return group.to(tl.int64), tile


@triton.jit
def load(base, rows, cols, row_stride, col_stride, row_count, col_count):
    """Elements `(rows, cols)` of a matrix, 0 outside of it."""
    mask = (rows[:, None] < row_count) & (cols[None, :] < col_count)
    return tl.load(base + rows[:, None] * row_stride + cols[None, :] * col_stride, mask, other=0)


@triton.jit
def load_vector(base, places, stride, count):
    return tl.load(base + places * stride, places < count, other=0)


@triton.jit
def store(base, value, rows, cols, row_stride, col_stride, row_count, col_count):
    """Writes the elements `(rows, cols)` that lie inside, rounded to the type of the matrix."""
    mask = (rows[:, None] < row_count) & (cols[None, :] < col_count)
    places = base + rows[:, None] * row_stride + cols[None, :] * col_stride
    tl.store(places, value.to(base.dtype.element_ty), mask)


@triton.jit
def multiply(a, b, acc, PRECISION: tl.constexpr):
    """`acc + a b`, accumulated in the type of `acc`.

    Tensor cores cut their float32 sums toward zero. Three products of TF32 are added outside of
    them; for half types and TF32 a chain of 10^5 terms loses less than the result's last digit.
    "widened" is for Triton's interpreter, whose product of bfloat16 is wrong.
    """
    if PRECISION == "widened":
        a, b = a.to(tl.float32), b.to(tl.float32)
        return tl.dot(a, b, acc, input_precision="ieee", out_dtype=acc.dtype)
    return tl.dot(a, b, acc, input_precision=PRECISION, out_dtype=acc.dtype)
