"""Pairs of pictures with the ground truth of an edit: rendered, or found in a stored set."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor
from tqdm import tqdm

from ntensor.faces.baselines.landmark_fit import project, to_pixels
from ntensor.faces.configuration import Configuration
from ntensor.faces.datasets.generated import GeneratedFaces
from ntensor.faces.datasets.records import DIFFERS
from ntensor.faces.media.inputs import EDITED
from ntensor.faces.morphable.face_model import FaceModel
from ntensor.faces.morphable.face_models import find_face_model

from .measures import AngularError, SquaredError
from .pictures import Pictures, find_variation

Batch = dict[str, Tensor]


class Pairs:
    """Pairs of faces, and the ground truth of some edits.

    Args:
        target, source (dict): batches; an edit transfers one factor from source to target.
        truth (dict): the edited target, by edit.
        face (FaceModel or None): the model whose coefficients the network predicts.

    Attributes:
        size (int): pixels per side.
        has_landmarks (bool): whether the true landmarks are known.
    """

    has_landmarks = False

    def __init__(
        self,
        target: Batch,
        source: Batch,
        truth: Mapping[str, Batch],
        face: FaceModel | None,
    ) -> None:
        self.target, self.source, self.truth, self.face = target, source, dict(truth), face
        self.size = target["image"].shape[-1]

    def __len__(self) -> int:
        return len(self.target["image"])

    def project_landmarks(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The true landmarks (n, 68, 2) in camera coordinates, millimetres.

        They must be known; see `has_landmarks`.
        """
        assert self.face is not None and self.has_landmarks
        return project(self.face, batch["id_3dmm"], batch["exp_3dmm"], batch["pose"], None)

    def measure(
        self,
        edit: str,
        image: Tensor,
        normal: Tensor | None = None,
        landmarks: Tensor | None = None,
    ) -> dict[str, float]:
        """Errors of one method for an edit.

        Args:
            edit (str): a key of `truth`.
            image (Tensor[n, 3, S, S])
            normal (Tensor[n, 3, S, S] or None)
            landmarks (Tensor[n, 68, 2] or None): millimetres; NaN where unknown.

        Returns:
            dict: `image` and `face`, mean squared errors of the picture and inside the true mask;
            `normals`, mean angle in degrees; `landmarks`, mean distance in pixels.
        """
        truth = self.truth[edit]
        error = SquaredError()
        error.add(image, truth["image"], truth["mask"])
        errors = error.result()
        if normal is not None:
            angle = AngularError()
            angle.add(normal, truth["normal"], truth["mask"])
            errors["normals"] = angle.result()["mean"]
        if landmarks is not None:
            wanted = to_pixels(self.project_landmarks(truth), self.size)
            distance = (to_pixels(landmarks, self.size) - wanted).norm(dim=2)
            errors["landmarks"] = float(distance.nanmean())
        return errors


class Transfers(Pairs):
    """Random pairs of faces of unseen identities, with the rendered ground truth of every edit.

    Args:
        configuration (Configuration): of a run.
        count (int): number of pairs.
    """

    face: FaceModel
    has_landmarks = True

    def __init__(self, configuration: Configuration, count: int) -> None:
        data, size = configuration.data, configuration.model.image_size
        face = find_face_model(data)
        split = "poc-test" if data.of_concept else "test"
        variation = find_variation(data)
        faces = GeneratedFaces(face, split, size, data.seed + 1, variation=variation)
        drawn = faces.draw(range(2 * count))
        target, source = drawn[slice(0, count)], drawn[slice(count, 2 * count)]
        edits = ["expression"]
        edits += ["pose"] if variation.pose != "frontal" else []
        edits += ["light"] if variation.light != "frontal" else []
        truth: dict[str, Batch] = {}
        for edit in tqdm(edits, "true edits", unit="edit"):
            fields = {name: getattr(source, name) for name in EDITED[edit]}
            truth[edit] = faces.render(dataclasses.replace(target, **fields))
        super().__init__(faces.render(target), faces.render(source), truth, face)


def find_pairs(pictures: Pictures, count: int, face: FaceModel | None) -> dict[str, Pairs]:
    """Pairs of pictures that differ in one factor only, by edit.

    Each picture is the ground truth of an edit of the other, so both directions are used. At most
    `count` per edit.
    """
    if "differs" not in pictures or "pair" not in pictures:
        return {}
    differs, pair = pictures.packed["differs"], pictures.packed["pair"]
    whole = (pair[1:] == pair[:-1]) & (differs[1:] == differs[:-1])
    found = {}
    for number, edit in enumerate(DIFFERS):
        first = (whole & (differs[1:] == number)).nonzero()[:, 0][: -(-count // 2)]
        if edit not in EDITED or not len(first):
            continue
        own = torch.cat([first, first + 1])[:count]
        other = torch.cat([first + 1, first])[:count]
        target, source = pictures[own], pictures[other]
        found[edit] = Pairs(target, source, {edit: source}, face)
    return found
