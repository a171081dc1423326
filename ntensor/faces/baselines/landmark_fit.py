"""The fit of a linear face model to landmarks, and edits by it: the paper's 3DMM baseline."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ntensor.faces.morphable.face_model import FaceModel
from ntensor.faces.rendering import harmonics
from ntensor.faces.rendering.rasteriser import rasterise
from ntensor.faces.rendering.renderer import Camera, Renderer

# A surface seen at a smaller cosine than this has no usable colours.
_GRAZING = 0.15
# Of an estimated shading that divides, and of a ratio of two.
_DARKEST, _LARGEST_RATIO = 0.02, 2.0
_RIDGE = 1e-2


@dataclass(frozen=True)
class LandmarkFit:
    """Faces of a linear model in a scaled orthographic camera, `p = scale (R v)_xy + translation`.

    Attributes:
        identity (Tensor[n, k_a]): standard deviations.
        expression (Tensor[n, k_b]): weights.
        pose (Tensor[n, 3, 3]): rotations from the model's axes to the camera's.
        scale (Tensor[n])
        translation (Tensor[n, 2]): millimetres.
    """

    identity: Tensor
    expression: Tensor
    pose: Tensor
    scale: Tensor
    translation: Tensor

    def vertices(self, face: FaceModel) -> Tensor:
        """Unposed vertices (n, V, 3), millimetres of the face model."""
        return face.vertices(self.identity, self.expression)

    def posed(self, face: FaceModel) -> Tensor:
        """Vertices (n, V, 3) in the camera's axes, scaled and moved."""
        turned = self.vertices(face) @ self.pose.mT * self.scale[:, None, None]
        return turned + F.pad(self.translation, (0, 1))[:, None]

    def landmarks(self, face: FaceModel) -> Tensor:
        """The 68 landmarks (n, 68, 2), millimetres in the camera."""
        return self.posed(face)[:, face.landmarks68, :2]

    def __getitem__(self, index: Any) -> LandmarkFit:
        """Some of the faces."""
        return LandmarkFit(*(getattr(self, field.name)[index] for field in fields(self)))

    def with_expression(self, other: LandmarkFit) -> LandmarkFit:
        """The same faces with the expressions of others."""
        return replace(self, expression=other.expression)

    def with_pose(self, other: LandmarkFit) -> LandmarkFit:
        """The same faces with rotation, scale and translation of others."""
        return replace(self, pose=other.pose, scale=other.scale, translation=other.translation)


def project(
    face: FaceModel, identity: Tensor, expression: Tensor, pose: Tensor, vertices: Tensor | None
) -> Tensor:
    """Millimetres (n, P, 2) in the camera of some vertices; default: the 68 landmarks."""
    chosen = face.landmarks68 if vertices is None else vertices
    return (face.vertices(identity, expression)[:, chosen] @ pose.mT)[..., :2]


def to_pixels(points: Tensor, size: int, camera: Camera | None = None) -> Tensor:
    """Places in the picture, `(column, row)` from the upper left corner of the upper left pixel.

    Args:
        points (Tensor[..., 2]): millimetres in the camera, y up.
        size (int): pixels a side.
        camera (Camera)
    """
    camera = camera or Camera()
    step = size / (2 * camera.half_width)
    moved = (points - points.new_tensor(camera.center)) * points.new_tensor([step, -step])
    return moved + size / 2


def from_pixels(places: Tensor, size: int, camera: Camera | None = None) -> Tensor:
    """The inverse of `to_pixels`."""
    camera = camera or Camera()
    step = 2 * camera.half_width / size
    moved = (places - size / 2) * places.new_tensor([step, -step])
    return moved + places.new_tensor(camera.center)


def fit_landmarks(
    face: FaceModel,
    landmarks: Tensor,
    *,
    scale: float | None = None,
    noise: float = 1.0,
    spread: float = 0.2,
    iterations: int = 10,
) -> LandmarkFit:
    r"""Camera, identity and expression of 68 landmarks, by alternating least squares.

    .. math:: \min \sum_j |p_j - s (R\,v_j(a, b))_{xy} - t|^2 / noise^2 + |a|^2
              + |b - \bar b|^2 / spread^2

    In turn: the camera, the affine least-squares solution drawn to the nearest scaled rotation;
    then `a` and `b` together, a ridge regression, with `b` held in 0 to 1.

    Args:
        face (FaceModel)
        landmarks (Tensor[n, 68, 2]): millimetres in the camera, y up; see `from_pixels`.
        scale (float or None): of the camera where it is known; None: found.
        noise (float): standard deviation of the landmarks, millimetres.
        spread (float): standard deviation of an expression's weights about the mean of the basic
            expressions.
        iterations (int): few, since the camera's step knows nothing of the priors: with many, depth
            is traded for rotation.

    Returns:
        LandmarkFit

    Raises:
        ValueError: another shape.

    Example:
        >>> import torch
        >>> from ntensor.faces.morphable.analytic_face import analytic_face
        >>> from ntensor.faces.baselines import fit_landmarks
        >>> from ntensor.faces.baselines.landmark_fit import project
        >>> face = analytic_face(1500)
        >>> identity, weights = torch.zeros(1, face.identity_size), face.basic_weights[:1]
        >>> seen = project(face, identity, weights, torch.eye(3)[None], None)
        >>> bool((fit_landmarks(face, seen).pose - torch.eye(3)).abs().max() < 0.05)
        True
    """
    if landmarks.dim() != 3 or landmarks.shape[1:] != (68, 2):
        raise ValueError(
            f"fit_landmarks: landmarks must have shape (n, 68, 2), got {tuple(landmarks.shape)}"
        )
    n, chosen = len(landmarks), face.landmarks68
    mean = face.mean[chosen]
    modes = torch.cat([face.identity_modes, face.expression_modes])[:, chosen]  # (k, 68, 3)
    usual = face.basic_weights.mean(0)
    k_a = face.identity_size
    prior = torch.cat([usual.new_zeros(k_a), usual])
    weight = torch.cat([usual.new_ones(k_a), torch.full_like(usual, spread**-2)])
    coefficients = prior.expand(n, -1)
    for _ in range(iterations):
        points = mean + torch.einsum("nk,kpc->npc", coefficients, modes)
        pose, s, t = _camera(points, landmarks, scale)
        # Rows of s R that are seen, applied to every mode: (n, k, 68, 2).
        seen = torch.einsum("nic,kpc->nkpi", s[:, None, None] * pose[:, :2], modes)
        still = torch.einsum("nic,pc->npi", s[:, None, None] * pose[:, :2], mean) + t[:, None]
        rest = (landmarks - still).flatten(1)
        a = seen.flatten(2)  # (n, k, 136)
        system = a @ a.mT / noise**2 + torch.diag(weight)
        right = (a @ rest.unsqueeze(2)).squeeze(2) / noise**2 + weight * prior
        coefficients = torch.linalg.solve(system, right)
        coefficients = torch.cat([coefficients[:, :k_a], coefficients[:, k_a:].clamp(0, 1)], 1)
    points = mean + torch.einsum("nk,kpc->npc", coefficients, modes)
    pose, s, t = _camera(points, landmarks, scale)
    return LandmarkFit(coefficients[:, :k_a], coefficients[:, k_a:], pose, s, t)


def _camera(
    points: Tensor, landmarks: Tensor, scale: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Rotations (n, 3, 3), scales (n,) and translations (n, 2) that bring points to landmarks."""
    centre, middle = points.mean(1, keepdim=True), landmarks.mean(1, keepdim=True)
    x, p = points - centre, landmarks - middle
    affine = torch.linalg.solve(x.mT @ x, x.mT @ p).mT  # (n, 2, 3)
    u, values, v = torch.linalg.svd(affine, full_matrices=False)
    rows = u @ v
    pose = torch.cat([rows, torch.linalg.cross(rows[:, :1], rows[:, 1:], dim=2)], 1)
    s = values.mean(1) if scale is None else torch.full_like(values[:, 0], scale)
    moved = (pose[:, :2] @ centre.mT).squeeze(2) * s[:, None]
    return pose, s, middle.squeeze(1) - moved


def rewarp(
    face: FaceModel,
    image: Tensor,
    source: LandmarkFit,
    target: LandmarkFit,
    light: Tensor | None = None,
    camera: Camera | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures of the fitted target faces with the colours of the source's picture.

    Every pixel of the target face takes the colour at the place of the same surface point in the
    source's picture, times the ratio of the shadings there and here (see `estimate_light`). Where
    the source does not show the point, it takes that of the mirrored place, and where neither is
    seen the mean colour of the source's face. Around the target face the source's picture stays.
    As in the paper's figure 8, the inside of a mouth that was closed is not known.

    Args:
        face (FaceModel)
        image (Tensor[n, 3, S, S]): the sources' pictures, 0 to 1.
        source, target (LandmarkFit): of `n` faces.
        light (Tensor[n, 3, 9] or None): of the target's picture, from `estimate_light`;
            None: the source's.
        camera (Camera)

    Returns:
        (Tensor[n, 3, S, S], Tensor[n, 1, S, S], Tensor[n, 3, S, S]): picture, 1 inside the
        target's face, and its unit normals, 0 outside.
    """
    size = image.shape[-1]
    own_light = estimate_light(face, image, source, camera)
    renderer = Renderer(face, size, camera)
    start, end = (fit.posed(face) for fit in (source, target))
    normal, turned = renderer.vertex_normals(start), renderer.vertex_normals(end)
    place = to_pixels(start[..., :2], size, camera)
    shown = _visible(face, _rows_up(start, 2 * size, camera), 2 * size)
    shown = shown * (normal[..., 2:] > _GRAZING)
    mirrored = _mirror(face)
    known = torch.cat([place, shown, normal], 2)
    found, inside = _drawn(
        face,
        _rows_up(end, size, camera),
        torch.cat([known, known[:, mirrored], turned], 2),
        size,
    )
    normals = F.normalize(found[:, 12:], dim=1) * inside
    colours, usable = [], []
    for first in (0, 6):
        there = harmonics.shading(F.normalize(found[:, first + 3 : first + 6], dim=1), own_light)
        here = harmonics.shading(normals, own_light if light is None else light)
        ratio = (here / there.clamp_min(_DARKEST)).clamp(1 / _LARGEST_RATIO, _LARGEST_RATIO)
        colours.append(_sampled(image, found[:, first : first + 2]) * ratio)
        usable.append((found[:, first + 2 : first + 3] > 0.5) & (inside > 0))
    count = usable[0].sum((2, 3), keepdim=True).clamp_min(1)
    mean = ((colours[0] * usable[0]).sum((2, 3), keepdim=True) / count).expand_as(image)
    colour = torch.where(usable[0], colours[0], torch.where(usable[1], colours[1], mean))
    return inside * colour.clamp(0, 1) + (1 - inside) * image, inside, normals


def estimate_light(
    face: FaceModel, image: Tensor, fit: LandmarkFit, camera: Camera | None = None
) -> Tensor:
    """The light that explains the picture by the fitted normals and one colour of the whole face.

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
    posed = fit.posed(face)
    normal = Renderer(face, size, camera).vertex_normals(posed)
    normals, inside = _drawn(face, _rows_up(posed, size, camera), normal, size)
    basis = harmonics.basis(F.normalize(normals, dim=1)) * inside
    basis, colours = basis.flatten(2), (image * inside).flatten(2)  # (n, 9, P), (n, 3, P)
    covered = inside.flatten(1).sum(1).clamp_min(1)
    ridge = _RIDGE * covered[:, None, None] * torch.eye(9).to(image)
    return torch.linalg.solve(basis @ basis.mT + ridge, basis @ colours.mT).mT


def _rows_up(points: Tensor, size: int, camera: Camera | None) -> Tensor:
    """Points as the rasteriser takes them, with rows counted upwards."""
    places = to_pixels(points[..., :2], size, camera)
    return torch.cat([places[..., :1], size - places[..., 1:], points[..., 2:]], 2)


def _drawn(face: FaceModel, points: Tensor, values: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Values of the vertices (n, V, C) as maps (n, C, S, S), and 1 where the face is."""
    n = len(points)
    fragments = rasterise(points, face.triangles, size)
    maps = values.new_zeros(n * size * size, values.shape[2])
    maps[fragments.position] = fragments.interpolate(values, face.triangles)
    inside = values.new_zeros(n * size * size, 1)
    inside[fragments.position] = 1
    shape = (n, size, size, -1)
    return maps.view(shape).permute(0, 3, 1, 2), inside.view(shape).permute(0, 3, 1, 2)


def _sampled(image: Tensor, places: Tensor) -> Tensor:
    grid = places.permute(0, 2, 3, 1) * 2 / image.shape[-1] - 1
    return F.grid_sample(image, grid, padding_mode="border", align_corners=False)


def _visible(face: FaceModel, points: Tensor, size: int) -> Tensor:
    """1 for vertices (n, V, 1) that are a corner of a triangle that is seen, else 0."""
    fragments = rasterise(points, face.triangles, size)
    marked = points.new_zeros(points.shape[0] * points.shape[1])
    for corner in face.triangles[fragments.triangle].unbind(1):
        marked[fragments.image * points.shape[1] + corner] = 1
    return marked.view(points.shape[0], -1, 1)


def _mirror(face: FaceModel) -> Tensor:
    """The vertex nearest to each vertex's mirror image (V,)."""
    flipped = face.mean * face.mean.new_tensor([-1.0, 1.0, 1.0])
    return torch.cat([torch.cdist(part, face.mean).argmin(1) for part in flipped.split(2048)])
