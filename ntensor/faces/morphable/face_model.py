"""A linear 3D face model: the common interface of all sources of faces."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

# Materials of a vertex; `skin.vertex_albedo` mixes colours by their weights, 0..1.
MATERIALS = ("lips", "brows", "lash", "scalp", "beard", "blush", "teeth", "mouth", "open_sky")


@dataclasses.dataclass(frozen=True)
class FaceModel:
    """A face whose vertices are linear in identity and expression.

    .. math:: v(a, b) = \\bar v + \\sum_k a_k\\, U_k + \\sum_k b_k\\, E_k

    Lengths are in millimetres. Axes: x right in the image, the subject's left; y up; z towards the
    camera. The origin is the centre of rotation, and a frontal face looks along +z. Triangles are
    counter-clockwise as seen from the visible side.

    Attributes:
        source (str): a description of the model, reported with every result.
        mean (Tensor[V, 3]): the mean face.
        identity_modes (Tensor[k_a, V, 3]): displacement for one standard deviation.
        expression_modes (Tensor[k_b, V, 3]): displacement at weight 1; weights are in 0..1.
        expression_names (tuple of str): `k_b` names.
        triangles (Tensor[T, 3], int64)
        parts (Tensor[V], int64): index into `part_names`.
        part_names (tuple of str)
        landmarks68 (Tensor[68], int64): vertices of the 68 Multi-PIE landmarks.
        basic_names, basic_weights (tuple of str, Tensor[7, k_b]): neutral, happy, sad, surprise,
            anger, disgust, fear as expression coefficients.
        materials (Tensor[V, len(MATERIALS)]): weights of the materials.
        eye_direction (Tensor[V, 3]): for vertices of an eyeball, the unit direction from the ball's
            centre, in axes where +z is the gaze; 0 elsewhere.
        shape_vertices (Tensor[V_s], int64): the vertices of the shape that the network predicts.
    """

    source: str
    mean: Tensor
    identity_modes: Tensor
    expression_modes: Tensor
    expression_names: tuple[str, ...]
    triangles: Tensor
    parts: Tensor
    part_names: tuple[str, ...]
    landmarks68: Tensor
    basic_names: tuple[str, ...]
    basic_weights: Tensor
    materials: Tensor
    eye_direction: Tensor
    shape_vertices: Tensor

    def __post_init__(self) -> None:
        # Contiguous columns, since each material is used on its own.
        object.__setattr__(self, "materials", self.materials.t().contiguous().t())

    @property
    def identity_size(self) -> int:
        """`k_a`"""
        return self.identity_modes.shape[0]

    @property
    def expression_size(self) -> int:
        """`k_b`"""
        return self.expression_modes.shape[0]

    @property
    def shape_size(self) -> int:
        """Length of a flattened shape, `3 V_s`; the paper's `k_3d`."""
        return 3 * self.shape_vertices.shape[0]

    def vertices(self, identity: Tensor, expression: Tensor) -> Tensor:
        """Computes the formula of the class for a batch.

        Args:
            identity (Tensor[n, k_a]): standard deviations; with fewer columns, only the first
                modes are used.
            expression (Tensor[n, k_b]): weights.

        Returns:
            Tensor[n, V, 3]: unposed, millimetres.

        Raises:
            ValueError: wrong shape.

        Example:
            >>> import torch
            >>> from ntensor.faces.morphable.analytic_face import make_analytic_face
            >>> face = make_analytic_face(1500)
            >>> identity = torch.zeros(2, face.identity_size)
            >>> face.vertices(identity, torch.zeros(2, face.expression_size)).shape
            torch.Size([2, 1500, 3])
        """
        _check("vertices", "identity", identity, self.identity_size, exact=False)
        _check("vertices", "expression", expression, self.expression_size, exact=True)
        if identity.shape[0] != expression.shape[0]:
            raise ValueError(
                f"vertices: identity has {identity.shape[0]} rows and expression "
                f"{expression.shape[0]}; they must agree"
            )
        return self.express(self.identify(identity), expression)

    def identify(self, identity: Tensor) -> Tensor:
        """The faces (n, V, 3) of persons without an expression; see `vertices`."""
        modes = self.identity_modes[: identity.shape[1]].flatten(1)
        return torch.addmm(self.mean.flatten(), identity, modes).unflatten(1, (-1, 3))

    def express(self, faces: Tensor, expression: Tensor) -> Tensor:
        """The faces (n, V, 3) from `identify`, with an expression (n, k_b)."""
        modes = self.expression_modes.flatten(1)
        return torch.addmm(faces.flatten(1), expression, modes).unflatten(1, (-1, 3))

    def shape(self, vertices: Tensor) -> Tensor:
        """The network's 3D target: the `shape_vertices` of `vertices`, flattened.

        Args:
            vertices (Tensor[n, V, 3])

        Returns:
            Tensor[n, 3 V_s]: row-major `(V_s, 3)`.
        """
        return vertices[:, self.shape_vertices].flatten(1)

    def shape_triangles(self) -> Tensor:
        """The triangles within `shape_vertices`, as indices into it.

        Returns:
            Tensor[T_s, 3], int64
        """
        position = torch.full((self.mean.shape[0],), -1, device=self.mean.device)
        position[self.shape_vertices] = torch.arange(
            self.shape_vertices.shape[0], device=self.mean.device
        )
        inside = position[self.triangles]
        return inside[(inside >= 0).all(1)]

    def select(self, chosen: Tensor) -> FaceModel:
        """The face of some vertices (bool, V), in their order, with the triangles between them.

        Landmarks and the vertices of the shape must be among them.
        """
        position = chosen.cumsum(0) - 1
        inside = chosen[self.triangles].all(1)
        return dataclasses.replace(
            self,
            mean=self.mean[chosen],
            identity_modes=self.identity_modes[:, chosen],
            expression_modes=self.expression_modes[:, chosen],
            triangles=position[self.triangles[inside]],
            parts=self.parts[chosen],
            landmarks68=position[self.landmarks68],
            materials=self.materials[chosen],
            eye_direction=self.eye_direction[chosen],
            shape_vertices=position[self.shape_vertices],
        )

    def to(self, device: torch.device | str) -> FaceModel:
        """The same face with its tensors on `device`."""
        moved: dict[str, Any] = {
            field.name: value.to(device)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return dataclasses.replace(self, **moved)


def make_rigid_face(source: str, mean: Tensor, triangles: Tensor, landmarks68: Tensor) -> FaceModel:
    """A face without modes; all its vertices form the network's shape.

    Args:
        source (str): a description.
        mean (Tensor[V, 3]): millimetres.
        triangles (Tensor[T, 3], int64), landmarks68 (Tensor[68], int64)
    """
    count = len(mean)
    return FaceModel(
        source=source,
        mean=mean,
        identity_modes=mean.new_zeros(0, count, 3),
        expression_modes=mean.new_zeros(0, count, 3),
        expression_names=(),
        triangles=triangles,
        parts=torch.zeros(count, dtype=torch.int64),
        part_names=("face",),
        landmarks68=landmarks68,
        basic_names=(),
        basic_weights=mean.new_zeros(0, 0),
        materials=mean.new_zeros(count, 0),
        eye_direction=mean.new_zeros(count, 3),
        shape_vertices=torch.arange(count),
    )


def _check(operation: str, name: str, value: Tensor, size: int, exact: bool) -> None:
    fits = value.dim() == 2 and (value.shape[1] == size or (not exact and value.shape[1] < size))
    if not fits:
        wanted = f"(n, {size})" + ("" if exact else " or fewer columns")
        raise ValueError(f"{operation}: {name} must have shape {wanted}, got {tuple(value.shape)}")
