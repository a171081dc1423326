"""Renders a face and its props through a perspective lens, as layers of a picture."""

from __future__ import annotations

import dataclasses
import functools
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
    """One layer of a picture, `size` pixels per side.

    Attributes:
        covered (Tensor[1, 1, size, size]): coverage of the pixel, 0..1.
        normal (Tensor[1, 3, size, size]): unit where anything is covered, else 0.
        albedo (Tensor[1, 3, size, size]): 0 where nothing is covered.
    """

    covered: Tensor
    normal: Tensor
    albedo: Tensor


@dataclasses.dataclass(frozen=True)
class Layers:
    """An unlit picture.

    Attributes:
        face, props (Layer): their visible parts.
        depth (Tensor[1, 1, size, size]): of the nearest surface, towards the camera, pixels; far
            behind where there is no surface.
    """

    face: Layer
    props: Layer
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
    count, camera = renderer.size * renderer.samples, renderer.camera
    points, directions, colours = [vertices @ rotation.mT], [normals @ rotation.mT], [colour]
    triangles = [renderer.face.triangles]
    first = vertices.shape[1]
    for mesh, turn in props:
        given = torch.from_numpy(mesh.points).to(vertices)[None]
        faces = torch.from_numpy(mesh.triangles).to(triangles[0])
        points.append(given @ turn.mT)
        directions.append(_find_normals(given[0], faces)[None] @ turn.mT)
        colours.append(torch.from_numpy(mesh.colours.copy()).to(vertices)[None])
        triangles.append(faces + first)
        first += given.shape[1]
    scale = count / (2 * camera.half_width)
    seen = lens.project(torch.cat(points, 1), camera.center)
    screen = (seen - seen.new_tensor([*camera.center, 0.0])) * scale + count / 2
    corners = torch.cat(triangles)
    fragments = rasterise(screen, corners, count)
    given = torch.cat([torch.cat(directions, 1), torch.cat(colours, 1), screen[..., 2:]], 2)
    values = fragments.interpolate(given, corners)
    values[:, :3] = normalise(values[:, :3], 1)
    is_face = fragments.triangle < len(renderer.face.triangles)
    # Both sides of a prop are drawn; visible normals must face the camera.
    values[:, :3] *= torch.where(~is_face & (values[:, 2] < 0), -1.0, 1.0)[:, None]
    renderer.paint_eyes(values, fragments, is_face, skin, 1)
    return _to_layers(renderer, values, fragments.position, is_face)


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


def _to_layers(renderer: Renderer, values: Tensor, position: Tensor, is_face: Tensor) -> Layers:
    size, s = renderer.size, renderer.samples
    count = size * s
    dense = values.new_zeros(count * count, 15)
    face = is_face.to(values.dtype)[:, None]
    one = torch.cat([torch.ones_like(face), values[:, :6]], 1)
    dense[position] = torch.cat([one * face, one * (1 - face), values[:, 6:]], 1)
    blocks = dense.view(size, s, size, s, 15)
    parts = [blocks[:, i, :, j] for i in range(s) for j in range(s)]
    pixels = functools.reduce(torch.add, parts).permute(2, 0, 1)[None].contiguous()
    covered = pixels[:, :1] + pixels[:, 7:8]
    depth = pixels[:, 14:] / covered.clamp_min(1) / s
    shown, worn = (
        Layer(
            part[:, :1] / s**2,
            normalise(part[:, 1:4], 1),
            part[:, 4:] / part[:, :1].clamp_min(1),
        )
        for part in (pixels[:, :7], pixels[:, 7:14])
    )
    return Layers(shown, worn, torch.where(covered > 0, depth, _FAR))
