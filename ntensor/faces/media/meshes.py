"""Face meshes: files, written by trimesh, and pictures of a bare shape."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ntensor.faces.common import extras
from ntensor.faces.common.errors import ConfigurationError, FacesError
from ntensor.faces.datasets import scenes
from ntensor.faces.morphable.face_model import FaceModel
from ntensor.faces.rendering import harmonics
from ntensor.faces.rendering.rasteriser import rasterise
from ntensor.faces.rendering.renderer import Camera, Renderer
from ntensor.faces.writing.files import replacing

from .images import project

FORMATS = ("ply", "obj")
# Views of a shape: yaw, pitch, roll in degrees.
VIEWS = ((0.0, 0.0, 0.0), (40.0, 0.0, 0.0))
_CLAY = 0.85
# Millimetres.
_FARTHEST = 1000.0


def write_mesh(
    path: Path, vertices: Tensor, triangles: Tensor, colours: Tensor | None = None
) -> None:
    """Writes a mesh as PLY or OBJ, by the path's suffix; the unit of lengths is kept.

    Args:
        path
        vertices (Tensor[V, 3])
        triangles (Tensor[T, 3])
        colours (Tensor[V, 3] or None): of the vertices, 0 to 1.

    Raises:
        ConfigurationError: another suffix.
    """
    if path.suffix[1:] not in FORMATS:
        raise ConfigurationError(f"{path}: a mesh must be written as {' or '.join(FORMATS)}")
    painted = None
    if colours is not None:
        painted = (colours.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    mesh = extras.load("trimesh").Trimesh(
        vertices.cpu().numpy(), triangles.cpu().numpy(), vertex_colors=painted, process=False
    )
    with replacing(path) as unfinished:
        mesh.export(unfinished)


def restrict_to_shape(face: FaceModel) -> FaceModel:
    """Restricts a face model to the vertices of the network's shape."""
    chosen = face.shape_vertices
    place = torch.full((face.mean.shape[0],), -1)
    place[chosen] = torch.arange(len(chosen))
    return dataclasses.replace(
        face,
        mean=face.mean[chosen],
        identity_modes=face.identity_modes[:, chosen],
        expression_modes=face.expression_modes[:, chosen],
        triangles=face.shape_triangles(),
        parts=face.parts[chosen],
        landmarks68=place[face.landmarks68],
        materials=face.materials[chosen],
        eye_direction=face.eye_direction[chosen],
        shape_vertices=torch.arange(len(chosen)),
    )


def draw_shapes(
    vertices: Tensor,
    face: FaceModel,
    angles: tuple[float, float, float] = VIEWS[0],
    size: int = 128,
    colours: Tensor | None = None,
) -> Tensor:
    """Renders shapes on white, grey under a lamp or with unlit vertex colours.

    Args:
        vertices (Tensor[n, V, 3]): unposed, millimetres.
        face (FaceModel): provides the triangles; has `V` vertices.
        angles (tuple): yaw, pitch, roll, degrees.
        size (int): pixels per side.
        colours (Tensor[n, V, 3] or None): vertex colours, 0 to 1.

    Returns:
        Tensor[n, 3, size, size]: 0 to 1.

    Raises:
        FacesError: a shape is too large for a face, as with damaged weights; drawing it could
            exhaust the memory.
    """
    if not bool((vertices.abs() <= _FARTHEST).all()):
        raise FacesError(
            f"a face's shape reaches at most {_FARTHEST:g} mm, the network's reaches "
            f"{float(vertices.abs().max()):g} mm; are its weights trained and intact?"
        )
    samples, n = 2 * size, len(vertices)
    rotation = scenes.angles_to_rotation(torch.tensor([angles])).to(vertices)[0]
    posed = vertices @ rotation.T
    camera = Camera()
    scale = samples / (2 * camera.half_width)
    screen = (posed - posed.new_tensor([*camera.center, 0.0])) * scale + samples / 2
    fragments = rasterise(screen, face.triangles, samples)
    if colours is None:
        normals = Renderer(face, size).compute_vertex_normals(vertices) @ rotation.T
        drawn = fragments.interpolate(normals, face.triangles)
        lamp = harmonics.direction_of(torch.tensor([-25.0]), torch.tensor([25.0]))
        light = harmonics.directional(lamp, torch.full((1, 3), 0.75))
        light = light + harmonics.ambient(torch.full((1, 3), 0.25))
        values = _CLAY * harmonics.shading(F.normalize(drawn, dim=1).T[None], light.to(drawn))[0].T
    else:
        values = fragments.interpolate(colours.expand(n, -1, -1), face.triangles)
    dense = values.new_ones(n * samples * samples, 3)
    dense[fragments.position] = values.clamp(0, 1)
    picture = dense.view(n, samples, samples, 3).permute(0, 3, 1, 2)
    return F.avg_pool2d(picture, 2)


def sample_colours(vertices: Tensor, picture: Tensor) -> Tensor:
    """Samples a frontal picture at the vertices of an unposed face.

    Args:
        vertices (Tensor[n, V, 3]): millimetres.
        picture (Tensor[n, 3, S, S]): of the frontal face, with the generated faces' camera.

    Returns:
        Tensor[n, V, 3]: occluded vertices get the colour of what occludes them.
    """
    size = picture.shape[-1]
    places = (2 * project(vertices, size) + 1) / size - 1
    sampled = F.grid_sample(
        picture, places.unsqueeze(1), padding_mode="border", align_corners=False
    )
    return sampled[:, :, 0].transpose(1, 2)
