"""The content of the page of `ntensor.faces.demo`: pictures as HTML, the shape as a mesh."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ntensor.faces import editing
from ntensor.faces.common import extras
from ntensor.faces.common.errors import ConfigurationError, ImageError
from ntensor.faces.datasets import scenes
from ntensor.faces.datasets.rendered import SPLITS
from ntensor.faces.datasets.stored import StoredFaces
from ntensor.faces.editing import FixedFace, restore_vertices
from ntensor.faces.editing.session import Session
from ntensor.faces.media import images
from ntensor.faces.media.inputs import Face
from ntensor.faces.morphable.face_model import FaceModel
from ntensor.faces.reading import read_picture
from ntensor.faces.runs.opened import OpenedRun, Options
from ntensor.faces.writing.sheet import to_colours

# Number of faces offered at a time.
OFFERED = 12
# The two initial faces.
START = (2, 6)
YAWS = (0, 30, -15, -40, 15)
MOST_PIXELS = 40_000_000

SIDES = ("first", "second")
# Weights run from the first face, 0, through the second, 1, and beyond.
LARGEST_WEIGHT = 1.5
SLIDERS = ("identity", "expression", "pose", "light")
MAPS = {
    "image": "reconstruction",
    "normal": "normals",
    "albedo": "albedo",
    "shading": "shading",
    "mask": "mask",
    "background": "background",
    "frontal_image": "frontal image",
    "frontal_normal": "frontal normals",
}


class Demo:
    """The content and actions of the page, independent of Gradio.

    Args:
        run (Path): a run's folder, or a file of weights.
        checkpoint (str): `"best"` or `"last"`.

    Raises:
        FacesError: there is no such run, or its network lacks one of the codes.
    """

    def __init__(self, run: Path, checkpoint: Literal["best", "last"] = "best") -> None:
        self.run = OpenedRun(run, Options(checkpoint=checkpoint), *SLIDERS)
        self.first_offered = [self.choose_face(number) for number in range(OFFERED)]

    @property
    def sentence(self) -> str:
        """A description of the network's training."""
        data, step = self.run.configuration.data, self.run.step
        if self.run.inputs.own_surface is not None:
            return (
                f"Ready-made weights, trained with {step} updates on faces of another model "
                f"({self.surface.source}). The faces below are generated, and new to the network."
            )
        if data.source != "generated":
            return f"Trained with {step} updates on the data set {data.source}."
        return (
            f"Trained with {step} updates on generated faces alone ({self.surface.source}). The "
            "people below are new to the network, which has never seen a photograph."
        )

    @property
    def surface(self) -> FaceModel:
        """The surface of the network's shape.

        Raises:
            FacesError: it is unknown, or its number of vertices is wrong.
        """
        face, k_3d = self.run.inputs.surface, self.run.configuration.model.k_3d
        if face.shape_size != k_3d:
            raise ConfigurationError(
                f"the run's shape has {k_3d} coordinates, that of the {face.source} has "
                f"{face.shape_size}"
            )
        return face

    def choose_face(self, number: int) -> Face:
        """An offered face, of a test person or from the run's validation set."""
        data, inputs = self.run.configuration.data, self.run.inputs
        if data.source == "generated":
            basic = inputs.face_model.basic_names
            return inputs.generate(
                "test",
                str(number % len(SPLITS["test"])),
                basic[number % len(basic)],
                str(YAWS[number % len(YAWS)]),
                "front" if number % 3 == 0 else str((5 + 3 * number) % scenes.FIXED_LIGHTS),
            )
        folder = Path(data.validation_source or data.source)
        return inputs.read_record(folder, number % StoredFaces(folder).count)

    def show_offered(self, page: int) -> list[Any]:
        """Pictures (S, S, 3), uint8, of the faces offered on a page of `OFFERED`."""
        numbers = range(page * OFFERED, (page + 1) * OFFERED)
        faces = [self.choose_face(number) for number in numbers] if page else self.first_offered
        return [to_pixels(face.image) for face in faces]

    def start(self) -> tuple[Session, dict[str, list[str]]]:
        """The initial session, and `show_side` of each side."""
        faces = {s: self.first_offered[k].image for s, k in zip(SIDES, START, strict=True)}
        first, second = (self.fix_face(image) for image in faces.values())
        session = Session(first, second, self.leak)
        return session, {s: self.show_side(s, session, image) for s, image in faces.items()}

    @property
    def leak(self) -> Tensor | None:
        """The regression by which `z_id` follows the pose; None if training separated the two."""
        return None if self.run.separated else self.run.leak

    def fix_face(self, image: Tensor) -> FixedFace:
        """Encodes a picture (3, S, S)."""
        encoded = self.run.encode([Face("", image)])[0]
        return FixedFace(self.run.model, encoded, image[None].to(self.run.device))

    def read_upload(self, path: Path) -> Tensor:
        """Reads a picture and crops its face; the middle square if no face is found.

        Raises:
            ImageError: see `read_picture`; the message names the file without its folder.
        """
        try:
            return self.run.inputs.crop(read_picture(path, MOST_PIXELS), path).image
        except ImageError as error:
            raise ImageError(str(error).replace(str(path), path.name)) from error

    def show_side(self, side: str, session: Session, image: Tensor) -> list[str]:
        """HTML of one side's picture and of its decoded maps."""
        face = getattr(session, side)
        maps = editing.decode(self.run.model, face.encoded)
        title = f"{side.title()} face"
        return [format_picture(image, title), format_maps(title, maps)]

    def show_edited(self, session: Session, weights: Mapping[str, float]) -> list[str]:
        """HTML of the edited face, large, and of its decoded maps.

        The large pictures are the decoded face, its frontal view and, if available, the first
        picture with the edited expression and light.
        """
        maps = session.decode(weights)
        large = {"Edited face": maps["image"], "Its frontal view": maps["frontal_image"]}
        changed = session.edit_picture(weights)
        if changed is not None:
            large["First picture, expression and light changed"] = changed
        figures = "".join(format_figure(x[0], title, title) for title, x in large.items())
        return [f'<div class="large">{figures}</div>', format_maps("Edited face", maps)]

    def make_mesh(self, session: Session, weights: Mapping[str, float]) -> bytes:
        """The edited shape as a GLB file, textured with the frontal image.

        Raises:
            FacesError: see `surface`.
        """
        trimesh, image_module = extras.load("trimesh"), extras.load("PIL.Image")
        triangles = self.surface.triangles
        maps = session.decode(weights)
        vertices = restore_vertices(self.run.model, maps)[0].float().cpu()
        material = trimesh.visual.material.PBRMaterial(
            baseColorTexture=image_module.fromarray(to_pixels(maps["frontal_image"][0])),
            metallicFactor=0.0,
            roughnessFactor=0.8,
            doubleSided=True,
        )
        visual = trimesh.visual.TextureVisuals(
            uv=find_texture_places(vertices).numpy(), material=material
        )
        mesh = trimesh.Trimesh(
            1e-3 * vertices.numpy(), triangles.numpy(), visual=visual, process=False
        )
        content: bytes = mesh.export(file_type="glb", include_normals=True)
        return content


def find_texture_places(vertices: Tensor) -> Tensor:
    """Texture coordinates of vertices (V, 3), in millimetres, in the frontal image.

    Returns:
        Tensor[V, 2]: 0 to 1, from the left and from the bottom.
    """
    # Slightly inwards, so that the outline does not get the colour of the empty background.
    seen = 0.95 * images.project(vertices, 1) * vertices.new_tensor([1, -1])
    return (0.5 + seen).clamp(0, 1)


def to_pixels(image: Tensor) -> Any:
    """Converts an image (3, S, S), 0 to 1, to an array (S, S, 3), uint8."""
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()


def format_picture(image: Tensor, description: str) -> str:
    """An image (3, S, S), 0 to 1, as self-contained HTML."""
    file = io.BytesIO()
    extras.load("PIL.Image").fromarray(to_pixels(image)).save(file, "PNG", compress_level=1)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{html.escape(description)}">'


def format_figure(image: Tensor, description: str, caption: str) -> str:
    """`format_picture` with a caption."""
    return (
        f"<figure>{format_picture(image, description)}<figcaption>{caption}</figcaption></figure>"
    )


def format_maps(title: str, maps: Mapping[str, Tensor]) -> str:
    """The decoded maps of one face as HTML, with captions."""
    figures = "".join(
        format_figure(to_colours(name, maps[name])[0], f"{title}: {shown}", shown)
        for name, shown in MAPS.items()
    )
    return f'<div class="maps-title">{title}</div><div class="maps">{figures}</div>'
