"""A z-buffer rasteriser for batches of small triangles, in plain tensor operations."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

# Tolerance in barycentric weight for samples outside a triangle. It prevents gaps by rounding
# between triangles that share an edge.
_MARGIN = 1e-4
_DEPTH_STEPS = 2**24
# Smallest area of a triangle that is drawn, in square samples.
_LEAST_AREA = 1e-9
Plane = tuple[Tensor, Tensor, Tensor]


@dataclasses.dataclass(frozen=True)
class Fragments:
    """The `k` samples that a surface covers.

    Attributes:
        position (Tensor[k], int64): index into the flattened `(batch, size, size)` samples, top
            row first.
        image (Tensor[k], int64): index in the batch.
        triangle (Tensor[k], int64)
        weights (Tensor[k, 3]): barycentric, >= 0, sum 1.
    """

    position: Tensor
    image: Tensor
    triangle: Tensor
    weights: Tensor

    def interpolate(self, values: Tensor, triangles: Tensor) -> Tensor:
        """Interpolates vertex values at the samples.

        Args:
            values (Tensor[batch, V, C])
            triangles (Tensor[T, 3], int64): the rasterised triangles.

        Returns:
            Tensor[k, C]: each column is contiguous. This is fastest if the columns of `values` and
            `triangles` are contiguous, too.
        """
        planes = values.movedim(2, 0).flatten(1)  # (C, batch * V)
        result = values.new_empty(len(planes), len(self.triangle))
        for k, corner in enumerate(triangles.t()):
            row = corner.contiguous().index_select(0, self.triangle)
            if len(values) > 1:
                row += self.image * values.shape[1]
            weight = self.weights[:, k].contiguous()
            for total, plane in zip(result, planes, strict=True):
                if k:
                    total.addcmul_(plane.index_select(0, row), weight)
                else:
                    torch.mul(plane.index_select(0, row), weight, out=total)
        return result.t()


def rasterise(points: Tensor, triangles: Tensor, size: int) -> Fragments:
    """Finds the nearest front-facing triangle at each sample.

    Args:
        points (Tensor[batch, V, 3]): x to the right and y UP, in samples from the lower left
            corner of the picture; z towards the camera. Sample i has its centre at i + 0.5.
        triangles (Tensor[T, 3], int64): counter-clockwise seen from the visible side; back faces
            are not drawn.
        size (int): samples per side.

    Returns:
        Fragments: not differentiable with respect to `points`.

    Raises:
        ValueError: wrong shape.
    """
    if points.dim() != 3 or points.shape[2] != 3:
        raise ValueError(
            f"rasterise: points must have shape (batch, V, 3), got {tuple(points.shape)}"
        )
    if triangles.dim() != 2 or triangles.shape[1] != 3:
        raise ValueError(
            f"rasterise: triangles must have shape (T, 3), got {tuple(triangles.shape)}"
        )
    batch = points.shape[0]
    x, y, z = points.detach().permute(2, 0, 1).contiguous()  # (batch, V) each
    low, high = z.amin(1, keepdim=True), z.amax(1, keepdim=True)
    z = (z - low) / (high - low).clamp_min(1e-12)
    corners = triangles.t().contiguous()
    triangle, image, box, planes = _find_boxes((x, y), corners, size)
    owner, dx, dy, (wb, wc) = _list_samples(box, planes)
    inside = find(torch.minimum(torch.minimum(wb, wc), 1 - (wb + wc)), -_MARGIN)
    owner, dx, dy, wb, wc = (v.index_select(0, inside) for v in (owner, dx, dy, wb, wc))
    first = image * z.shape[1] if batch > 1 else 0
    depths = z.flatten()
    az, bz, cz = (depths.index_select(0, c.index_select(0, triangle) + first) for c in corners)
    z = az.index_select(0, owner)
    z.addcmul_((bz - az).index_select(0, owner), wb).addcmul_((cz - az).index_select(0, owner), wc)
    # The sample of a box's corner; the top row comes first.
    origin = (image * size + (size - 1) - box[1].long()) * size + box[0].long()
    position = origin.index_select(0, owner).add_(dx).sub_(dy, alpha=size)
    # The largest key wins: the nearest sample, then the later triangle.
    key = (z * (_DEPTH_STEPS - 1)).clamp_(0, _DEPTH_STEPS - 1).long() << 32
    key |= torch.arange(len(key), device=key.device)
    buffer = torch.full((batch * size * size,), -1, device=points.device)
    buffer.scatter_reduce_(0, position, key, "amax")
    position = find(buffer, 0)
    winner = buffer.index_select(0, position) & 0xFFFFFFFF
    owner, wb, wc = (v.index_select(0, winner) for v in (owner, wb, wc))
    weights = torch.stack([1 - wb - wc, wb, wc]).clamp_(0, 1)
    weights /= weights[0] + weights[1] + weights[2]
    return Fragments(
        position, image.index_select(0, owner), triangle.index_select(0, owner), weights.t()
    )


def find(values: Tensor, least: float) -> Tensor:
    """The indices of numbers >= `least` in a vector; numpy is several times as fast as torch."""
    if values.device.type != "cpu":
        return (values >= least).nonzero()[:, 0]
    return torch.from_numpy(np.flatnonzero(values.numpy() >= least))


def _find_boxes(
    points: tuple[Tensor, Tensor], corners: Tensor, size: int
) -> tuple[Tensor, Tensor, list[Tensor], list[Plane]]:
    """The K triangles that face the camera and whose bounding box contains a sample centre.

    Args:
        points (two Tensor[batch, V]): x and y.
        corners (Tensor[3, T], int64)
        size (int): samples per side.

    Returns:
        index of triangle (K) and image (K); box corner x, y, width and height in samples, (K)
        each; for the last two barycentric weights, the value at the box's first sample and the
        slopes, (K) each.
    """
    x, y = ([_gather(axis, corner) for corner in corners] for axis in points)  # (batch, T) each
    area = (x[1] - x[0]) * (y[2] - y[0])
    area -= (x[2] - x[0]) * (y[1] - y[0])
    bounds = []
    for a, b, c in (x, y):
        first = torch.minimum(torch.minimum(a, b), c).sub_(0.5).ceil_().clamp_(min=0)
        last = torch.maximum(torch.maximum(a, b), c).sub_(0.5).floor_().clamp_(max=size - 1)
        bounds += [first, last.sub_(first).add_(1)]
    x0, width, y0, height = bounds
    # Most triangles of a face lie between the samples, and have no width or height.
    chosen = find(torch.minimum(torch.minimum(width, height), area).flatten(), _LEAST_AREA)

    def choose(value: Tensor) -> Tensor:
        return value.flatten().index_select(0, chosen)

    box = [choose(v) for v in (x0, y0, width, height)]
    (ax, bx, cx), (ay, by, cy) = ([choose(v) for v in axis] for axis in (x, y))
    inverse = 1 / choose(area)
    px, py = box[0] + 0.5 - ax, box[1] + 0.5 - ay
    planes = []
    for slope_x, slope_y in (((cy - ay), (ax - cx)), ((ay - by), (bx - ax))):
        slope_x *= inverse
        slope_y *= inverse
        planes.append((px * slope_x + py * slope_y, slope_x, slope_y))
    image = torch.div(chosen, corners.shape[1], rounding_mode="floor")
    return chosen - image * corners.shape[1], image, box, planes


def _gather(axis: Tensor, index: Tensor) -> Tensor:
    """Columns of a matrix; a vector is gathered in half the time of a matrix of one row."""
    if len(axis) == 1:
        return axis[0].index_select(0, index)[None]
    return axis.index_select(1, index)


def _list_samples(
    box: list[Tensor], planes: list[Plane]
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Lists the samples of all boxes: first their rows, then the samples of each row.

    Args:
        box (list of Tensor[K]), planes (list of Plane): see `_find_boxes`.

    Returns:
        for every sample its box and its place in it, x and y, int64; the values of `planes`.
    """
    _, _, width, height = box
    owner, dy = _count_up(height)
    down = dy.to(width.dtype)
    starts = [
        torch.addcmul(start.index_select(0, owner), slope.index_select(0, owner), down)
        for start, _, slope in planes
    ]
    row, dx = _count_up(width.index_select(0, owner))
    owner, right = owner.index_select(0, row), dx.to(width.dtype)
    values = [
        start.index_select(0, row).addcmul_(slope.index_select(0, owner), right)
        for start, (_, slope, _) in zip(starts, planes, strict=True)
    ]
    return owner, dx, dy.index_select(0, row), values


def _count_up(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Repeats k `counts[k]` times, and numbers the repetitions of each from 0."""
    counts = counts.long()
    owner = torch.repeat_interleave(counts)
    start = counts.cumsum(0) - counts
    return owner, torch.arange(len(owner), device=counts.device) - start.index_select(0, owner)
