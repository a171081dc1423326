"""A z-buffer rasteriser for batches of small triangles, in plain tensor operations."""

from __future__ import annotations

import dataclasses

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
    points = points.detach()
    batch = points.shape[0]
    chosen, setup, corner, extent = _visible_triangles(points, triangles, size)
    counts = extent[0] * extent[1]
    owner = torch.repeat_interleave(counts)
    start = counts.cumsum(0) - counts
    local = torch.arange(owner.shape[0], device=points.device) - start.index_select(0, owner)
    width = extent[0].index_select(0, owner)
    dy = torch.div(local, width, rounding_mode="floor")
    dx = local - dy * width
    wb, wc, z = _plane(setup.index_select(0, owner), dx, dy)
    inside = ((wb >= -_MARGIN) & (wc >= -_MARGIN) & (wb + wc <= 1 + _MARGIN)).nonzero()[:, 0]
    owner, dx, dy, z = (v.index_select(0, inside) for v in (owner, dx, dy, z))
    position = (
        corner[2].index_select(0, owner) * size + (size - 1 - corner[1].index_select(0, owner) - dy)
    ) * size
    position += corner[0].index_select(0, owner) + dx
    # The largest key wins: the nearest sample, then the later triangle.
    key = ((z * (_DEPTH_STEPS - 1)).clamp(0, _DEPTH_STEPS - 1).long() << 32) | owner
    buffer = torch.full((batch * size * size,), -1, device=points.device)
    buffer.scatter_reduce_(0, position, key, "amax")
    position = (buffer >= 0).nonzero()[:, 0]
    owner = buffer.index_select(0, position) & 0xFFFFFFFF
    rest = position % (size * size)
    dy = size - 1 - torch.div(rest, size, rounding_mode="floor") - corner[1].index_select(0, owner)
    dx = rest % size - corner[0].index_select(0, owner)
    wb, wc, _ = _plane(setup.index_select(0, owner), dx, dy)
    weights = torch.stack([1 - wb - wc, wb, wc], 1).clamp_(0, 1)
    weights /= weights.sum(1, keepdim=True)
    image = corner[2].index_select(0, owner)
    return Fragments(
        position,
        image,
        torch.div(chosen.index_select(0, owner), batch, rounding_mode="floor"),
        weights,
    )


def _plane(setup: Tensor, dx: Tensor, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The last two barycentric weights and the depth, (dx, dy) samples from the box's corner."""
    s = setup.unbind(1)
    fx, fy = dx.to(setup.dtype), dy.to(setup.dtype)
    wb = torch.addcmul(s[0], s[1], fx).addcmul_(s[2], fy)
    wc = torch.addcmul(s[3], s[4], fx).addcmul_(s[5], fy)
    z = torch.addcmul(s[6], s[7], wb).addcmul_(s[8], wc)
    return wb, wc, z


def _visible_triangles(
    points: Tensor, triangles: Tensor, size: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The K triangles that face the camera and whose bounding box contains a sample centre.

    Returns:
        index into the flattened (T, batch); planes (K, 9); box corner x, y and image (3, K); box
        width and height in samples (2, K).
    """
    batch = points.shape[0]
    planes = points.permute(2, 1, 0).contiguous()  # (3, V, batch): a gather copies whole rows
    corners = triangles.t().contiguous()
    # For a single picture, gathering scalars is five times as fast as rows of one number.
    axes = planes.flatten(1) if batch == 1 else planes
    x, y = ([axis.index_select(0, corner) for corner in corners] for axis in axes[:2])
    area = (x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0])
    bounds = []
    for a, b, c in (x, y):
        low = torch.minimum(torch.minimum(a, b), c)
        high = torch.maximum(torch.maximum(a, b), c)
        first = (low - 0.5).ceil_().clamp_(min=0)
        last = (high - 0.5).floor_().clamp_(max=size - 1)
        bounds.append((first, last - first))
    (x0, dx), (y0, dy) = bounds
    drawn = (area > 1e-9) & (dx >= 0) & (dy >= 0)
    chosen = drawn.flatten().nonzero()[:, 0]
    image = chosen % batch
    rows = triangles.index_select(0, torch.div(chosen, batch, rounding_mode="floor"))
    ax, bx, cx = (v.flatten().index_select(0, chosen) for v in x)
    ay, by, cy = (v.flatten().index_select(0, chosen) for v in y)
    depth = planes[2]
    low, high = depth.amin(0), depth.amax(0)
    depth = (depth - low) / (high - low).clamp_min(1e-12)
    flat = depth.flatten()
    az, bz, cz = (flat.index_select(0, row * batch + image) for row in rows.unbind(1))
    x0, y0 = (v.flatten().index_select(0, chosen) for v in (x0, y0))
    inverse = 1 / area.flatten().index_select(0, chosen)
    px, py = x0 + 0.5 - ax, y0 + 0.5 - ay
    b1, b2 = (cy - ay) * inverse, (ax - cx) * inverse
    c1, c2 = (ay - by) * inverse, (bx - ax) * inverse
    setup = torch.stack(
        [px * b1 + py * b2, b1, b2, px * c1 + py * c2, c1, c2, az, bz - az, cz - az], 1
    )
    corner = torch.stack([x0.long(), y0.long(), image])
    extent = torch.stack([v.flatten().index_select(0, chosen).long() + 1 for v in (dx, dy)])
    return chosen, setup, corner, extent
