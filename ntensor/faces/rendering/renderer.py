"""Renders a face model to pictures and all their maps, for a batch, on any device.

The camera is scaled orthographic and looks along -z. Normals are in its axes: x right in the image,
y up, z towards the camera. Maps are rendered with 2 x 2 samples per pixel. Shading and composition
use the resulting pixels, so for the maps of one batch

.. math:: image = mask * clamp(albedo * shading, 0, 1) + (1 - mask) * background

holds up to rounding.
"""

from __future__ import annotations

import dataclasses
import functools

import torch
from torch import Tensor

from ntensor.faces.common.errors import ConfigurationError
from ntensor.faces.morphable.face_model import FaceModel

from . import harmonics
from .rasteriser import Fragments, find, rasterise
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
        is_eye = (face.eye_direction.abs().sum(1) > 0).float()[face.triangles[:, 0]]
        self._has_eyes = torch.nn.functional.pad(is_eye, (0, 1))  # the last is any other mesh
        eye = torch.cat([face.eye_direction, face.materials[:, -1:]], 1)
        # Contiguous columns, as `rasterise` and `interpolate` expect them.
        self._eye_values = eye.t().contiguous().t()
        self.triangles = face.triangles.t().contiguous().t()

    def compute_vertex_normals(self, vertices: Tensor) -> Tensor:
        """Unit vertex normals: the area-weighted mean of the adjacent triangles' normals.

        Args:
            vertices (Tensor[n, V, 3])

        Returns:
            Tensor[n, V, 3]
        """
        x, y, z = vertices.permute(2, 1, 0).contiguous()  # (V, n) each
        n = len(vertices)
        rows: list[Tensor] = []
        sides = []
        for axis in (x, y, z):
            axis = axis[:, 0] if n == 1 else axis
            a, b, c = (axis.index_select(0, corner) for corner in self.triangles.t())
            sides.append((b - a, c - a))
        for k in range(3):
            (u, v), (s, t) = sides[k - 2], sides[k - 1]
            rows.append((u * t).sub_(s * v))  # (T, n), or (T) of a single face
        across = torch.stack(rows, 1).flatten(1)  # (T, 3n)
        total = torch.nn.functional.embedding_bag(
            self._by_vertex, across, self._offsets, mode="sum"
        )
        planes = total.t().unflatten(0, (3, n)).contiguous()
        return normalise(planes, 0).permute(1, 2, 0)

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
        self,
        vertices: Tensor,
        poses: list[Tensor],
        colour: Tensor,
        skin: Skin,
        light: Tensor,
        normals: Tensor | None = None,
    ) -> list[Maps]:
        """As `draw`, with given vertex colours (n, V, 3); the eyeballs are painted by `skin`.

        `normals` are those of `compute_vertex_normals`, if they are known.
        """
        n = len(vertices)
        for pose in poses:
            if pose.shape != (n, 3, 3):
                raise ValueError(
                    f"draw: each pose must have shape ({n}, 3, 3), got {tuple(pose.shape)}"
                )
        if normals is None:
            normals = self.compute_vertex_normals(vertices)
        given = torch.cat([normals.mT, colour.mT], 1).mT
        return [self._draw_view(vertices, pose, given, skin, light) for pose in poses]

    def _draw_view(
        self, vertices: Tensor, pose: Tensor, given: Tensor, skin: Skin, light: Tensor
    ) -> Maps:
        """One view; `given` (n, V, 6) are normals and colours."""
        n, count = len(vertices), self.size * self.samples
        screen = self.project(pose @ vertices.mT).mT
        fragments = rasterise(screen, self.triangles, count)
        values = fragments.interpolate(given, self.triangles)
        values[:, :3] = normalise(turn(pose, values[:, :3], fragments.image), 1)
        self.paint_eyes(values, fragments, skin, n)
        everything = fragments.position, values.t()
        return self._finish(self.sum_samples(*everything, n).movedim(0, 1).contiguous(), light)

    def project(self, points: Tensor) -> Tensor:
        """Points (n, 3, V), millimetres, in samples of the standard camera; see `rasterise`."""
        scale = self.size * self.samples / (2 * self.camera.half_width)
        middle = points.new_tensor([*self.camera.center, 0.0])[:, None]
        return (points - middle).mul_(scale).add_(self.size * self.samples / 2)

    def paint_eyes(self, values: Tensor, fragments: Fragments, skin: Skin, n: int) -> None:
        """Writes the colours of eyeballs into columns 3 to 5 of `values`.

        Args:
            values (Tensor[k, C]): one row per fragment.
            fragments (Fragments): of the face's triangles, which come before any others.
            skin (Skin): `n` faces, repeated over the batch.
            n (int)
        """
        triangle = fragments.triangle.clamp(max=len(self._has_eyes) - 1)
        eyes = find(self._has_eyes.index_select(0, triangle), 1)
        part = Fragments(
            *(
                getattr(fragments, f.name).index_select(0, eyes)
                for f in dataclasses.fields(fragments)
            )
        )
        alone = dataclasses.replace(part, image=torch.zeros_like(part.image))
        eye = alone.interpolate(self._eye_values[None], self.triangles)
        owner = skin if n == 1 else skin[part.image % n]
        values[eyes, 3:6] = eye_albedo(owner, eye[:, :3], eye[:, 3:])

    def sum_samples(self, position: Tensor, values: Tensor, n: int) -> Tensor:
        """Sums samples over each pixel.

        Args:
            position (Tensor[k], int64): see `Fragments`.
            values (Tensor[C, k])
            n (int): number of pictures.

        Returns:
            Tensor[C + 1, n, size, size]: the number of samples comes first.
        """
        size, s = self.size, self.samples
        padded = values.new_zeros(len(values) + 1, values.shape[1] + 1)
        padded[0, 1:] = 1
        padded[1:, 1:] = values
        index = torch.zeros(n * (size * s) ** 2, dtype=torch.long, device=values.device)
        index[position] = torch.arange(1, padded.shape[1], device=values.device)
        # (s * s, n, size, size): all first samples of pixels, then all second ones.
        index = index.view(n, size, s, size, s).permute(2, 4, 0, 1, 3).flatten()
        samples = values.new_empty(len(padded), len(index))
        for plane, sample in zip(padded, samples, strict=True):
            torch.index_select(plane, 0, index, out=sample)
        first, *others = samples.view(len(padded), s * s, n, size, size).unbind(1)
        return functools.reduce(torch.add, others, first)

    def _finish(self, pixels: Tensor, light: Tensor) -> Maps:
        """The maps of sums (n, 7, size, size) of coverage, normals and albedo."""
        covered = pixels[:, :1]
        inside = covered > 0
        mask = covered / self.samples**2
        normal = normalise(pixels[:, 1:4], 1) * inside
        albedo = pixels[:, 4:] / covered.clamp_min(1)
        shading = harmonics.shading(normal, light) * inside
        face = (albedo * shading).clamp(0, 1) * mask
        return Maps(mask, normal, albedo, shading, face)


def turn(rotation: Tensor, vectors: Tensor, image: Tensor) -> Tensor:
    """Rotates vectors (k, 3), each by the rotation (n, 3, 3) of its picture `image` (k)."""
    if len(rotation) == 1:
        return (rotation[0] @ vectors.t()).t()
    return (rotation[image] @ vectors[:, :, None])[..., 0]


def normalise(vectors: Tensor, dim: int) -> Tensor:
    """Normalises vectors along `dim`, of extent 3; 0 stays 0.

    `torch.nn.functional.normalize` takes five times as long at this extent.
    """
    x, y, z = vectors.unbind(dim)
    length = (x * x + y * y + z * z).sqrt_().clamp_min_(1e-12)
    return vectors / length.unsqueeze(dim)
