"""The pictures of an evaluation, kept in eight bits, with everything known about them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor
from tqdm import tqdm

from ntensor.faces.common.errors import ConfigurationError, FacesError
from ntensor.faces.configuration import Configuration
from ntensor.faces.datasets.generated import GeneratedFaces
from ntensor.faces.datasets.grids import make_grid
from ntensor.faces.datasets.records import VALID
from ntensor.faces.datasets.rendered import SPLITS
from ntensor.faces.datasets.stored import StoredFaces
from ntensor.faces.morphable.face_model import FaceModel
from ntensor.faces.morphable.face_models import find_face_model
from ntensor.faces.training.samples import VARIATIONS, pack, unpack

from .settings import Evaluation

# Labels of a batch, and what they are called in a report.
FACTORS = {
    "identity": "identity",
    "expression": "expression",
    "pose_bin": "pose",
    "light_bin": "light",
}
KEYS = ("image", "mask", "normal", "light", "pose", "id_3dmm", "exp_3dmm", *FACTORS)
_POC_PICTURES = 40


class Pictures:
    """Pictures in memory.

    Args:
        source (str): a description for the report.
        batches (iterable of dict): of tensors; other keys than those of `KEYS` are dropped.
        face (FaceModel or None): the one that they were rendered with, if known.
    """

    def __init__(
        self, source: str, batches: Iterable[Mapping[str, Tensor]], face: FaceModel | None = None
    ) -> None:
        self.source, self.face = source, face
        kept = [
            pack({name: batch[name].cpu() for name in KEYS if name in batch}) for batch in batches
        ]
        if not kept:
            raise FacesError(f"{source}: wanted pictures, got none")
        self.packed = {name: torch.cat([batch[name] for batch in kept]) for name in kept[0]}

    def __len__(self) -> int:
        return len(self.packed["image"])

    def __contains__(self, name: str) -> bool:
        return name in self.packed

    def __getitem__(self, index: slice | Tensor) -> dict[str, Tensor]:
        """The batch of some of them."""
        return unpack({name: value[index] for name, value in self.packed.items()})

    def batches(self, size: int, title: str) -> Iterator[dict[str, Tensor]]:
        """All of them in order, with a progress bar."""
        for first in tqdm(range(0, len(self), size), title, unit="batch"):
            yield self[slice(first, first + size)]

    def factors(self) -> dict[str, Tensor]:
        """The labels that vary, by the factor's name; at least 2 samples a class."""
        varying = {}
        for key, factor in FACTORS.items():
            labels = self.packed.get(key)
            if labels is None:
                continue
            counts = labels[labels >= 0].unique(return_counts=True)[1]
            if len(counts) > 1 and int(counts.min()) > 1:
                varying[factor] = labels
        return varying


def draw_table_2(configuration: Configuration, settings: Evaluation) -> Pictures:
    """Unseen identities with all combinations of the factors, or, for a proof of concept, random
    samples of its test identities."""
    data, size = configuration.data, configuration.model.image_size
    face = find_face_model(data)
    persons = _choose_persons(settings)
    if data.variation == "all":
        faces = make_grid(persons, lights=settings.lights, face_model=face, size=size)
        count = -(-len(faces) // settings.batch_size)
        bar = tqdm(faces.batches(settings.batch_size), "faces, all poses", count, unit="batch")
        return Pictures(_describe_source(face, persons), bar, face)
    samples = GeneratedFaces(
        face, "poc-test", size, data.seed, variation=VARIATIONS[data.variation]
    )
    return Pictures(
        f"{face.source}, identities of the proof of concept that training never showed",
        _draw_batches(samples, _POC_PICTURES * settings.identities, settings.batch_size, "faces"),
        face,
    )


def draw_table_3(configuration: Configuration, settings: Evaluation) -> Pictures | None:
    """Frontal faces of unseen identities under many lights; None for a proof of concept."""
    data, size = configuration.data, configuration.model.image_size
    if data.variation != "all":
        return None
    face = find_face_model(data)
    persons = _choose_persons(settings)
    faces = make_grid(
        persons, poses=[0.0], lights=settings.frontal_lights, face_model=face, size=size
    )
    count = -(-len(faces) // settings.batch_size)
    bar = tqdm(faces.batches(settings.batch_size), "faces, frontal", count, unit="batch")
    return Pictures(f"{_describe_source(face, persons)}, frontal", bar, face)


def draw_training(configuration: Configuration, count: int, pose: str = "any") -> Pictures:
    """Pictures of training identities, all of them or with frontal poses.

    Args:
        configuration (Configuration)
        count (int)
        pose (str): `"any"` as training has them, or `"frontal"`.
    """
    data = configuration.data
    face = find_face_model(data)
    variation = VARIATIONS[data.variation]
    if pose == "frontal":
        variation = type(variation)("frontal", variation.light, variation.expressions)
    split = "train" if data.variation == "all" else "poc-train"
    faces = GeneratedFaces(
        face, split, configuration.model.image_size, data.seed, variation=variation
    )
    title = "training faces" if pose == "any" else "training faces, frontal"
    return Pictures(f"{face.source}, training", _draw_batches(faces, count, 64, title), face)


def read_stored(folder: str, batch_size: int, image_size: int) -> Pictures:
    """A data set in the format of `ntensor.faces.datasets.storage`.

    Raises:
        FacesError: it is none, is damaged, has other sizes, or lacks normals or masks.
    """
    faces = StoredFaces(folder)
    if faces.meta.size != image_size:
        raise ConfigurationError(
            f"{folder}: has pictures of {faces.meta.size} pixels a side, the network wants "
            f"{image_size}"
        )
    batches = []
    for first in tqdm(range(0, faces.count, batch_size), "data set", unit="batch"):
        batch = faces.batch(range(first, min(first + batch_size, faces.count)))
        columns = [VALID.index(name) for name in ("mask", "normal")]
        batches.append({name: v[batch["valid"][:, columns].all(1)] for name, v in batch.items()})
    pictures = Pictures(f"{folder} ({faces.meta.source})", batches, None)
    if not len(pictures):
        raise FacesError(f"{folder}: no record has both a mask and normals")
    return pictures


def _choose_persons(settings: Evaluation) -> list[int]:
    return list(SPLITS["test"])[: settings.identities]


def _describe_source(face: FaceModel, persons: list[int]) -> str:
    return f"{face.source}, {len(persons)} identities that training never showed"


def _draw_batches(
    faces: GeneratedFaces, count: int, batch_size: int, title: str
) -> Iterator[dict[str, Tensor]]:
    for first in tqdm(range(0, count, batch_size), title, unit="batch"):
        yield faces.batch(range(first, min(count, first + batch_size)))
