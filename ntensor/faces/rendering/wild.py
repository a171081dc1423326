"""Renders a face and its props through a perspective lens, as layers of a picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from .props import Mesh
from .rasteriser import rasterise
from .renderer import Renderer, normalise
from .skin import Skin


@dataclasses.dataclass(frozen=True)
class Lens:
    """How a camera differs from the standard one, which is far away.

    Attributes:
        distance (float): from the face, millimetres.
        zoom (float): size of the face relative to the standard camera.
        shift (tuple of float): of the face to the right and up, millimetres.
    """

    distance: float = 1e5
    zoom: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)

    def project(self, points: Tensor, center: tuple[float, float]) -> Tensor:
        """Projects points (n, V, 3) in the camera's axes to the standard camera.

        `x` and `y` relative to the picture's centre are scaled by perspective. `z` is unchanged,
        since only the order of depths matters.
        """
        middle = points.new_tensor([*center, 0.0])
        scale = self.zoom * self.distance / (self.distance - points[..., 2:])
        moved = (points - middle) * scale + points.new_tensor([*self.shift, 0.0])
        return torch.cat([moved[..., :2] + middle[:2], points[..., 2:]], -1)


@dataclasses.dataclass(frozen=True)
class Layer:
    """`n` layers of a picture, `size` pixels per side.

    Attributes:
        covered (Tensor[n, 1, size, size]): coverage of the pixel, 0..1.
        normal (Tensor[n, 3, size, size]): unit where anything is covered, else 0.
        albedo (Tensor[n, 3, size, size]): 0 where nothing is covered.
    """

    covered: Tensor
    normal: Tensor
    albedo: Tensor


@dataclasses.dataclass(frozen=True)
class Layers:
    """An unlit picture.

    Attributes:
        both (Layer): the visible parts of the face and of its props, n = 2.
        depth (Tensor[1, 1, size, size]): of the nearest surface, towards the camera, pixels; far
            behind where there is no surface.
    """

    both: Layer
    depth: Tensor


_FAR = -1e4


def draw_layers(
    renderer: Renderer,
    vertices: Tensor,
    normals: Tensor,
    colour: Tensor,
    skin: Skin,
    rotation: Tensor,
    props: Sequence[tuple[Mesh, Tensor]],
    lens: Lens,
) -> Layers:
    """Renders one face and its props, without light.

    Args:
        renderer (Renderer): provides face model, size, samples and standard camera.
        vertices, normals, colour (Tensor[1, V, 3]): of the unposed face.
        skin (Skin): for the eyes.
        rotation (Tensor[1, 3, 3]): of the head.
        props (sequence of (Mesh, Tensor[1, 3, 3])): each with its own rotation.
        lens (Lens)
    """
    camera = renderer.camera
    points, directions, colours = [rotation @ vertices.mT], [rotation @ normals.mT], [colour.mT]
    corners = [renderer.triangles.t()]
    first = vertices.shape[1]
    for mesh, turned in props:
        given = torch.from_numpy(mesh.points).to(vertices)
        faces = torch.from_numpy(mesh.triangles)
        points.append(turned @ given.t())
        directions.append(turned @ _find_normals(given, faces).t())
        colours.append(torch.from_numpy(mesh.colours.copy()).to(vertices).t()[None])
        corners.append(faces.t() + first)
        first += len(given)
    screen = renderer.project(lens.project(torch.cat(points, 2).mT, camera.center).mT)
    triangles = torch.cat(corners, 1).t()
    fragments = rasterise(screen.mT, triangles, renderer.size * renderer.samples)
    planes = [torch.cat(directions, 2), torch.cat(colours, 2), screen[:, 2:]]
    values = fragments.interpolate(torch.cat(planes, 1).mT, triangles)
    values[:, :3] = normalise(values[:, :3], 1)
    is_prop = (fragments.triangle >= len(renderer.triangles)).to(values.dtype)
    # Both sides of a prop are drawn; visible normals must face the camera.
    values[:, :3] *= torch.where(values[:, 2] < 0, 1 - 2 * is_prop, 1.0)[:, None]
    renderer.paint_eyes(values, fragments, skin, 1)
    return _to_layers(renderer, values.t(), fragments.position, is_prop)


def _find_normals(points: Tensor, triangles: Tensor) -> Tensor:
    """Vertex normals (V, 3) of a mesh, from the first half of its triangles.

    The second half of a prop's triangles is its other side.
    """
    faces = triangles[: len(triangles) // 2]
    a, b, c = (points[faces[:, k]] for k in range(3))
    across = torch.linalg.cross(b - a, c - a)
    total = torch.zeros_like(points)
    for k in range(3):
        total.index_add_(0, faces[:, k], across)
    return normalise(total, 1)


def _to_layers(renderer: Renderer, values: Tensor, position: Tensor, is_prop: Tensor) -> Layers:
    planes = []
    for part in (1 - is_prop, is_prop):
        planes += [part[None], values[:6] * part]
    pixels = renderer.sum_samples(position, torch.cat([*planes, values[6:]]), 1)
    count, parts, depth = pixels[:1], pixels[1:15, 0].unflatten(0, (2, 7)), pixels[15:]
    both = Layer(
        parts[:, :1] / renderer.samples**2,
        normalise(parts[:, 1:4], 1),
        parts[:, 4:] / parts[:, :1].clamp_min(1),
    )
    depth = depth / count.clamp_min(1) / renderer.samples
    return Layers(both, torch.where(count > 0, depth, _FAR))
