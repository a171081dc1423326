"""The base of all sets of rendered faces: persons, splits, and the batch of a scene."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ntensor.faces.morphable.face_model import FaceModel
from ntensor.faces.morphable.face_models import load_face_model
from ntensor.faces.rendering.renderer import Camera, Renderer
from ntensor.faces.rendering.skin import Skin, draw_skin

from . import scenes
from .records import VALID
from .scenes import Scenes

Batch = dict[str, Tensor]

# The persons of each split; the splits are disjoint.
SPLITS = {
    "train": range(2000),
    "validation": range(2000, 2100),
    "test": range(2100, 2154),
    "poc-train": range(2154, 2302),
    "poc-test": range(2302, 2324),
}
_STATISTICS_SAMPLES = 512


class Faces:
    """The interface of all rendered sets: `batch`, `face_model`, `sizes`, `statistics`."""

    def __init__(
        self, face_model: FaceModel | None, size: int, camera: Camera | None, device: str
    ) -> None:
        self.device = torch.device(device)
        face = face_model if face_model is not None else load_face_model()
        self.face_model = face.to(self.device)
        self.renderer = Renderer(self.face_model, size, camera)
        self._skins: dict[int, Skin] = {}

    @property
    def sizes(self) -> dict[str, int]:
        """`image` (pixels per side), `id_3dmm` (k_a), `exp_3dmm` (k_b), `shape` (3V)."""
        face = self.face_model
        return {
            "image": self.renderer.size,
            "id_3dmm": face.identity_size,
            "exp_3dmm": face.expression_size,
            "shape": face.shape_size,
        }

    @functools.cached_property
    def statistics(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Mean and standard deviation of `id_3dmm`, `exp_3dmm` and `shape` over training persons.

        They are computed from 512 draws, the same for every split. Deviations are at least 1e-4.
        """
        face = self.face_model
        coefficients = []
        for k in range(_STATISTICS_SAMPLES):
            identity = scenes.draw_identity(SPLITS["train"][k], face.identity_size)
            rng = np.random.default_rng([0, k])
            coefficients.append((identity, scenes.draw_expression(rng, face)[0]))
        identity, expression = (
            torch.from_numpy(np.stack(part)).to(self.device)
            for part in zip(*coefficients, strict=True)
        )
        # In parts: 512 shapes of the ICT face take 132 MB.
        total = torch.zeros(face.shape_size, dtype=torch.double, device=self.device)
        square = torch.zeros_like(total)
        for a, b in zip(identity.split(32), expression.split(32), strict=True):
            shape = face.shape(face.vertices(a, b)).double()
            total += shape.sum(0)
            square += shape.square().sum(0)
        mean = total / _STATISTICS_SAMPLES
        deviation = (square / _STATISTICS_SAMPLES - mean.square()).clamp_min(0).sqrt()
        moments = {
            "id_3dmm": (identity.mean(0), identity.std(0)),
            "exp_3dmm": (expression.mean(0), expression.std(0)),
            "shape": (mean.float(), deviation.float()),
        }
        return {name: (m, s.clamp_min(1e-4)) for name, (m, s) in moments.items()}

    def draw(self, indices: Sequence[int]) -> Scenes:
        """The scenes of these samples, on the CPU."""
        raise NotImplementedError

    def batch(self, indices: Sequence[int] | Tensor) -> Batch:
        """Renders samples.

        Args:
            indices: of the samples. The same index always gives the same sample: bitwise on a CPU,
                up to rounding on a GPU if the rest of the batch differs.

        Returns:
            dict: `image` (n,3,S,S) RGB in 0..1; `mask` (n,1,S,S); `normal` (n,3,S,S) in camera
            axes, unit inside the mask; `albedo`, `shading` (n,3,S,S); `background` (n,3,S,S);
            `light` (n,3,9); `pose` (n,3,3); `angles` (n,3) degrees; `id_3dmm` (n,k_a), `exp_3dmm`
            (n,k_b); `shape` (n,3V) millimetres; `frontal_image`, `frontal_normal`,
            `frontal_albedo` (n,3,S,S) and `frontal_mask` (n,1,S,S) of the same face unrotated
            under the same light, 0 outside the face; `near_frontal` (n,) bool; `identity`,
            `expression`, `pose_bin`, `light_bin` (n,) int64, -1 if unknown; `valid`
            (n, len(records.VALID)) bool, all true here.
        """
        drawn = self.draw([int(index) for index in indices]).to(self.device)
        return self.render(drawn)

    def render(self, drawn: Scenes) -> Batch:
        """As `batch`, for given scenes."""
        if self.device.type != "cpu":
            return self._render(drawn)
        # One at a time: the rounding of a row in a matrix product depends on the number of rows.
        alone = [self._render(drawn[k : k + 1]) for k in range(len(drawn.identity))]
        return {name: torch.cat([sample[name] for sample in alone]) for name in alone[0]}

    def _render(self, drawn: Scenes) -> Batch:
        face, renderer = self.face_model, self.renderer
        pose = scenes.angles_to_rotation(drawn.angles)
        front = torch.eye(3, device=self.device).expand_as(pose)
        vertices = face.vertices(drawn.id_3dmm, drawn.exp_3dmm)
        skin = self._draw_skins(drawn.identity)
        view, frontal = renderer.draw(vertices, [pose, front], skin, drawn.light)
        background = torch.nn.functional.interpolate(
            drawn.background, size=(renderer.size,) * 2, mode="bicubic", align_corners=True
        ).clamp(0, 1)
        near = drawn.angles[:, :2].abs().amax(1) < scenes.NEAR_FRONTAL_DEGREES
        return {
            "image": view.face + (1 - view.mask) * background,
            "mask": view.mask,
            "normal": view.normal,
            "albedo": view.albedo,
            "shading": view.shading,
            "background": background,
            "light": drawn.light,
            "pose": pose,
            "angles": drawn.angles,
            "id_3dmm": drawn.id_3dmm,
            "exp_3dmm": drawn.exp_3dmm,
            "shape": face.shape(vertices),
            "frontal_image": frontal.face,
            "frontal_normal": frontal.normal,
            "frontal_albedo": frontal.albedo,
            "frontal_mask": frontal.mask,
            "near_frontal": near,
            "identity": drawn.identity,
            "expression": drawn.expression,
            "pose_bin": drawn.pose_bin,
            "light_bin": drawn.light_bin,
            "valid": torch.ones(len(pose), len(VALID), dtype=torch.bool, device=self.device),
        }

    def _draw_skins(self, identities: Tensor) -> Skin:
        rows = []
        for identity in identities.tolist():
            if identity not in self._skins:
                self._skins[identity] = draw_skin([identity])
            rows.append(self._skins[identity])
        columns = (
            torch.cat([getattr(row, field.name) for row in rows])
            for field in dataclasses.fields(Skin)
        )
        return Skin(*columns).to(self.device)


def stack(rows: list[list[Any]]) -> Scenes:
    """Stacks rows with the columns of `Scenes`; the light of a row is given as `Lamps`."""
    columns: list[Any] = [list(column) for column in zip(*rows, strict=True)]
    lamps = [field.name for field in dataclasses.fields(Scenes)].index("light")
    columns[lamps] = [scenes.project_lamps([row])[0].numpy() for row in columns[lamps]]
    return Scenes(*(torch.from_numpy(np.stack(column)) for column in columns))
