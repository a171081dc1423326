"""The pictures of an evaluation, stored in eight bits, with everything known about them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ntensor.faces.common.errors import ConfigurationError, FacesError
from ntensor.faces.configuration import Configuration, DataConfiguration
from ntensor.faces.datasets.generated import GeneratedFaces, Variation
from ntensor.faces.datasets.grids import make_grid
from ntensor.faces.datasets.records import VALID
from ntensor.faces.datasets.rendered import SPLITS, Faces
from ntensor.faces.datasets.stored import OnDamage, StoredFaces
from ntensor.faces.morphable.face_model import FaceModel
from ntensor.faces.morphable.face_models import find_face_model
from ntensor.faces.training.samples import VARIATIONS, make_generated, pack, unpack

from .settings import Evaluation

# Labels of a batch, and their names in a report.
FACTORS = {
    "identity": "identity",
    "expression": "expression",
    "pose_bin": "pose",
    "light_bin": "light",
}
# Targets that a stored set may have for only some of its records.
_PARTIAL = ("light", "pose", "id_3dmm", "exp_3dmm")
KEYS = (
    *("image", "input", "mask", "normal", *_PARTIAL, *(f"valid_{name}" for name in _PARTIAL)),
    *("differs", "pair", *FACTORS),
)
_POC_PICTURES = 40
# Limit on the classes of a classifier, whose time grows with classes times samples.
_MOST_CLASSES = 100


class Pictures:
    """Pictures in memory.

    Args:
        source (str): a description for the report.
        batches (iterable of dict): of tensors; keys not in `KEYS` are dropped.
        face (FaceModel or None): the model that rendered them, if known.
    """

    def __init__(
        self, source: str, batches: Iterable[Mapping[str, Tensor]], face: FaceModel | None = None
    ) -> None:
        self.source, self.face = source, face
        kept = [
            pack({name: batch[name].cpu() for name in KEYS if name in batch}) for batch in batches
        ]
        if not kept:
            raise FacesError(f"{source}: expected pictures, got none")
        self.packed = {name: torch.cat([batch[name] for batch in kept]) for name in kept[0]}

    def __len__(self) -> int:
        return len(self.packed["image"])

    def __contains__(self, name: str) -> bool:
        return name in self.packed

    def __getitem__(self, index: slice | Tensor) -> dict[str, Tensor]:
        """The pictures at an index, as one batch."""
        batch = unpack({name: value[index] for name, value in self.packed.items()})
        if "normal" in batch:  # in eight bits, lengths are only close to 1
            batch["normal"] = torch.nn.functional.normalize(batch["normal"], dim=1)
        return batch

    def batches(self, size: int, title: str) -> Iterator[dict[str, Tensor]]:
        """All pictures in order, with a progress bar."""
        for first in tqdm(range(0, len(self), size), title, unit="batch"):
            yield self[slice(first, first + size)]

    def factors(self) -> dict[str, Tensor]:
        """The labels that vary, by factor.

        Classes of a single sample, and those beyond the first 100, are marked unknown (-1).
        """
        varying = {}
        for factor, labels in self.groups().items():
            classes, counts = labels[labels >= 0].unique(return_counts=True)
            chosen = classes[counts > 1][:_MOST_CLASSES]
            if len(chosen) > 1:
                varying[factor] = labels.where(torch.isin(labels, chosen), -1)
        return varying

    def groups(self) -> dict[str, Tensor]:
        """All labels, by factor; grouped folds keep them apart."""
        named = {factor: self.packed.get(key) for key, factor in FACTORS.items()}
        return {factor: labels for factor, labels in named.items() if labels is not None}


def draw_table_2(configuration: Configuration, settings: Evaluation) -> Pictures:
    """Unseen identities with all combinations of the factors.

    A proof of concept gets random samples of its test identities instead.
    """
    data, size = configuration.data, configuration.model.image_size
    face = find_face_model(data)
    persons = _choose_persons(settings)
    if not data.of_concept:
        faces = make_grid(persons, lights=settings.lights, face_model=face, size=size)
        count = -(-len(faces) // settings.batch_size)
        bar = tqdm(faces.batches(settings.batch_size), "faces, all poses", count, unit="batch")
        return Pictures(_describe_source(face, persons), bar, face)
    samples = GeneratedFaces(face, "poc-test", size, data.seed, variation=find_variation(data))
    return Pictures(
        f"{face.source}, identities of the proof of concept that training never showed",
        _draw_batches(samples, _POC_PICTURES * settings.identities, settings.batch_size, "faces"),
        face,
    )


def draw_table_3(configuration: Configuration, settings: Evaluation) -> Pictures | None:
    """Frontal faces of unseen identities under many lights; None for a proof of concept."""
    data, size = configuration.data, configuration.model.image_size
    if data.of_concept:
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
    """Generated pictures of training identities.

    Args:
        configuration (Configuration)
        count (int)
        pose (str): `"any"`, poses as in training, or `"frontal"`.
    """
    data = configuration.data
    face = find_face_model(data)
    variation = find_variation(data)
    if pose == "frontal":
        variation = type(variation)("frontal", variation.light, variation.expressions)
    split = "poc-train" if data.of_concept else "train"
    faces = GeneratedFaces(
        face, split, configuration.model.image_size, data.seed, variation=variation
    )
    title = "training faces" if pose == "any" else "training faces, frontal"
    return Pictures(f"{face.source}, training", _draw_batches(faces, count, 64, title), face)


def find_variation(data: DataConfiguration) -> Variation:
    """The variation of the clean generated pictures that a run is measured on."""
    return VARIATIONS[data.variation if data.of_concept else "all"]


def draw_training_world(
    configuration: Configuration, count: int
) -> tuple[Pictures, Mapping[str, tuple[Tensor, Tensor]]]:
    """Pictures like those that the run was trained on, generated or from its stored set.

    Returns:
        Pictures and mapping: the pictures; means and deviations of the coefficients.

    Raises:
        ConfigurationError: the set or the face model no longer exists.
    """
    data, size = configuration.data, configuration.model.image_size
    if data.source == "generated":
        faces = make_generated(data, "train", size)
        batches = _draw_batches(faces, count, 64, "training faces")
        face = faces.face_model
        return Pictures(f"{face.source}, training", batches, face), faces.statistics
    if not Path(data.source).is_dir():
        raise ConfigurationError(
            f"{data.source}: the data set that the run was trained on does not exist"
        )
    stored = open_set(data.source, size, "skip" if data.skip_damaged else "refuse")
    chosen = choose_records(stored, count)
    return read_records(stored, chosen, 64, "training set"), stored.statistics


def open_set(folder: str, image_size: int, on_damage: OnDamage = "refuse") -> StoredFaces:
    """Opens a data set in the format of `ntensor.faces.datasets.storage`.

    Raises:
        FacesError: it is not such a set, or not of the network's image size.
    """
    faces = StoredFaces(folder, on_damage=on_damage)
    if faces.meta.size != image_size:
        raise ConfigurationError(
            f"{folder}: has pictures of {faces.meta.size} pixels per side, the network needs "
            f"{image_size}"
        )
    return faces


def choose_records(faces: StoredFaces, count: int) -> list[int]:
    """At most `count` records from a few evenly spread shards: a shard is always read whole."""
    shards = faces.meta.shards
    wanted = min(len(shards), -(-count // max(size for _, size in shards)))
    chosen = torch.linspace(0, len(shards) - 1, wanted).round().long().tolist()
    starts = torch.tensor([0, *(size for _, size in shards)]).cumsum(0).tolist()
    records = [record for k in chosen for record in range(starts[k], starts[k + 1])]
    return records[:count]


def read_stored(folder: str, batch_size: int, image_size: int) -> Pictures:
    """Reads a whole data set; see `read_records`.

    Raises:
        FacesError: it is not a data set, is damaged, has another image size, or lacks normals or
            masks.
    """
    faces = open_set(folder, image_size)
    return read_records(faces, range(faces.count), batch_size, "data set")


def read_records(
    faces: StoredFaces, records: Sequence[int], batch_size: int, title: str
) -> Pictures:
    """Reads the records of a data set that have both a mask and normals.

    Records 2k and 2k + 1 get the `pair` number k, unless damaged records are skipped. `valid_NAME`
    marks the records that have that target.

    Raises:
        FacesError: the set is damaged, or no record has both.
    """
    batches = []
    for first in tqdm(range(0, len(records), batch_size), title, unit="batch"):
        rows = records[first : first + batch_size]
        batch = faces.batch(rows)
        if faces.on_damage == "refuse":
            batch["pair"] = torch.tensor(rows) // 2
        batch |= {f"valid_{name}": batch["valid"][:, VALID.index(name)] for name in _PARTIAL}
        usable = batch["valid"][:, [VALID.index(name) for name in ("mask", "normal")]].all(1)
        batches.append({name: value[usable] for name, value in batch.items()})
    pictures = Pictures(f"{faces.folder} ({faces.meta.source})", batches, None)
    if not len(pictures):
        raise FacesError(f"{faces.folder}: no record has both a mask and normals")
    return pictures


def find_known(batch: Mapping[str, Tensor], name: str) -> Tensor:
    """The rows of a batch that have a target, as booleans (n,)."""
    count = len(batch["image"])
    present = torch.full((count,), name in batch)
    return present & batch[f"valid_{name}"] if f"valid_{name}" in batch else present


def _choose_persons(settings: Evaluation) -> list[int]:
    return list(SPLITS["test"])[: settings.identities]


def _describe_source(face: FaceModel, persons: list[int]) -> str:
    return f"{face.source}, {len(persons)} identities that training never showed"


def _draw_batches(
    faces: Faces, count: int, batch_size: int, title: str
) -> Iterator[dict[str, Tensor]]:
    for first in tqdm(range(0, count, batch_size), title, unit="batch"):
        yield faces.batch(range(first, min(count, first + batch_size)))
