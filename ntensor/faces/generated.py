"""Endless pictures of faces with everything known about them, and complete grids for evaluation."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from . import scenes
from .face_model import FaceModel, load_face_model
from .records import VALID
from .renderer import Camera, Renderer
from .scenes import Scenes
from .skin import Skin, draw_skin

Batch = dict[str, Tensor]

# Which persons belong to which part; no person belongs to two.
SPLITS = {
    "train": range(2000),
    "validation": range(2000, 2100),
    "test": range(2100, 2154),
    "poc-train": range(2154, 2302),
    "poc-test": range(2302, 2324),
}
_STATISTICS_SAMPLES = 512
# So many faces at once stay in a processor's cache.
_CPU_CHUNK = 8


@dataclasses.dataclass(frozen=True)
class Variation:
    """What varies between pictures of one person.

    Attributes:
        pose: `any` (yaw within 60, pitch within 25, roll within 10 degrees), `bins` (one of the
            seven yaws of the tables) or `frontal`.
        light: `any` (random), `bins` (one of the 16 of the tables) or `frontal` (one soft light).
        expressions (int or None): that many expressions a person; None: ever new ones.
        background (bool): a texture behind the face, else black.
    """

    pose: Literal["any", "bins", "frontal"] = "any"
    light: Literal["any", "bins", "frontal"] = "any"
    expressions: int | None = None
    background: bool = True


# The paper's proof of concept: 20 expressions a person, no light; seven poses or none.
POC_EXPRESSION = Variation("frontal", "frontal", 20, False)
POC_POSE = Variation("bins", "frontal", 20, False)


class Faces:
    """What every set of rendered faces offers: `batch`, `face_model`, `sizes`, `statistics`."""

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
        """`image` (pixels a side), `id_3dmm` (k_a), `exp_3dmm` (k_b), `shape` (3V)."""
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

        From 512 draws, the same for every split; deviations are at least 1e-4.
        """
        face = self.face_model
        coefficients = []
        for k in range(_STATISTICS_SAMPLES):
            identity = scenes.identity_coefficients(SPLITS["train"][k], face.identity_size)
            rng = np.random.default_rng([0, k])
            coefficients.append((identity, scenes.draw_expression(rng, face)[0]))
        identity, expression = (
            torch.from_numpy(np.stack(part)).to(self.device)
            for part in zip(*coefficients, strict=True)
        )
        # In pieces: 512 shapes of the ICT face are 132 MB.
        total = torch.zeros(face.shape_size, dtype=torch.double, device=self.device)
        square = torch.zeros_like(total)
        for a, b in zip(identity.split(32), expression.split(32), strict=True):
            shape = face.shape(face.vertices(a, b)).double()
            total += shape.sum(0)
            square += shape.square().sum(0)
        mean = total / _STATISTICS_SAMPLES
        deviation = (square / _STATISTICS_SAMPLES - mean.square()).clamp_min(0).sqrt()
        found = {
            "id_3dmm": (identity.mean(0), identity.std(0)),
            "exp_3dmm": (expression.mean(0), expression.std(0)),
            "shape": (mean.float(), deviation.float()),
        }
        return {name: (m, s.clamp_min(1e-4)) for name, (m, s) in found.items()}

    def draw(self, indices: Sequence[int]) -> Scenes:
        """The scenes of these samples, on the CPU."""
        raise NotImplementedError

    def batch(self, indices: Sequence[int] | Tensor) -> Batch:
        """Renders samples.

        Args:
            indices: which; the same index always gives the same sample.

        Returns:
            dict: `image` (n,3,S,S) RGB in 0..1; `mask` (n,1,S,S); `normal` (n,3,S,S) unit in the
            mask, camera axes; `albedo`, `shading` (n,3,S,S); `background` (n,3,S,S); `light`
            (n,3,9); `pose` (n,3,3); `angles` (n,3) degrees; `id_3dmm` (n,k_a), `exp_3dmm`
            (n,k_b); `shape` (n,3V) millimetres; `frontal_image`, `frontal_normal`,
            `frontal_albedo` (n,3,S,S) and `frontal_mask` (n,1,S,S) of the same face unrotated
            under the same light, 0 outside the face; `near_frontal` (n,) bool; `identity`,
            `expression`, `pose_bin`, `light_bin` (n,) int64, -1 unknown; `valid`
            (n, len(records.VALID)) bool, all true here.
        """
        drawn = self.draw([int(index) for index in indices]).to(self.device)
        return self.render(drawn)

    def render(self, drawn: Scenes) -> Batch:
        """The batch of `batch` for scenes of one's own."""
        n = len(drawn.identity)
        if self.device.type != "cpu" or n <= _CPU_CHUNK:
            return self._render(drawn)
        chunks = [self._render(drawn[k : k + _CPU_CHUNK]) for k in range(0, n, _CPU_CHUNK)]
        return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}

    def _render(self, drawn: Scenes) -> Batch:
        face, renderer = self.face_model, self.renderer
        pose = scenes.rotation_of(drawn.angles)
        front = torch.eye(3, device=self.device).expand_as(pose)
        vertices = face.vertices(drawn.id_3dmm, drawn.exp_3dmm)
        skin = self._skin(drawn.identity)
        view, frontal = renderer.views(vertices, [pose, front], skin, drawn.light)
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

    def _skin(self, identities: Tensor) -> Skin:
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


class GeneratedFaces(Faces, IterableDataset[Batch]):
    """An endless stream of batches of new pictures of the persons of one split.

    Sample `index` depends on `(seed, index)` alone. Batch `j` holds the samples
    `(j * world_size + rank) * batch_size ...`; workers of a `DataLoader` share the batches so that
    their number changes nothing. Use it with `batch_size=None`:

        >>> from torch.utils.data import DataLoader
        >>> from ntensor.faces.generated import GeneratedFaces
        >>> faces = GeneratedFaces(split="train", batch_size=4)
        >>> batch = next(iter(DataLoader(faces, batch_size=None)))
        >>> batch["image"].shape
        torch.Size([4, 3, 64, 64])

    Args:
        face_model (FaceModel): default: `load_face_model()`.
        split (str): `train` (2000 persons), `validation` (100), `test` (54), `poc-train` (148) or
            `poc-test` (22).
        size (int): pixels a side.
        seed (int)
        batch_size (int)
        variation (Variation): what varies.
        first_batch (int): where iteration starts; for resuming.
        rank, world_size (int): of distributed training.
        camera (Camera), device (str): of the renderer.

    Raises:
        ValueError: an unknown split or a size that is not positive.
    """

    def __init__(
        self,
        face_model: FaceModel | None = None,
        split: str = "train",
        size: int = 64,
        seed: int = 0,
        batch_size: int = 64,
        variation: Variation | None = None,
        first_batch: int = 0,
        rank: int = 0,
        world_size: int = 1,
        camera: Camera | None = None,
        device: str = "cpu",
    ) -> None:
        if split not in SPLITS:
            raise ValueError(
                f"GeneratedFaces: split must be one of {', '.join(SPLITS)}, got {split!r}"
            )
        if batch_size < 1:
            raise ValueError(f"GeneratedFaces: batch_size must be positive, got {batch_size}")
        super().__init__(face_model, size, camera, device)
        self.split = split
        self.persons = SPLITS[split]
        self.seed = seed
        self.batch_size = batch_size
        self.variation = variation or Variation()
        self.first_batch = first_batch
        self.rank = rank
        self.world_size = world_size

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        offset, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        number = self.first_batch + offset
        while True:
            start = (number * self.world_size + self.rank) * self.batch_size
            yield self.batch(range(start, start + self.batch_size))
            number += stride

    def draw(self, indices: Sequence[int]) -> Scenes:
        """The scenes of these samples, on the CPU."""
        split = list(SPLITS).index(self.split)
        rows = [
            self._draw_one(np.random.default_rng([self.seed, split, index])) for index in indices
        ]
        return _stack(rows)

    def _draw_one(self, rng: np.random.Generator) -> list[Any]:
        face, variation = self.face_model, self.variation
        person = int(rng.choice(self.persons))
        expression_rng = rng
        if variation.expressions is not None:
            number = int(rng.integers(variation.expressions))
            expression_rng = np.random.default_rng([self.seed, person, number, 0xE])
        expression, label = scenes.draw_expression(expression_rng, face)
        angles, pose_bin = self._draw_pose(rng)
        lamps, light_bin = self._draw_lamps(rng)
        background = scenes.draw_background(rng)
        return [
            person,
            scenes.identity_coefficients(person, face.identity_size),
            expression,
            angles,
            lamps,
            background if variation.background else np.zeros_like(background),
            label,
            pose_bin,
            light_bin,
        ]

    def _draw_pose(self, rng: np.random.Generator) -> tuple[Any, int]:
        if self.variation.pose == "any":
            angles = scenes.draw_angles(rng)
            return angles, scenes.pose_bin_of(float(angles[0]))
        frontal = scenes.YAW_BINS.index(0.0)
        number = (
            frontal if self.variation.pose == "frontal" else int(rng.integers(len(scenes.YAW_BINS)))
        )
        return np.array([scenes.YAW_BINS[number], 0, 0], np.float32), number

    def _draw_lamps(self, rng: np.random.Generator) -> tuple[scenes.Lamps, int]:
        if self.variation.light == "any":
            return scenes.draw_lamps(rng), -1
        if self.variation.light == "frontal":
            return scenes.frontal_lamps(), -1
        number = int(rng.integers(scenes.FIXED_LIGHTS))
        return scenes.fixed_lamps(number), number


class FaceGrid(Faces, Dataset[Batch]):
    """Every combination of persons, expressions, poses and lights; see `grid`.

    Sample `((person * expressions + expression) * poses + pose) * lights + light`, counted within
    the lists that were given. Its labels `expression`, `pose_bin` and `light_bin` are positions in
    those lists (for `expression` in `face_model.basic_names`).
    """

    def __init__(
        self,
        identities: Sequence[int],
        expressions: Sequence[str],
        poses: Sequence[float | tuple[float, float, float]],
        lights: Sequence[int],
        face_model: FaceModel | None,
        size: int,
        background: bool,
        seed: int,
        camera: Camera | None,
        device: str,
    ) -> None:
        super().__init__(face_model, size, camera, device)
        self.identities = list(identities)
        unknown = set(expressions) - set(self.face_model.basic_names)
        if unknown:
            wanted = ", ".join(self.face_model.basic_names)
            raise ValueError(
                f"grid: expressions must be of {wanted}, got {', '.join(sorted(unknown))}"
            )
        self.expressions = [self.face_model.basic_names.index(name) for name in expressions]
        self.poses = [
            pose if isinstance(pose, tuple) else (float(pose), 0.0, 0.0) for pose in poses
        ]
        self.lights = list(lights)
        self.background = background
        self.seed = seed
        self.shape = tuple(
            len(part) for part in (self.identities, self.expressions, self.poses, self.lights)
        )
        if 0 in self.shape:
            raise ValueError(f"grid: every list must name at least one, got lengths {self.shape}")

    def __len__(self) -> int:
        return int(np.prod(self.shape))

    def __getitem__(self, index: int) -> Batch:
        """One sample, without the batch dimension."""
        if not 0 <= index < len(self):
            raise IndexError(f"grid: index must be 0..{len(self) - 1}, got {index}")
        return {name: values[0] for name, values in self.batch([index]).items()}

    def batches(self, batch_size: int = 64) -> Iterator[Batch]:
        """All samples in order, the last batch smaller."""
        for start in range(0, len(self), batch_size):
            yield self.batch(range(start, min(start + batch_size, len(self))))

    def draw(self, indices: Sequence[int]) -> Scenes:
        """The scenes of these samples, on the CPU."""
        face = self.face_model
        rows = []
        for index in indices:
            person, expression, pose, light = (int(k) for k in np.unravel_index(index, self.shape))
            background = scenes.draw_background(np.random.default_rng([self.seed, 0xB, index]))
            rows.append(
                [
                    self.identities[person],
                    scenes.identity_coefficients(self.identities[person], face.identity_size),
                    face.basic_weights[self.expressions[expression]].cpu().numpy(),
                    np.array(self.poses[pose], np.float32),
                    scenes.fixed_lamps(self.lights[light]),
                    background if self.background else np.zeros_like(background),
                    self.expressions[expression],
                    pose,
                    light,
                ]
            )
        return _stack(rows)


def grid(
    identities: Sequence[int] | str = "test",
    expressions: Sequence[str] | None = None,
    poses: Sequence[float | tuple[float, float, float]] = scenes.YAW_BINS,
    lights: Sequence[int] = (0, 5, 10, 15),
    face_model: FaceModel | None = None,
    size: int = 64,
    background: bool = True,
    seed: int = 0,
    camera: Camera | None = None,
    device: str = "cpu",
) -> FaceGrid:
    """A complete evaluation set: identities x expressions x poses x lights.

    Args:
        identities: numbers of persons, or the name of a split.
        expressions: names of basic expressions; default: all but neutral.
        poses: yaws in degrees, or (yaw, pitch, roll).
        lights: numbers of fixed lights, 0..15, see `scenes.fixed_lamps`.
        face_model, size, background, seed, camera, device: as for `GeneratedFaces`.

    Returns:
        FaceGrid: with `len`, `batch(indices)`, `batches(batch_size)` and the `shape` of the grid.

    Raises:
        ValueError: an unknown name or an empty list.

    Example:
        >>> from ntensor.faces.generated import grid
        >>> table_2 = grid("test")
        >>> table_2.shape, len(table_2)
        ((54, 6, 7, 4), 9072)
        >>> len(grid("test", poses=[0.0], lights=range(16)))
        5184
    """
    if isinstance(identities, str):
        if identities not in SPLITS:
            raise ValueError(f"grid: a split is one of {', '.join(SPLITS)}, got {identities!r}")
        identities = SPLITS[identities]
    face = face_model if face_model is not None else load_face_model()
    names = [name for name in face.basic_names if name != "neutral"]
    return FaceGrid(
        identities, names if expressions is None else expressions, poses, lights, face, size,
        background, seed, camera, device,
    )  # fmt: skip


def _stack(rows: list[list[Any]]) -> Scenes:
    columns: list[Any] = [list(column) for column in zip(*rows, strict=True)]
    lamps = [field.name for field in dataclasses.fields(Scenes)].index("light")
    columns[lamps] = scenes.project_lamps(columns[lamps]).numpy()
    return Scenes(*(torch.from_numpy(np.stack(column)) for column in columns))
