"""Complete evaluation sets: every person with every expression, pose and light."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Dataset

from ntensor.faces.morphable.face_model import FaceModel
from ntensor.faces.morphable.face_models import load_face_model
from ntensor.faces.rendering.renderer import Camera

from . import scenes
from .rendered import SPLITS, Batch, Faces, stack
from .scenes import Scenes


class FaceGrid(Faces, Dataset[Batch]):
    """Every combination of persons, expressions, poses and lights; see `make_grid`.

    The index of a sample is `((person * expressions + expression) * poses + pose) * lights +
    light`, counted within the given lists. Its labels `pose_bin` and `light_bin` are positions in
    those lists, and `expression` is one in `face_model.basic_names`.
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
                f"make_grid: expressions must be among {wanted}, got {', '.join(sorted(unknown))}"
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
            raise ValueError(
                f"make_grid: every list must have at least one entry, got lengths {self.shape}"
            )

    def __len__(self) -> int:
        return int(np.prod(self.shape))

    def __getitem__(self, index: int) -> Batch:
        """One sample, without the batch dimension."""
        if not 0 <= index < len(self):
            raise IndexError(f"FaceGrid: index must be 0..{len(self) - 1}, got {index}")
        return {name: values[0] for name, values in self.batch([index]).items()}

    def batches(self, batch_size: int = 64) -> Iterator[Batch]:
        """All samples in order; the last batch may be smaller."""
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
                    scenes.draw_identity(self.identities[person], face.identity_size),
                    face.basic_weights[self.expressions[expression]].cpu().numpy(),
                    np.array(self.poses[pose], np.float32),
                    scenes.make_fixed_lamps(self.lights[light]),
                    background if self.background else np.zeros_like(background),
                    self.expressions[expression],
                    pose,
                    light,
                ]
            )
        return stack(rows)


def make_grid(
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
        identities: indices of persons, or the name of a split.
        expressions: names of basic expressions; default: all but neutral.
        poses: yaws in degrees, or (yaw, pitch, roll).
        lights: indices of fixed lights, 0..15, see `scenes.make_fixed_lamps`.
        face_model, size, background, seed, camera, device: as for `GeneratedFaces`.

    Returns:
        FaceGrid: with `len`, `batch(indices)`, `batches(batch_size)` and the `shape` of the grid.

    Raises:
        ValueError: an unknown name or an empty list.

    Example:
        >>> from ntensor.faces.datasets.grids import make_grid
        >>> table_2 = make_grid("test")
        >>> table_2.shape, len(table_2)
        ((54, 6, 7, 4), 9072)
        >>> len(make_grid("test", poses=[0.0], lights=range(16)))
        5184
    """
    if isinstance(identities, str):
        if identities not in SPLITS:
            raise ValueError(
                f"make_grid: a split must be one of {', '.join(SPLITS)}, got {identities!r}"
            )
        identities = SPLITS[identities]
    face = face_model if face_model is not None else load_face_model()
    names = [name for name in face.basic_names if name != "neutral"]
    return FaceGrid(
        identities, names if expressions is None else expressions, poses, lights, face, size,
        background, seed, camera, device,
    )  # fmt: skip
