"""Redraws fitted faces in another expression, pose or light, with the colours of a picture."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ntensor.faces.morphable.face_model import FaceModel
from ntensor.faces.rendering import harmonics
from ntensor.faces.rendering.rasteriser import rasterise
from ntensor.faces.rendering.renderer import Camera, Renderer

from .landmark_fit import LandmarkFit, to_pixels

# A surface seen at a smaller cosine than this has no usable colours.
_GRAZING = 0.15
# The smallest estimated shading to divide by, and the largest ratio of two.
_DARKEST, _LARGEST_RATIO = 0.02, 2.0
_RIDGE = 1e-2
# The motion outside a face fades over this fraction of the picture's side.
_FADES = 1 / 16


def warp_by_flow(
    face: FaceModel,
    image: Tensor,
    source: LandmarkFit,
    target: LandmarkFit,
    light: Tensor | None = None,
    camera: Camera | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Warps the sources' pictures by the motion of the surface between two fits, if it is small.

    .. math:: out(p) = image(p + d(p)), \quad
              d(p) = \pi(source\ of\ the\ point\ at\ p) - p \ \text{inside the target's face}

    Outside, `d` is its mean over the nearby part of the face, and fades to 0. Where nothing moves,
    the picture is unchanged, however wrong the fit, so only errors in the difference of the two
    fits matter; `rewarp` redraws every pixel of the face. Normals changed by an expression are not
    reshaded: that error is smaller than the error of the estimated light. An opened mouth is not
    filled.

    Args:
        face (FaceModel)
        image (Tensor[n, 3, S, S]): the sources' pictures, 0 to 1.
        source, target (LandmarkFit): of `n` faces, of almost the same pose.
        light (Tensor[n, 3, 9] or None): of another picture, from `estimate_light`. The face's
            colours are multiplied by the ratio of its shading to that of the light estimated here.
            None: colours are unchanged.
        camera (Camera)

    Returns:
        (Tensor[n, 3, S, S], Tensor[n, 1, S, S], Tensor[n, 3, S, S]): picture, 1 inside the
        target's face, and its unit normals, 0 outside.
    """
    size = image.shape[-1]
    start, end = (fit.pose_vertices(face) for fit in (source, target))
    move = to_pixels(start[..., :2], size, camera) - to_pixels(end[..., :2], size, camera)
    normal = Renderer(face, size, camera).compute_vertex_normals(end)
    drawn, inside = _draw(
        face, _count_rows_up(end, size, camera), torch.cat([move, normal], 2), size
    )
    reach = max(1, round(_FADES * size))
    near, share = (
        F.avg_pool2d(x, 2 * reach + 1, 1, reach) for x in (drawn[:, :2] * inside, inside)
    )
    move = torch.where(inside > 0, drawn[:, :2], near / share.clamp_min(0.5))
    row, column = torch.meshgrid(*2 * [torch.arange(size).to(image) + 0.5], indexing="ij")
    moved = _sample(image, torch.stack([column, row]) + move)
    normals = F.normalize(drawn[:, 2:], dim=1) * inside
    if light is not None:
        own_light = estimate_light(face, image, source, camera)
        shadings = (harmonics.shading(normals, lamp) for lamp in (light, own_light))
        moved = torch.where(inside > 0, (moved * _divide(*shadings)).clamp(0, 1), moved)
    return moved, inside, normals


def rewarp(
    face: FaceModel,
    image: Tensor,
    source: LandmarkFit,
    target: LandmarkFit,
    camera: Camera | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draws the fitted target faces with the colours of the sources' pictures.

    Every pixel of the target face gets the colour of the same surface point in the source's
    picture, times the ratio of the shadings here and there (see `estimate_light`). If the source
    does not show the point, the mirrored point is used, and if that is hidden too, the mean colour
    of the source's face. Outside the target face, the source's picture is kept. As in the paper's
    figure 8, the inside of a mouth that was closed is unknown.

    Args:
        face (FaceModel)
        image (Tensor[n, 3, S, S]): the sources' pictures, 0 to 1.
        source, target (LandmarkFit): of `n` faces.
        camera (Camera)

    Returns:
        (Tensor[n, 3, S, S], Tensor[n, 1, S, S], Tensor[n, 3, S, S]): picture, 1 inside the
        target's face, and its unit normals, 0 outside.
    """
    size = image.shape[-1]
    own_light = estimate_light(face, image, source, camera)
    renderer = Renderer(face, size, camera)
    start, end = (fit.pose_vertices(face) for fit in (source, target))
    normal, turned = renderer.compute_vertex_normals(start), renderer.compute_vertex_normals(end)
    place = to_pixels(start[..., :2], size, camera)
    shown = _find_visible(face, _count_rows_up(start, 2 * size, camera), 2 * size)
    shown = shown * (normal[..., 2:] > _GRAZING)
    mirrored = _find_mirrored(face)
    known = torch.cat([place, shown, normal], 2)
    drawn, inside = _draw(
        face,
        _count_rows_up(end, size, camera),
        torch.cat([known, known[:, mirrored], turned], 2),
        size,
    )
    normals = F.normalize(drawn[:, 12:], dim=1) * inside
    colours, usable = [], []
    for first in (0, 6):
        there = harmonics.shading(F.normalize(drawn[:, first + 3 : first + 6], dim=1), own_light)
        here = harmonics.shading(normals, own_light)
        colours.append(_sample(image, drawn[:, first : first + 2]) * _divide(here, there))
        usable.append((drawn[:, first + 2 : first + 3] > 0.5) & (inside > 0))
    count = usable[0].sum((2, 3), keepdim=True).clamp_min(1)
    mean = ((colours[0] * usable[0]).sum((2, 3), keepdim=True) / count).expand_as(image)
    colour = torch.where(usable[0], colours[0], torch.where(usable[1], colours[1], mean))
    return inside * colour.clamp(0, 1) + (1 - inside) * image, inside, normals


def estimate_light(
    face: FaceModel, image: Tensor, fit: LandmarkFit, camera: Camera | None = None
) -> Tensor:
    """Estimates the light of a picture from the fitted normals, with one colour for the whole face.

    A ridge regression of every channel on the nine harmonics of the normals.

    Args:
        face (FaceModel)
        image (Tensor[n, 3, S, S])
        fit (LandmarkFit)
        camera (Camera)

    Returns:
        Tensor[n, 3, 9]: the light times the face's mean albedo.
    """
    size = image.shape[-1]
    posed = fit.pose_vertices(face)
    normal = Renderer(face, size, camera).compute_vertex_normals(posed)
    normals, inside = _draw(face, _count_rows_up(posed, size, camera), normal, size)
    basis = harmonics.basis(F.normalize(normals, dim=1)) * inside
    basis, colours = basis.flatten(2), (image * inside).flatten(2)  # (n, 9, P), (n, 3, P)
    covered = inside.flatten(1).sum(1).clamp_min(1)
    ridge = _RIDGE * covered[:, None, None] * torch.eye(9).to(image)
    return torch.linalg.solve(basis @ basis.mT + ridge, basis @ colours.mT).mT


def _divide(here: Tensor, there: Tensor) -> Tensor:
    """The ratio of two shadings, within limits."""
    return (here / there.clamp_min(_DARKEST)).clamp(1 / _LARGEST_RATIO, _LARGEST_RATIO)


def _count_rows_up(points: Tensor, size: int, camera: Camera | None) -> Tensor:
    """Points in the rasteriser's coordinates, with rows counted upwards."""
    places = to_pixels(points[..., :2], size, camera)
    return torch.cat([places[..., :1], size - places[..., 1:], points[..., 2:]], 2)


def _draw(face: FaceModel, points: Tensor, values: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Draws vertex values (n, V, C) as maps (n, C, S, S), and the mask of the face (n, 1, S, S)."""
    n = len(points)
    fragments = rasterise(points, face.triangles, size)
    maps = values.new_zeros(n * size * size, values.shape[2])
    maps[fragments.position] = fragments.interpolate(values, face.triangles)
    inside = values.new_zeros(n * size * size, 1)
    inside[fragments.position] = 1
    shape = (n, size, size, -1)
    return maps.view(shape).permute(0, 3, 1, 2), inside.view(shape).permute(0, 3, 1, 2)


def _sample(image: Tensor, places: Tensor) -> Tensor:
    grid = places.permute(0, 2, 3, 1) * 2 / image.shape[-1] - 1
    return F.grid_sample(image, grid, padding_mode="border", align_corners=False)


def _find_visible(face: FaceModel, points: Tensor, size: int) -> Tensor:
    """1 for the vertices (n, V, 1) of visible triangles, else 0."""
    fragments = rasterise(points, face.triangles, size)
    marked = points.new_zeros(points.shape[0] * points.shape[1])
    for corner in face.triangles[fragments.triangle].unbind(1):
        marked[fragments.image * points.shape[1] + corner] = 1
    return marked.view(points.shape[0], -1, 1)


def _find_mirrored(face: FaceModel) -> Tensor:
    """The vertex nearest to each vertex's mirror image (V,)."""
    flipped = face.mean * face.mean.new_tensor([-1.0, 1.0, 1.0])
    return torch.cat([torch.cdist(part, face.mean).argmin(1) for part in flipped.split(2048)])
