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
            Tensor[k, C]
        """
        rows = triangles.index_select(0, self.triangle)
        rows += (self.image * values.shape[1])[:, None]
        corner = values.flatten(0, 1)
        first, *others = (corner.index_select(0, row) for row in rows.unbind(1))
        w = self.weights
        result = first.mul_(w[:, :1])
        for k, other in enumerate(others, 1):
            result.addcmul_(other, w[:, k : k + 1])
        return result


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
    rows = corners.index_select(1, triangle)
    if batch > 1:
        rows += image * z.shape[1]
    depths = z.flatten().index_select(0, rows.flatten()).view_as(rows)
    owner, dx, dy = _list_samples(box)
    wb, wc = (_evaluate(plane, owner, dx, dy) for plane in planes)
    inside = find((wb >= -_MARGIN) & (wc >= -_MARGIN) & (wb + wc <= 1 + _MARGIN))
    owner, dx, dy, wb, wc = (v.index_select(0, inside) for v in (owner, dx, dy, wb, wc))
    az, bz, cz = depths
    z = az.index_select(0, owner)
    z.addcmul_((bz - az).index_select(0, owner), wb).addcmul_((cz - az).index_select(0, owner), wc)
    # The sample of a box's corner; the top row comes first.
    origin = (image * size + (size - 1) - box[1].long()) * size + box[0].long()
    position = origin.index_select(0, owner) + (dx - dy * size).long()
    # The largest key wins: the nearest sample, then the later triangle.
    key = (z * (_DEPTH_STEPS - 1)).clamp_(0, _DEPTH_STEPS - 1).long() << 32
    key |= torch.arange(len(key), device=key.device)
    buffer = torch.full((batch * size * size,), -1, device=points.device)
    buffer.scatter_reduce_(0, position, key, "amax")
    position = find(buffer >= 0)
    winner = buffer.index_select(0, position) & 0xFFFFFFFF
    owner, wb, wc = (v.index_select(0, winner) for v in (owner, wb, wc))
    weights = torch.stack([1 - wb - wc, wb, wc], 1).clamp_(0, 1)
    weights /= weights.sum(1, keepdim=True)
    return Fragments(
        position, image.index_select(0, owner), triangle.index_select(0, owner), weights
    )


def find(mask: Tensor) -> Tensor:
    """The indices of True in a vector; on a CPU, torch's `nonzero` takes four times as long."""
    if mask.device.type != "cpu":
        return mask.nonzero()[:, 0]
    return torch.from_numpy(np.flatnonzero(mask.numpy()))


def _find_boxes(
    points: tuple[Tensor, Tensor], corners: Tensor, size: int
) -> tuple[Tensor, Tensor, Tensor, list[tuple[Tensor, Tensor, Tensor]]]:
    """The K triangles that face the camera and whose bounding box contains a sample centre.

    Args:
        points (two Tensor[batch, V]): x and y.
        corners (Tensor[3, T], int64)
        size (int): samples per side.

    Returns:
        index of triangle (K) and image (K); box corner x, y, width and height in samples (4, K);
        for the last two barycentric weights, the value at the box's first sample and the slopes.
    """
    x, y = ([_gather(axis, corner) for corner in corners] for axis in points)  # (batch, T) each
    area = (x[1] - x[0]) * (y[2] - y[0])
    area -= (x[2] - x[0]) * (y[1] - y[0])
    bounds = []
    for a, b, c in (x, y):
        first = torch.minimum(torch.minimum(a, b), c).sub_(0.5).ceil_().clamp_(min=0)
        last = torch.maximum(torch.maximum(a, b), c).sub_(0.5).floor_().clamp_(max=size - 1)
        bounds += [first, last.sub_(first)]
    x0, dx, y0, dy = bounds
    # Most triangles of a face lie between the samples.
    chosen = find(((torch.minimum(dx, dy) >= 0) & (area > 1e-9)).flatten())

    def choose(value: Tensor) -> Tensor:
        return value.flatten().index_select(0, chosen)

    box = torch.stack([choose(v) for v in (x0, y0, dx, dy)])
    box[2:] += 1
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


def _list_samples(box: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Lists the samples of all boxes: the box, and the place in it, as numbers of the box's type.

    Args:
        box (Tensor[4, K]): see `_find_boxes`.
    """
    counts = (box[2] * box[3]).long()
    owner = torch.repeat_interleave(counts)
    start = counts.cumsum(0) - counts
    local = torch.arange(len(owner), device=box.device) - start.index_select(0, owner)
    place, width = local.double(), box[2].double().index_select(0, owner)
    dy = ((place + 0.5) / width).floor_()  # exact, and faster than a division of integers
    dx = place.sub_(dy * width)
    return owner, dx.to(box.dtype), dy.to(box.dtype)


def _evaluate(
    plane: tuple[Tensor, Tensor, Tensor], owner: Tensor, dx: Tensor, dy: Tensor
) -> Tensor:
    """A barycentric weight (dx, dy) samples from the box's first sample."""
    start, slope_x, slope_y = (v.index_select(0, owner) for v in plane)
    return start.addcmul_(slope_x, dx).addcmul_(slope_y, dy)
