"""Renders a face model to pictures and all their maps, for a batch, on any device.

The camera is scaled orthographic and looks along -z. Normals are in its axes: x right in the image,
y up, z towards the camera. Maps are rendered with 2 x 2 samples per pixel. Shading and composition
use the resulting pixels, so for the maps of one batch

.. math:: image = mask * clamp(albedo * shading, 0, 1) + (1 - mask) * background

holds up to rounding.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ntensor.faces.common.errors import ConfigurationError
from ntensor.faces.morphable.face_model import FaceModel

from . import harmonics
from .rasteriser import Fragments, rasterise
from .skin import Skin, eye_albedo, vertex_albedo


@dataclasses.dataclass(frozen=True)
class Camera:
    """The region that the picture shows.

    Attributes:
        half_width (float): millimetres from the picture's centre to its edge.
        center (tuple of float): x and y of the picture's centre, millimetres.
    """

    half_width: float = 104.0
    center: tuple[float, float] = (0.0, 8.0)


@dataclasses.dataclass(frozen=True)
class Maps:
    """One view of `n` faces, `size` pixels per side.

    Attributes:
        mask (Tensor[n, 1, size, size]): coverage of the pixel, 0..1.
        normal (Tensor[n, 3, size, size]): unit where mask > 0, else 0.
        albedo (Tensor[n, 3, size, size]): 0..1, 0 outside.
        shading (Tensor[n, 3, size, size]): >= 0, 0 outside.
        face (Tensor[n, 3, size, size]): `clamp(albedo * shading, 0, 1)`, times the mask.
    """

    mask: Tensor
    normal: Tensor
    albedo: Tensor
    shading: Tensor
    face: Tensor


class Renderer:
    """Renders faces of one model.

    Args:
        face (FaceModel): on the device that renders.
        size (int): pixels per side. Default: 64.
        camera (Camera)
        samples (int): samples per pixel in each direction, for anti-aliasing. Default: 2.

    Example:
        >>> import torch
        >>> from ntensor.faces.rendering import harmonics
        >>> from ntensor.faces.morphable.analytic_face import make_analytic_face
        >>> from ntensor.faces.rendering.renderer import Renderer
        >>> from ntensor.faces.rendering.skin import draw_skin
        >>> face = make_analytic_face()
        >>> vertices = face.vertices(torch.zeros(1, 30), torch.zeros(1, face.expression_size))
        >>> light = harmonics.ambient(torch.full((1, 3), 0.8))
        >>> maps = Renderer(face).draw(vertices, [torch.eye(3)[None]], draw_skin([0]), light)[0]
        >>> maps.face.shape, maps.normal.shape
        (torch.Size([1, 3, 64, 64]), torch.Size([1, 3, 64, 64]))
    """

    def __init__(
        self, face: FaceModel, size: int = 64, camera: Camera | None = None, samples: int = 2
    ) -> None:
        if size < 1 or samples < 1:
            raise ConfigurationError(
                f"Renderer: size and samples must be positive, got {size}, {samples}"
            )
        self.face = face
        self.size = size
        self.camera = camera or Camera()
        self.samples = samples
        corners = face.triangles.flatten()
        self._by_vertex = torch.argsort(corners, stable=True) // 3
        counts = torch.bincount(corners, minlength=face.mean.shape[0])
        self._offsets = counts.cumsum(0) - counts
        is_eye = (face.eye_direction.abs().sum(1) > 0).float()
        self._has_eyes = is_eye[face.triangles[:, 0]].bool()
        sky = face.materials[:, -1:]
        self._eye_values = torch.cat([face.eye_direction, sky], 1)

    def compute_vertex_normals(self, vertices: Tensor) -> Tensor:
        """Unit vertex normals: the area-weighted mean of the adjacent triangles' normals.

        Args:
            vertices (Tensor[n, V, 3])

        Returns:
            Tensor[n, V, 3]
        """
        n = vertices.shape[0]
        rows = vertices.transpose(0, 1).reshape(vertices.shape[1], -1)  # (V, 3n)
        a, b, c = (rows.index_select(0, self.face.triangles[:, k]) for k in range(3))
        edges = [(v - a).unflatten(1, (n, 3)) for v in (b, c)]
        faces = torch.linalg.cross(edges[0], edges[1], dim=2).flatten(1)
        total = torch.nn.functional.embedding_bag(self._by_vertex, faces, self._offsets, mode="sum")
        return normalise(total.unflatten(1, (n, 3)), 2).transpose(0, 1)

    def draw(self, vertices: Tensor, poses: list[Tensor], skin: Skin, light: Tensor) -> list[Maps]:
        """Renders every face in each of several poses, under the same light.

        Args:
            vertices (Tensor[n, V, 3]): unposed, millimetres.
            poses (list of Tensor[n, 3, 3]): rotations from the model's axes to the camera's.
            skin (Skin): `n` faces.
            light (Tensor[n, 3, 9]): in the camera's axes, see `harmonics`.

        Returns:
            list of Maps: one for each of `poses`.

        Raises:
            ValueError: wrong shape.
        """
        return self.draw_painted(vertices, poses, vertex_albedo(self.face, skin), skin, light)

    def draw_painted(
        self, vertices: Tensor, poses: list[Tensor], colour: Tensor, skin: Skin, light: Tensor
    ) -> list[Maps]:
        """As `draw`, with given vertex colours (n, V, 3); the eyeballs are painted by `skin`."""
        n, views = vertices.shape[0], len(poses)
        for pose in poses:
            if pose.shape != (n, 3, 3):
                raise ValueError(
                    f"draw: each pose must have shape ({n}, 3, 3), got {tuple(pose.shape)}"
                )
        rotation = torch.cat(poses).transpose(1, 2)
        posed = vertices.repeat(views, 1, 1) @ rotation
        normals = self.compute_vertex_normals(vertices).repeat(views, 1, 1) @ rotation
        colour = colour.repeat(views, 1, 1)
        count = self.size * self.samples
        scale = count / (2 * self.camera.half_width)
        middle = posed.new_tensor([*self.camera.center, 0.0])
        screen = (posed - middle) * scale + count / 2
        fragments = rasterise(screen, self.face.triangles, count)
        values = fragments.interpolate(torch.cat([normals, colour], 2), self.face.triangles)
        values[:, :3] = normalise(values[:, :3], 1)
        self.paint_eyes(values, fragments, None, skin, n)
        pixels = self._to_pixels(values, fragments.position, n * views)
        maps = self._finish(pixels, light.repeat(views, 1, 1))
        return [Maps(*(t[k * n : (k + 1) * n] for t in maps)) for k in range(views)]

    def paint_eyes(
        self, values: Tensor, fragments: Fragments, is_face: Tensor | None, skin: Skin, n: int
    ) -> None:
        """Writes the colours of eyeballs into columns 3 to 5 of `values`.

        Args:
            values (Tensor[k, C]): one row per fragment.
            fragments (Fragments): of the face's triangles, which come before any others.
            is_face (Tensor[k] or None): bool, the fragments of the face; None: all.
            skin (Skin): `n` faces, repeated over the batch.
            n (int)
        """
        triangle = fragments.triangle
        if is_face is not None:
            triangle = torch.where(is_face, triangle, 0)
        is_eye = self._has_eyes[triangle]
        if is_face is not None:
            is_eye &= is_face
        eyes = is_eye.nonzero()[:, 0]
        part = Fragments(*(getattr(fragments, f.name)[eyes] for f in dataclasses.fields(fragments)))
        eye = dataclasses.replace(part, image=torch.zeros_like(part.image)).interpolate(
            self._eye_values[None], self.face.triangles
        )
        values[eyes, 3:6] = eye_albedo(skin[part.image % n], eye[:, :3], eye[:, 3:])

    def _to_pixels(self, values: Tensor, position: Tensor, views: int) -> Tensor:
        """Sums coverage, normal and albedo over each pixel's samples: (views, 7, size, size)."""
        count, s = self.size * self.samples, self.samples
        dense = values.new_zeros(views * count * count, 7)
        dense[position] = torch.cat([torch.ones_like(values[:, :1]), values], 1)
        blocks = dense.view(views, self.size, s, self.size, s, 7)
        parts = [blocks[:, :, i, :, j] for i in range(s) for j in range(s)]
        total = parts[0].clone()
        for part in parts[1:]:
            total += part
        return total.permute(0, 3, 1, 2).contiguous()

    def _finish(self, pixels: Tensor, light: Tensor) -> tuple[Tensor, ...]:
        covered = pixels[:, :1]
        inside = covered > 0
        mask = covered / self.samples**2
        normal = normalise(pixels[:, 1:4], 1) * inside
        albedo = pixels[:, 4:] / covered.clamp_min(1)
        shading = harmonics.shading(normal, light) * inside
        face = (albedo * shading).clamp(0, 1) * mask
        return mask, normal, albedo, shading, face


def normalise(vectors: Tensor, dim: int) -> Tensor:
    """Normalises vectors along `dim`, of extent 3; 0 stays 0.

    `torch.nn.functional.normalize` takes five times as long at this extent.
    """
    x, y, z = vectors.unbind(dim)
    length = (x * x + y * y + z * z).sqrt_().clamp_min_(1e-12)
    return vectors / length.unsqueeze(dim)
