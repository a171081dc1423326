"""The fit of a linear face model to landmarks: the paper's 3DMM baseline."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ntensor.faces.morphable.face_model import FaceModel
from ntensor.faces.rendering.renderer import Camera


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

    def pose_vertices(self, face: FaceModel) -> Tensor:
        """Vertices (n, V, 3) in the camera's axes, scaled and moved."""
        turned = self.vertices(face) @ self.pose.mT * self.scale[:, None, None]
        return turned + F.pad(self.translation, (0, 1))[:, None]

    def landmarks(self, face: FaceModel) -> Tensor:
        """The 68 landmarks (n, 68, 2), millimetres in the camera."""
        return self.pose_vertices(face)[:, face.landmarks68, :2]

    def __getitem__(self, index: Any) -> LandmarkFit:
        """Some of the faces."""
        return LandmarkFit(*(getattr(self, field.name)[index] for field in fields(self)))

    def with_expression(self, other: LandmarkFit) -> LandmarkFit:
        """The same faces with the expressions of `other`."""
        return replace(self, expression=other.expression)

    def with_pose(self, other: LandmarkFit) -> LandmarkFit:
        """The same faces with the rotations, scales and translations of `other`."""
        return replace(self, pose=other.pose, scale=other.scale, translation=other.translation)


def project(
    face: FaceModel, identity: Tensor, expression: Tensor, pose: Tensor, vertices: Tensor | None
) -> Tensor:
    """Projects vertices, by default the 68 landmarks, to the camera (n, P, 2); millimetres."""
    chosen = face.landmarks68 if vertices is None else vertices
    return (face.vertices(identity, expression)[:, chosen] @ pose.mT)[..., :2]


def to_pixels(points: Tensor, size: int, camera: Camera | None = None) -> Tensor:
    """Positions in the picture, `(column, row)` from the outer corner of the upper left pixel.

    Args:
        points (Tensor[..., 2]): millimetres in the camera, y up.
        size (int): pixels per side.
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
    r"""Fits camera, identity and expression to 68 landmarks by alternating least squares.

    .. math:: \min \sum_j |p_j - s (R\,v_j(a, b))_{xy} - t|^2 / noise^2 + |a|^2
              + |b - \bar b|^2 / spread^2

    Two steps alternate: the camera, as the affine least-squares solution projected to the nearest
    scaled rotation; then `a` and `b` together, by ridge regression, with `b` clamped to 0 to 1.

    Args:
        face (FaceModel)
        landmarks (Tensor[n, 68, 2]): millimetres in the camera, y up; see `from_pixels`.
        scale (float or None): of the camera, if it is known; None: it is fitted.
        noise (float): standard deviation of the landmarks, millimetres.
        spread (float): standard deviation of an expression's weights about the mean of the basic
            expressions.
        iterations (int): should be few, since the camera's step ignores the priors: with many,
            depth is traded for rotation.

    Returns:
        LandmarkFit

    Raises:
        ValueError: wrong shape.

    Example:
        >>> import torch
        >>> from ntensor.faces.morphable.analytic_face import make_analytic_face
        >>> from ntensor.faces.baselines import fit_landmarks
        >>> from ntensor.faces.baselines.landmark_fit import project
        >>> face = make_analytic_face(1500)
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
        pose, s, t = _fit_camera(points, landmarks, scale)
        # The first two rows of s R, applied to every mode: (n, k, 68, 2).
        seen = torch.einsum("nic,kpc->nkpi", s[:, None, None] * pose[:, :2], modes)
        still = torch.einsum("nic,pc->npi", s[:, None, None] * pose[:, :2], mean) + t[:, None]
        rest = (landmarks - still).flatten(1)
        a = seen.flatten(2)  # (n, k, 136)
        system = a @ a.mT / noise**2 + torch.diag(weight)
        right = (a @ rest.unsqueeze(2)).squeeze(2) / noise**2 + weight * prior
        coefficients = torch.linalg.solve(system, right)
        coefficients = torch.cat([coefficients[:, :k_a], coefficients[:, k_a:].clamp(0, 1)], 1)
    points = mean + torch.einsum("nk,kpc->npc", coefficients, modes)
    pose, s, t = _fit_camera(points, landmarks, scale)
    return LandmarkFit(coefficients[:, :k_a], coefficients[:, k_a:], pose, s, t)


def _fit_camera(
    points: Tensor, landmarks: Tensor, scale: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Rotations (n, 3, 3), scales (n,) and translations (n, 2) that map points to landmarks."""
    centre, middle = points.mean(1, keepdim=True), landmarks.mean(1, keepdim=True)
    x, p = points - centre, landmarks - middle
    affine = torch.linalg.solve(x.mT @ x, x.mT @ p).mT  # (n, 2, 3)
    u, values, v = torch.linalg.svd(affine, full_matrices=False)
    rows = u @ v
    pose = torch.cat([rows, torch.linalg.cross(rows[:, :1], rows[:, 1:], dim=2)], 1)
    s = values.mean(1) if scale is None else torch.full_like(values[:, 0], scale)
    moved = (pose[:, :2] @ centre.mT).squeeze(2) * s[:, None]
    return pose, s, middle.squeeze(1) - moved
