"""Wild faces: generated with realistic variation, so that training transfers to photographs.

The targets are those of `Faces.batch`: the face under the light of the harmonics. `input`, the
picture as a camera delivers it, adds hair, glasses and hats in front of the face, a hard lamp with
shadows and gloss, and the degradation by camera, file and crop.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ntensor.faces.common.errors import ConfigurationError
from ntensor.faces.morphable.face_model import MATERIALS, FaceModel
from ntensor.faces.rendering import harmonics
from ntensor.faces.rendering.backdrops import draw_backdrop
from ntensor.faces.rendering.degradation import degrade
from ntensor.faces.rendering.lamps import HardLight, cast_shadows, join, shade_hard
from ntensor.faces.rendering.props import (
    Mesh,
    find_surface,
    make_brim,
    make_collar,
    make_glasses,
    make_hair,
)
from ntensor.faces.rendering.renderer import Renderer
from ntensor.faces.rendering.skin import vertex_albedo
from ntensor.faces.rendering.wild import Layers, draw_layers

from . import scenes, worlds
from .records import DIFFERS, VALID
from .rendered import SPLITS, Batch, Faces
from .worlds import FIELDS, Person, Picture, World

# How often the pictures of a pair differ in everything but the person, or in one factor only.
_SHARES = {"all": 0.45, "expression": 0.25, "pose": 0.1, "light": 0.2}
_HIDDEN = ("eye_socket_left", "eye_socket_right", "gums_tongue")
_DULL = 0.3  # gloss of props relative to the face's
_LOOSE = 0.35  # share of the head's yaw that the shoulders follow


class WildFaces(Faces):
    """Wild pictures of a split's persons, in pairs.

    Samples `2k` and `2k + 1` show the same person. They differ in everything else, or only in
    expression, pose or light, as given by `differs`.

    Args:
        face_model (FaceModel or None): None: `load_face_model()`.
        split (str): as for `GeneratedFaces`.
        size (int): pixels per side.
        seed (int)
        world (World): the ranges of the variation.

    Example:
        >>> from ntensor.faces.datasets.wild import WildFaces
        >>> batch = WildFaces(size=64).batch([0, 1])
        >>> batch["input"].shape, bool(batch["identity"][0] == batch["identity"][1])
        (torch.Size([2, 3, 64, 64]), True)
    """

    def __init__(
        self,
        face_model: FaceModel | None = None,
        split: str = "train",
        size: int = 64,
        seed: int = 0,
        world: World = worlds.TRAINING,
        device: str = "cpu",
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"WildFaces: split must be one of {', '.join(SPLITS)}, got {split!r}")
        if torch.device(device).type != "cpu":
            raise ConfigurationError(f"WildFaces: device must be cpu, got {device}")
        super().__init__(face_model, size, None, device)
        surface = find_surface(self.face_model)
        self._drawn, place = _leave_out(self.face_model, torch.from_numpy(surface))
        self.renderer = Renderer(self._drawn, size)
        self.split, self.persons, self.seed = split, SPLITS[split], seed
        self.world = world
        self._surface = place[surface].numpy()
        self._persons: dict[int, tuple[Person, Tensor]] = {}
        self._neutral: tuple[int, Tensor] | None = None

    def batch(self, indices: Sequence[int] | Tensor) -> Batch:
        """As `Faces.batch`, with `input` and `differs`; only near-frontal faces have frontal maps.

        The others' frontal maps are zero.
        """
        alone = [self.render_picture(*self.draw_one(int(index))) for index in indices]
        return {name: torch.cat([sample[name] for sample in alone]) for name in alone[0]}

    def draw_one(self, index: int) -> tuple[int, Picture, int]:
        """The person, the picture and the label `differs` of a sample."""
        pair, second = divmod(index, 2)
        split = list(SPLITS).index(self.split)
        key = [self.world.seed, self.seed, split, pair]
        rng = np.random.default_rng(key)
        person = int(rng.choice(self.persons))
        differs = str(rng.choice(list(_SHARES), p=list(_SHARES.values())))
        drawn = [
            worlds.draw_picture(
                self.world, np.random.default_rng([*key, k]), self.face_model,
                self.find_person(person)[0], 2 * pair + k,
            )
            for k in ((second,) if differs == "all" else range(second + 1))
        ]  # fmt: skip
        picture = drawn[0]
        if second and differs != "all":
            changed = {name: getattr(drawn[1], name) for name in FIELDS[differs]}
            picture = dataclasses.replace(picture, **changed)
        return person, picture, DIFFERS.index(differs)

    def find_person(self, identity: int) -> tuple[Person, Tensor]:
        """The person, and the colours (1, V, 3) of the vertices that are drawn."""
        if identity not in self._persons:
            person = worlds.draw_person(self.world, identity)
            self._persons[identity] = person, self._paint(person)
        return self._persons[identity]

    def _paint(self, person: Person) -> Tensor:
        face = self._drawn
        if not person.cropped:
            bald = face.materials.clone()
            bald[:, MATERIALS.index("scalp")] = 0
            face = dataclasses.replace(face, materials=bald)
        return person.patches.paint(face, vertex_albedo(face, person.skin))

    def render_picture(self, identity: int, picture: Picture, differs: int) -> Batch:
        """Renders one sample; see `batch`."""
        face, size = self._drawn, self.renderer.size
        person, colour = self.find_person(identity)
        shape = torch.from_numpy(scenes.draw_identity(identity, face.identity_size))[None]
        expression = torch.from_numpy(picture.expression)[None]
        angles = torch.from_numpy(picture.angles)[None]
        pose = scenes.angles_to_rotation(angles)
        vertices = face.express(self._find_neutral(identity, shape), expression)
        normals = self.renderer.compute_vertex_normals(vertices)
        light, scale = scenes.project_lamp(picture.lamps)
        layers = draw_layers(
            self.renderer, vertices, normals, colour, person.skin, pose,
            self._dress(picture, vertices[0], angles, pose), picture.lens,
        )  # fmt: skip
        backdrop = torch.from_numpy(draw_backdrop(picture.backdrop, size))[None]
        soft = harmonics.shading(layers.both.normal, light.expand(2, -1, -1))
        maps = _shade(layers, soft, backdrop)
        seen = _photograph(layers, picture, soft, scale, backdrop)
        near = angles[:, :2].abs().amax(1) < scenes.NEAR_FRONTAL_DEGREES
        valid = torch.ones(1, len(VALID), dtype=torch.bool)
        valid[:, VALID.index("frontal")] = near
        return {
            **maps,
            **self._draw_front(vertices, normals, colour, person, light, bool(near)),
            "input": seen,
            "light": light,
            "pose": pose,
            "angles": angles,
            "id_3dmm": shape,
            "exp_3dmm": expression,
            "shape": face.shape(vertices),
            "near_frontal": near,
            "identity": torch.tensor([identity]),
            "expression": torch.tensor([picture.label]),
            "pose_bin": torch.tensor([scenes.find_pose_bin(float(angles[0, 0]))]),
            "light_bin": torch.tensor([picture.light_bin]),
            "differs": torch.tensor([differs]),
            "valid": valid,
        }

    def _find_neutral(self, identity: int, shape: Tensor) -> Tensor:
        """The person's face without expression; a pair needs it twice."""
        if self._neutral is None or self._neutral[0] != identity:
            self._neutral = identity, self._drawn.identify(shape)
        return self._neutral[1]

    def _dress(
        self, picture: Picture, vertices: Tensor, angles: Tensor, pose: Tensor
    ) -> list[tuple[Mesh, Tensor]]:
        points = vertices.double().numpy()
        meshes = []
        if picture.hair is not None:
            meshes.append(make_hair(self._surface, points, picture.hair, picture.backdrop))
        if picture.hat is not None:
            hat, reach = picture.hat
            meshes.append(make_hair(self._surface, points, hat, picture.backdrop))
            if reach:
                meshes.append(make_brim(meshes[-1], reach, hat.colour))
        if picture.glasses is not None:
            meshes.append(make_glasses(self._drawn, points, picture.glasses))
        meshes.append(make_collar(points, *picture.collar))
        shoulders = scenes.angles_to_rotation(angles * torch.tensor([_LOOSE, 0, 0]))
        return [(mesh, pose if mesh.rigid else shoulders) for mesh in meshes]

    def _draw_front(
        self,
        vertices: Tensor,
        normals: Tensor,
        colour: Tensor,
        person: Person,
        light: Tensor,
        near: bool,
    ) -> Batch:
        size = self.renderer.size
        if not near:
            empty = torch.zeros(1, 3, size, size)
            maps = dict.fromkeys(("frontal_image", "frontal_normal", "frontal_albedo"), empty)
            return {**maps, "frontal_mask": empty[:, :1]}
        view = self.renderer.draw_painted(
            vertices, [torch.eye(3)[None]], colour, person.skin, light, normals
        )[0]
        return {
            "frontal_image": view.face,
            "frontal_normal": view.normal,
            "frontal_albedo": view.albedo,
            "frontal_mask": view.mask,
        }


class LabelledFaces(WildFaces):
    """The persons of a split with every basic expression but neutral, under one of nine lights.

    The index of a sample is `(repeat * persons + person) * expressions + expression`; everything
    else is drawn. Light `3 a + e` has azimuth -70, 0 or 70 and elevation -15, 25 or 60 degrees. The
    labels `expression` and `light_bin` are known, for probes of the codes.
    """

    def draw_one(self, index: int) -> tuple[int, Picture, int]:
        expressions = len(self.face_model.basic_names) - 1
        rest, expression = divmod(index, expressions)
        person = self.persons[rest % len(self.persons)]
        rng = np.random.default_rng([self.world.seed, self.seed, index, 0x1AB])
        picture = worlds.draw_picture(
            self.world, rng, self.face_model, self.find_person(person)[0], index
        )
        label = [k for k, n in enumerate(self.face_model.basic_names) if n != "neutral"][expression]
        light = int(rng.integers(9))
        lamps = dataclasses.replace(
            picture.lamps,
            azimuth=np.array([(-70.0, 0.0, 70.0)[light // 3], 0.0]),
            elevation=np.array([(-15.0, 25.0, 60.0)[light % 3], 0.0]),
        )
        known = dataclasses.replace(
            picture,
            expression=self.face_model.basic_weights[label].numpy()
            * np.float32(rng.uniform(0.8, 1)),
            label=label,
            lamps=lamps,
            light_bin=light,
        )
        return person, known, -1


def _leave_out(face: FaceModel, needed: Tensor) -> tuple[FaceModel, Tensor]:
    """The face without the triangles that are never visible, and vertices that only those need.

    Args:
        face (FaceModel)
        needed (Tensor, int64): vertices that stay.

    Returns:
        FaceModel; its vertex for each vertex of `face` (V), int64
    """
    hidden = [k for k, name in enumerate(face.part_names) if name in _HIDDEN]
    part = face.parts[face.triangles[:, 0]]
    triangles = face.triangles[~torch.isin(part, torch.tensor(hidden, dtype=part.dtype))]
    chosen = torch.zeros(len(face.mean), dtype=torch.bool)
    for vertices in (triangles, needed, face.shape_vertices, face.landmarks68):
        chosen[vertices] = True
    return dataclasses.replace(face, triangles=triangles).select(chosen), chosen.cumsum(0) - 1


def _shade(layers: Layers, soft: Tensor, backdrop: Tensor) -> Batch:
    """The targets: the face under the harmonics' light; everything else is background.

    `soft` (2, 3, S, S) is the shading of face and props by that light.
    """
    both = layers.both
    mask, covered = both.covered.split(1)
    shading = soft[:1] * (mask > 0)
    colours = torch.stack([both.albedo[0] * shading[0], both.albedo[1] * soft[1]]).clamp_(0, 1)
    face, worn = colours.split(1)
    rest = (1 - mask).clamp_min(1e-6)
    behind = (covered * worn + (1 - mask - covered).clamp_min(0) * backdrop) / rest
    behind = torch.where(mask < 1, behind, backdrop)
    return {
        "image": mask * face + (1 - mask) * behind,
        "mask": mask,
        "normal": both.normal[:1] * (mask > 0),
        "albedo": both.albedo[:1],
        "shading": shading,
        "background": behind,
    }


def _photograph(
    layers: Layers, picture: Picture, soft: Tensor, scale: float, backdrop: Tensor
) -> Tensor:
    """The picture as the camera delivers it."""
    lamps = picture.lamps
    azimuth, elevation = (torch.from_numpy(a).float() for a in (lamps.azimuth, lamps.elevation))

    def scaled(value: Any) -> Tensor:
        return torch.from_numpy(scale * value).float()

    gloss = picture.gloss * torch.tensor([1.0, _DULL]).view(2, 1, 1, 1)
    hard = HardLight(
        harmonics.direction_of(azimuth, elevation), scaled(lamps.colour), scaled(lamps.ambient),
        picture.hardness, gloss, picture.exponent,
    )  # fmt: skip
    lit = torch.ones_like(layers.depth)
    if picture.hardness:
        lit = 1 - picture.hardness * (1 - cast_shadows(layers.depth, hard.direction[0]))

    colours = shade_hard(layers.both, lit, hard, soft)
    return degrade(join(layers, colours, backdrop).clamp(0, 1), picture.degradation)
