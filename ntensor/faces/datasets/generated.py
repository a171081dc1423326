"""Endless generated pictures of faces with full ground truth."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from ntensor.faces.common.errors import ConfigurationError
from ntensor.faces.morphable.face_model import FaceModel
from ntensor.faces.rendering.renderer import Camera

from . import scenes
from .rendered import SPLITS, Batch, Faces, stack
from .scenes import Scenes


@dataclasses.dataclass(frozen=True)
class Variation:
    """What varies between pictures of one person.

    Attributes:
        pose: `any` (yaw within 60, pitch within 25, roll within 10 degrees), `bins` (one of the
            seven yaws of the tables) or `frontal`.
        light: `any` (random), `bins` (one of the 16 of the tables) or `frontal` (one soft light).
        expressions (int or None): number of expressions per person; None: unlimited.
        background (bool): a textured background, else black.
    """

    pose: Literal["any", "bins", "frontal"] = "any"
    light: Literal["any", "bins", "frontal"] = "any"
    expressions: int | None = None
    background: bool = True


# The paper's proof of concept: 20 expressions per person, one light, and one pose or seven.
POC_EXPRESSION = Variation("frontal", "frontal", 20, False)
POC_POSE = Variation("bins", "frontal", 20, False)


class GeneratedFaces(Faces, IterableDataset[Batch]):
    """An endless stream of batches of new pictures of the persons of one split.

    Sample `index` depends only on `(seed, index)`. Batch `j` holds the samples
    `(j * world_size + rank) * batch_size ...`. The workers of a `DataLoader` share the batches, so
    their number does not change the stream. Use it with `batch_size=None`:

        >>> from torch.utils.data import DataLoader
        >>> from ntensor.faces.datasets.generated import GeneratedFaces
        >>> faces = GeneratedFaces(split="train", batch_size=4)
        >>> batch = next(iter(DataLoader(faces, batch_size=None)))
        >>> batch["image"].shape
        torch.Size([4, 3, 64, 64])

    Args:
        face_model (FaceModel): default: `load_face_model()`.
        split (str): `train` (2000 persons), `validation` (100), `test` (54), `poc-train` (148) or
            `poc-test` (22).
        size (int): pixels per side.
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
            raise ConfigurationError(
                f"GeneratedFaces: batch_size must be positive, got {batch_size}"
            )
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
        return stack(rows)

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
            scenes.draw_identity(person, face.identity_size),
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
            return angles, scenes.find_pose_bin(float(angles[0]))
        frontal = scenes.YAW_BINS.index(0.0)
        number = (
            frontal if self.variation.pose == "frontal" else int(rng.integers(len(scenes.YAW_BINS)))
        )
        return np.array([scenes.YAW_BINS[number], 0, 0], np.float32), number

    def _draw_lamps(self, rng: np.random.Generator) -> tuple[scenes.Lamps, int]:
        if self.variation.light == "any":
            return scenes.draw_lamps(rng), -1
        if self.variation.light == "frontal":
            return scenes.make_frontal_lamps(), -1
        number = int(rng.integers(scenes.FIXED_LIGHTS))
        return scenes.make_fixed_lamps(number), number
