"""The source of a run's batches: faces rendered on demand, or a stored data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ntensor.faces.common.errors import ConfigurationError, FacesError
from ntensor.faces.configuration import DataConfiguration
from ntensor.faces.datasets.generated import POC_EXPRESSION, POC_POSE, GeneratedFaces, Variation
from ntensor.faces.datasets.records import VALID
from ntensor.faces.datasets.rendered import Faces
from ntensor.faces.datasets.stored import StoredFaces
from ntensor.faces.datasets.wild import WildFaces
from ntensor.faces.morphable.face_models import find_face_model

from .processes import choose_device

VARIATIONS = {"all": Variation(), "expression": POC_EXPRESSION, "pose": POC_POSE}

# The entries of a batch that training and its pictures use.
KEPT = (
    *("image", "mask", "normal", "albedo", "light", "pose", "id_3dmm", "exp_3dmm", "shape"),
    *("frontal_image", "frontal_normal", "near_frontal", "texture"),
    *("input", "identity", "expression", "pose_bin", "light_bin", "differs"),
)
# Maps that a cache stores in eight bits, with a range of 0 to 1 and of -1 to 1.
UNSIGNED = ("image", "input", "mask", "albedo", "frontal_image", "texture")
SIGNED = ("normal", "frontal_normal")


class Samples(Protocol):
    """Batches by the indices of their samples.

    Attributes:
        size: number of samples; None: endless.
        sizes: extents by name, among `image`, `id_3dmm`, `exp_3dmm`, `shape`.
        statistics: mean and standard deviation of the standardised vectors, by name.
        blocks: sizes of the blocks of adjacent samples that are read together; empty: no blocks.
    """

    @property
    def blocks(self) -> Sequence[int]: ...

    @property
    def size(self) -> int | None: ...

    @property
    def sizes(self) -> Mapping[str, int]: ...

    @property
    def statistics(self) -> Mapping[str, tuple[Tensor, Tensor]]: ...

    def __getitem__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The batch of these samples.

        Each sample depends bitwise on its own index only, or on all `indices` if samples are
        rendered on a GPU.
        """


class GeneratedSamples:
    """Faces of a `Faces` set, with the keys that training uses.

    Args:
        faces (Faces)
        size (int or None): number of samples; None: endless.
        texture (bool): add `texture` (n, 3, S, S), the albedo of the neutral, frontal face.

    Example:
        >>> from ntensor.faces.datasets.generated import GeneratedFaces
        >>> from ntensor.faces.training.samples import GeneratedSamples
        >>> GeneratedSamples(GeneratedFaces(), size=100)[[0, 1]]["image"].shape
        torch.Size([2, 3, 64, 64])
    """

    blocks: Sequence[int] = ()

    def __init__(self, faces: Faces, size: int | None = None, texture: bool = False) -> None:
        self.faces, self.size, self.texture = faces, size, texture
        self.sizes = faces.sizes

    @property
    def statistics(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        return self.faces.statistics  # computed on first use

    def __getitem__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        batch = self.faces.batch(indices)
        if self.texture:
            scenes = self.faces.draw(indices)
            neutral = dataclasses.replace(
                scenes,
                exp_3dmm=torch.zeros_like(scenes.exp_3dmm),
                angles=torch.zeros_like(scenes.angles),
            )
            batch["texture"] = self.faces.render(neutral.to(self.faces.device))["albedo"]
        return {name: batch[name] for name in KEPT if name in batch}


class StoredSamples:
    """A stored data set; its shards are blocks, so a shuffled order can be streamed.

    Args:
        faces (StoredFaces)
    """

    def __init__(self, faces: StoredFaces) -> None:
        self.faces = faces
        self.size, self.sizes, self.statistics = faces.count, faces.sizes, faces.statistics
        self.blocks: Sequence[int] = [count for _, count in faces.meta.shards]

    def __getitem__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The batch, with `valid_NAME` (n,) for targets that some samples lack.

        Raises:
            DamagedData: a file or record is damaged, unless damage is skipped.
        """
        batch = self.faces.batch(indices)
        kept = {name: batch[name] for name in KEPT if name in batch}
        kept["near_frontal"] = batch["near_frontal"] & batch["valid"][:, VALID.index("frontal")]
        for name, has in zip(VALID, batch["valid"].t(), strict=True):
            if name in kept and not bool(has.all()):
                kept[f"valid_{name}"] = has
        return kept


def open_stored(folder: str, skip_damaged: bool) -> StoredSamples:
    """Opens the data set in a folder.

    Raises:
        DamagedData: it is not a data set, or is damaged.
    """
    return StoredSamples(StoredFaces(folder, on_damage="skip" if skip_damaged else "refuse"))


class Told:
    """Samples that return an error instead of raising it.

    An error raised in a worker of a `DataLoader` would arrive as the text of a traceback.

    Args:
        samples (Samples)
    """

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __getitem__(self, indices: Sequence[int]) -> dict[str, Tensor] | FacesError:
        try:
            return self.samples[indices]
        except FacesError as error:
            return error


class Cached:
    """Caches every requested sample, with its maps rounded to eight bits.

    A sample of 64 x 64 takes about 65 KB plus the shape. Samples are always computed one at a time,
    so each is bitwise the same whenever and with whichever others it is first read.

    Args:
        samples (Samples): finite.
    """

    blocks: Sequence[int] = ()

    def __init__(self, samples: Samples) -> None:
        self.samples = samples
        self.size, self.sizes = samples.size, samples.sizes
        self._kept: dict[int, dict[str, Tensor]] = {}

    @property
    def statistics(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        return self.samples.statistics

    def __getitem__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        for index in indices:
            if index not in self._kept:
                batch = pack(self.samples[[index]])
                self._kept[index] = {name: value[0] for name, value in batch.items()}
        rows = [self._kept[index] for index in indices]
        return unpack({name: torch.stack([row[name] for row in rows]) for name in rows[0]})


def pack(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Converts maps to eight bits."""
    packed = dict(batch)
    for names, scale, dtype in ((UNSIGNED, 255, torch.uint8), (SIGNED, 127, torch.int8)):
        for name in names:
            if name in packed:
                packed[name] = (packed[name] * scale).round().to(dtype)
    return packed


def unpack(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Converts maps back to numbers from 0 to 1 or -1 to 1."""
    maps = dict(batch)
    for names, scale in ((UNSIGNED, 255), (SIGNED, 127)):
        for name in names:
            if name in maps:
                maps[name] = maps[name].float() / scale
    return maps


def make_generated(configuration: DataConfiguration, split: str, image_size: int) -> Faces:
    """Faces of one split: `train`, `validation` or `test`."""
    face, device = find_face_model(configuration), str(choose_device(configuration.device))
    if configuration.variation == "wild":
        return WildFaces(face, split, image_size, configuration.seed, device=device)
    if configuration.of_concept:
        split = "poc-train" if split == "train" else "poc-test"
    return GeneratedFaces(
        face,
        split,
        image_size,
        configuration.seed,
        variation=VARIATIONS[configuration.variation],
        device=device,
    )


def open_sources(configuration: DataConfiguration, image_size: int) -> tuple[Samples, Samples]:
    """Opens training and validation samples, of different identities.

    Raises:
        ConfigurationError: the source is neither `"generated"` nor a folder, or cannot be read.
    """
    c = configuration
    if c.source != "generated":
        if not Path(c.source).is_dir():
            raise ConfigurationError(
                f'data.source must be "generated" or the folder of a data set, got {c.source!r}'
            )
        if c.validation_source is None:
            raise ConfigurationError(
                "data.source is a folder, which needs data.validation-source, a data set of other "
                "identities; got none"
            )
        return open_stored(c.source, c.skip_damaged), open_stored(
            c.validation_source, c.skip_damaged
        )
    texture = c.of_concept
    training: Samples = GeneratedSamples(
        make_generated(c, "train", image_size), c.cache or None, texture
    )
    validation = make_generated(c, "validation", image_size)
    if c.cache:
        training = Cached(training)
    return training, Cached(GeneratedSamples(validation, c.validation, texture))


def read_sizes(samples: Samples) -> dict[str, int]:
    """Extents of the data under the names of `ModelConfiguration`."""
    names = {"image": "image_size", "shape": "k_3d"}
    return {names.get(name, name): size for name, size in samples.sizes.items()}
