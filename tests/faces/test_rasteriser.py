"""The z-buffer against a loop over pixels, and what it must never show: gaps and hidden faces."""

import pytest
import torch

from ntensor.faces.rendering.rasteriser import rasterise


def slow(points, triangles, size):
    """Triangle at each sample by loops: (size, size), -1 where there is none."""
    shown = torch.full((size, size), -1)
    for row in range(size):
        for column in range(size):
            px, py, best = column + 0.5, size - row - 0.5, -float("inf")
            for k, (a, b, c) in enumerate(triangles.tolist()):
                (ax, ay, az), (bx, by, bz), (cx, cy, cz) = (points[v].tolist() for v in (a, b, c))
                area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
                if area <= 0:
                    continue
                wb = ((px - ax) * (cy - ay) - (cx - ax) * (py - ay)) / area
                wc = ((bx - ax) * (py - ay) - (px - ax) * (by - ay)) / area
                z = az + wb * (bz - az) + wc * (cz - az)
                if min(wb, wc, 1 - wb - wc) >= 0 and z > best:
                    best, shown[row, column] = z, k
    return shown


def picture(fragments, batch, size):
    shown = torch.full((batch * size * size,), -1)
    shown[fragments.position] = fragments.triangle
    return shown.view(batch, size, size)


def test_matches_the_loop(generator):
    size, batch = 9, 3
    points = torch.rand(batch, 24, 3, generator=generator, dtype=torch.double) * 13 - 2
    triangles = torch.arange(24).view(8, 3)
    found = picture(rasterise(points, triangles, size), batch, size)
    wanted = torch.stack([slow(p, triangles, size) for p in points])
    assert (wanted >= 0).any() and (wanted < 0).any()
    assert torch.equal(found, wanted)


def test_interpolates_linearly(generator):
    """Values that are an affine function of the position are that function at every sample."""
    size = 16
    points = torch.rand(2, 30, 3, generator=generator, dtype=torch.double) * size
    triangles = torch.arange(30).view(10, 3)
    fragments = rasterise(points, triangles, size)
    values = fragments.interpolate(points[..., :2], triangles)
    rest = fragments.position % (size * size)
    x, y = rest % size + 0.5, size - rest // size - 0.5
    torch.testing.assert_close(values, torch.stack([x, y], 1).double(), atol=2e-3, rtol=0)
    assert (fragments.weights >= 0).all()
    torch.testing.assert_close(fragments.weights.sum(1), torch.ones(len(rest)).double())


@pytest.mark.parametrize("angle", [0.0, 0.3, 1.1])
def test_no_gap_between_neighbours(angle):
    """A fan of thin triangles covers each sample of its disc."""
    size, spokes = 64, 97
    turn = torch.arange(spokes) * (2 * torch.pi / spokes) + angle
    ring = 31 * torch.stack([turn.cos(), turn.sin(), torch.zeros(spokes)], 1) + size / 2
    points = torch.cat([torch.full((1, 3), size / 2), ring])[None]
    k = torch.arange(spokes)
    triangles = torch.stack([torch.zeros(spokes, dtype=torch.long), 1 + k, 1 + (k + 1) % spokes], 1)
    shown = picture(rasterise(points, triangles, size), 1, size)[0]
    centers = torch.arange(size) + 0.5 - size / 2
    inside = centers[:, None] ** 2 + centers**2 < 30.9**2
    assert (shown[inside] >= 0).all()


def test_back_faces_and_what_is_outside_are_not_drawn():
    points = torch.tensor(
        [[[1.0, 1, 0], [7, 1, 0], [1, 7, 0], [-9, -9, 0], [-5, -9, 0], [-9, -5, 0]]]
    )
    front, back, outside = [0, 1, 2], [0, 2, 1], [3, 4, 5]
    assert len(rasterise(points, torch.tensor([front]), 8).position) == 21
    assert len(rasterise(points, torch.tensor([back, outside]), 8).position) == 0


def test_errors():
    triangles = torch.zeros(1, 3, dtype=torch.long)
    with pytest.raises(ValueError, match=r"points must have shape \(batch, V, 3\), got \(4, 3\)"):
        rasterise(torch.zeros(4, 3), triangles, 8)
    with pytest.raises(ValueError, match=r"triangles must have shape \(T, 3\), got \(3,\)"):
        rasterise(torch.zeros(1, 4, 3), triangles[0], 8)
