"""The input faces of a command: pictures, records of a data set, generated faces.

================================================  =================================================
`photo.jpg`                                       a picture, see `images`
`FOLDER:INDEX`                                    a record of a stored data set, see `storage`
`generated:SPLIT:PERSON:EXPRESSION:POSE:LIGHT`    a generated face: a person of a split, counted
                                                  from 0; a basic expression; the yaw in degrees, or
                                                  `yaw,pitch,roll`; a fixed light, 0 to 15, or
                                                  `front`. Trailing parts may be left out; they
                                                  default to `neutral`, `0` and `front`.
================================================  =================================================
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from ntensor.faces.common.errors import ConfigurationError, FacesError, ImageError
from ntensor.faces.configuration import Configuration
from ntensor.faces.configuration.entries import Within, check_entries
from ntensor.faces.datasets import scenes
from ntensor.faces.datasets.rendered import SPLITS, Batch, Faces, stack
from ntensor.faces.datasets.stored import StoredFaces
from ntensor.faces.morphable.face_model import FaceModel
from ntensor.faces.morphable.face_models import find_face_model
from ntensor.faces.networks.model import Model
from ntensor.faces.reading import read_picture

from . import images
from .meshes import restrict_to_shape
from .placement import Box, Placement, Placer, enclose

# The entries of a scene that an edit replaces.
EDITED = {
    "expression": ("exp_3dmm", "expression"),
    "pose": ("angles", "pose_bin"),
    "light": ("light", "light_bin"),
    "identity": ("identity", "id_3dmm"),
}
NOTATION = "generated:SPLIT:PERSON:EXPRESSION:POSE:LIGHT"


@dataclasses.dataclass(frozen=True)
class Face:
    """One face, cropped for the network.

    Attributes:
        name (str): as given by the user.
        image (Tensor[3, S, S]): 0 to 1.
        landmarks (Tensor[5 or 68, 2] or None): pixels of `image`.
        truth (dict): ground truth from a data set or the generator, a batch of one sample; empty
            for a picture.
        scene (Scenes or None): of a generated face.
    """

    name: str
    image: Tensor
    landmarks: Tensor | None = None
    truth: Batch = dataclasses.field(default_factory=dict)
    scene: scenes.Scenes | None = None


@dataclasses.dataclass(frozen=True)
class Cropping:
    """How faces in pictures are located.

    Attributes:
        landmarks: of pictures: a text file with 5 or 68 lines "x y", a .pts file, a .json file by
            picture name, or a folder with a .txt or .pts file for each picture; the faces are
            rotated, scaled and cropped by them.
        box: left, top, right, bottom of the face in every picture, in pixels; about a third wider
            than the head.
        place: the crop without landmarks and box: auto, the face that the run's own encoder finds,
            or the middle square with a warning if it is not sure; middle, the largest middle
            square.
    """

    landmarks: Path | None = None
    box: Annotated[Box | None, Within(-images.FARTHEST, images.FARTHEST)] = None
    place: Literal["auto", "middle"] = "auto"

    def __post_init__(self) -> None:
        check_entries(self)


class Inputs:
    """Reads a command's input faces, cropped for a run's network.

    Args:
        configuration (Configuration): of the run.
        landmarks (Path or None): of pictures, see `images.read_landmarks`.
        box (sequence or None): left, top, right, bottom of the face in every picture, pixels.
        model (Model or None): the run's network. It finds faces without landmarks and box, and
            checks that boxes show one; None: no search.
        surface (FaceModel or None): of the network's shape, if the run stores it.

    Attributes:
        files (set of Path): the pictures and videos read so far.
        own_surface: the argument `surface`.

    Raises:
        ConfigurationError: both landmarks and a box are given.
    """

    def __init__(
        self,
        configuration: Configuration,
        landmarks: Path | None = None,
        box: Box | None = None,
        model: Model | None = None,
        surface: FaceModel | None = None,
    ) -> None:
        if landmarks is not None and box is not None:
            raise ConfigurationError("faces are cropped by landmarks or by a box, got both")
        self.configuration = configuration
        self.landmarks, self.box, self.model = landmarks, box, model
        self.size = configuration.model.image_size
        self.own_surface = surface
        self._face: FaceModel | None = None
        self._faces: Faces | None = None
        self._single: str | None = None
        self.files: set[Path] = set()

    @property
    def face_model(self) -> FaceModel:
        """The face model of generated faces, which is the one that the run was trained with.

        Ready-made weights do not include theirs. With them it is the model named by the user or by
        `NTENSOR_FACE_MODEL`, else the built-in one.

        Raises:
            FacesError: there is no face model.
        """
        if self._face is None:
            data = self.configuration.data
            if data.source == "generated" or data.face_model is not None:
                self._face = find_face_model(data)
            else:
                try:
                    self._face = StoredFaces(data.source).face_model
                except (OSError, ValueError) as error:
                    raise FacesError(f"no face model: {error}") from error
            if self._face is None:
                raise FacesError(
                    f"no face model: the data set {data.source} has no basis.npz, and the run's "
                    "configuration names none"
                )
        return self._face

    @functools.cached_property
    def surface(self) -> FaceModel:
        """The network's shape: its mean, triangles and landmarks.

        It has no modes if the run stores the shape itself.

        Raises:
            FacesError: there is neither a stored shape nor a face model.
        """
        return self.own_surface or restrict_to_shape(self.face_model)

    def find_coefficient_model(self) -> FaceModel:
        """The face model whose coefficients the network predicts.

        Raises:
            FacesError: it is not available.
        """
        face, model = self.face_model, self.configuration.model
        sizes = (face.shape_size, face.identity_size, face.expression_size)
        wanted = (model.k_3d, model.id_3dmm, model.exp_3dmm)
        if self.own_surface is not None and sizes != wanted:
            raise ConfigurationError(
                "the network's coefficients belong to the face model of its training "
                f"({self.own_surface.source}), which the weights do not include; set --face-model"
            )
        return face

    def read(self, words: Sequence[str]) -> list[Face]:
        """Reads faces in the notation of the module.

        Raises:
            FacesError: a face cannot be read.
        """
        return [self.read_one(word) for word in words]

    def read_one(self, word: str) -> Face:
        """Reads one face."""
        if word.startswith("generated:"):
            return self.generate(*word.split(":")[1:])
        folder, _, index = word.rpartition(":")
        if folder and index.isdecimal() and not Path(word).exists():
            return self.read_record(Path(folder), int(index))
        return self.read_picture(Path(word))

    def read_picture(self, path: Path) -> Face:
        """Reads the face in a picture."""
        return self.crop(read_picture(path), path)

    def crop(
        self, image: Tensor, path: Path, frame: int | None = None, box: Box | None = None
    ) -> Face:
        """Crops the face in a picture that was read from `path`, or in a frame of that video.

        A `.json` file has the landmarks of a frame under `video.mp4:NUMBER`, counted from 0. `box`
        overrides the box of all pictures.

        Raises:
            ImageError: the picture has no landmarks, or several pictures share one text file.
        """
        self.files.add(path.resolve())
        box = box or self.box
        if self.landmarks is None or box is not None:
            name = str(path) if frame is None else f"{path}:{frame}"
            return Face(str(path), images.crop(image, self.size, self._place(image, name, box))[0])
        name = path.name if frame is None else f"{path.name}:{frame}"
        if self.landmarks.is_file() and self.landmarks.suffix != ".json":
            if self._single not in (None, name):
                raise ImageError(
                    f"{self.landmarks}: landmarks of one picture, got {self._single} and {name}; "
                    "several need a folder or a .json file"
                )
            self._single = name
        points = images.read_landmarks(self.landmarks, name)
        reference = self.own_surface or self.face_model
        try:
            image, points = images.align(image, points, reference, self.size)
        except ImageError as error:
            raise ImageError(f"{path}: {error}") from error
        return Face(str(path), image, points)

    @functools.cached_property
    def placer(self) -> Placer | None:
        """The face finder; None without a network or a face model."""
        if self.model is None:
            return None
        try:
            return Placer(self.model, self.face_model)
        except FacesError as error:
            warn(f"faces in pictures are not searched for: {error}")
            return None

    def _place(self, image: Tensor, name: str, box: Box | None) -> Box | None:
        """The box to crop: the given one, or that of the face found; None is the middle square.

        Prints a warning if it may be wrong.
        """
        height, width = image.shape[1:]
        if self.placer is None or (box is None and height == width == self.size):
            return box
        found = self.placer.find(image)
        if box is None and not found.sure:
            warn(
                f"{name}: no face found with confidence; the middle square is used, which gives "
                "wrong results unless the face fills it; set --landmarks or --box"
            )
        middle = Placement(width / 2, height / 2, min(height, width))
        given = middle if box is None else enclose(box)
        if not found.sure or found.agrees(given) or (box is None and found.stays):
            return box
        told = ", ".join(f"{edge:.0f}" for edge in found.box)
        if box is not None:
            warn(f"{name}: the face seems to be at {told}, not in the given box, which is used")
            return box
        print(f"{name}: using the face at {told}", file=sys.stderr, flush=True)
        return found.box

    def read_record(self, folder: Path, index: int) -> Face:
        """Reads a record of a stored data set."""
        try:
            batch = StoredFaces(folder).batch([index])
        except (OSError, ValueError, IndexError) as error:
            raise ImageError(f"{folder}:{index}: {error}") from error
        if batch["image"].shape[-1] != self.size:
            raise ImageError(
                f"{folder}:{index}: expected pictures of {self.size} pixels, the data set has "
                f"{batch['image'].shape[-1]}"
            )
        return Face(f"{folder}:{index}", batch["image"][0], truth=batch)

    def generate(
        self,
        split: str = "test",
        person: str = "0",
        expression: str = "neutral",
        pose: str = "0",
        light: str = "front",
        *rest: str,
    ) -> Face:
        """Generates a face from the parts of the notation."""
        name = ":".join(["generated", split, person, expression, pose, light])
        if split not in SPLITS or rest:
            wanted = f"{NOTATION} with SPLIT one of {', '.join(SPLITS)}"
            raise ImageError(f"{':'.join([name, *rest])}: expected {wanted}")
        persons = SPLITS[split]
        if not person.isdecimal() or int(person) >= len(persons):
            raise ImageError(f"{name}: PERSON must be 0 to {len(persons) - 1}, got {person!r}")
        basic = self.face_model.basic_names
        if expression not in basic:
            raise ImageError(
                f"{name}: EXPRESSION must be one of {', '.join(basic)}, got {expression!r}"
            )
        try:
            angles = [float(part) for part in pose.split(",")]
        except ValueError as error:
            raise ImageError(f"{name}: POSE must be the yaw in degrees, got {pose!r}") from error
        if light != "front" and not (light.isdecimal() and int(light) < scenes.FIXED_LIGHTS):
            raise ImageError(
                f"{name}: LIGHT must be front or 0 to {scenes.FIXED_LIGHTS - 1}, got {light!r}"
            )
        weights = self.face_model.basic_weights[basic.index(expression)]
        lamp = None if light == "front" else int(light)
        scene = self.make_scene(persons[int(person)], weights, [*angles, 0.0, 0.0][:3], lamp)
        scene.expression[0] = basic.index(expression)
        return self.render(name, scene)

    def make_scene(
        self, person: int, weights: Tensor, angles: Sequence[float], light: int | None
    ) -> scenes.Scenes:
        """A person with given expression weights under a fixed light; None: the frontal light."""
        background = scenes.draw_background(np.random.default_rng([person, 0xED]))
        lamps = scenes.make_frontal_lamps() if light is None else scenes.make_fixed_lamps(light)
        plain = self.configuration.data.of_concept
        row: list[Any] = [
            person,
            scenes.draw_identity(person, self.face_model.identity_size),
            weights.cpu().numpy(),
            np.array(angles, np.float32),
            lamps,
            np.zeros_like(background) if plain else background,
            -1,
            scenes.find_pose_bin(angles[0]),
            -1 if light is None else light,
        ]
        return stack([row])

    def render(self, name: str, scene: scenes.Scenes) -> Face:
        """Renders one scene, with its 68 landmarks and all ground truth."""
        face = self.face_model
        if self._faces is None:
            self._faces = Faces(face, self.size, None, "cpu")
        batch = self._faces.render(scene)
        vertices = face.vertices(batch["id_3dmm"], batch["exp_3dmm"])[0, face.landmarks68]
        landmarks = images.project(vertices @ batch["pose"][0].T, self.size)
        return Face(name, batch["image"][0], landmarks, batch, scene)

    def render_edit(self, target: Face, source: Face, edit: str) -> Face | None:
        """Renders the ground truth of an edit: the target with the source's `edit`.

        Args:
            target, source (Face)
            edit (str): `expression`, `pose`, `light` or `identity`.

        Returns:
            Face, or None if one of them is not generated.
        """
        if target.scene is None or source.scene is None:
            return None
        fields = {name: getattr(source.scene, name) for name in EDITED[edit]}
        return self.render(
            f"{target.name}, {edit} of {source.name}", dataclasses.replace(target.scene, **fields)
        )


def warn(sentence: str) -> None:
    """Prints a warning."""
    print(f"warning: {sentence}", file=sys.stderr, flush=True)


def stack_pictures(faces: Sequence[Face]) -> Tensor:
    """Stacks the pictures of faces to (n, 3, S, S)."""
    return torch.stack([face.image for face in faces])
