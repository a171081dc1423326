"""Reconstructs shapes and maps of faces in 3D by the network of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ntensor.faces import editing
from ntensor.faces.common.errors import ConfigurationError
from ntensor.faces.datasets.records import VALID
from ntensor.faces.media import meshes
from ntensor.faces.media.images import save_image
from ntensor.faces.media.inputs import Face, stack_pictures
from ntensor.faces.morphable.face_model import FaceModel
from ntensor.faces.writing.sheet import to_colours

from .opened import OpenedRun, to_cpu

_DRAWN = 128


class Reconstruction:
    """Shapes and maps of some faces.

    Args:
        opened (OpenedRun)
        faces (sequence of Face)

    Attributes:
        shapes (dict): vertices (n, V, 3) of `decoder` and `coefficients`, and the face model that
            has their triangles. Millimetres if the face model uses them.
        maps (dict): `texture`, `frontal_image`, `frontal_normal`, `normal` (n, 3, S, S), if the
            network has them.
        left_out (str): why there are no `coefficients`; empty if there are.

    Raises:
        ConfigurationError: the network has no 3D shape at all.
        FacesError: there is no face model.
    """

    def __init__(self, opened: OpenedRun, faces: Sequence[Face]) -> None:
        model = opened.model
        if "id_3dmm" not in model.configuration.targets:
            raise ConfigurationError(
                "a 3D face needs a network with identity and expression; the run's network is "
                f'"{model.configuration.network}"'
            )
        self.opened, self.faces = opened, list(faces)
        inputs = opened.inputs
        self.part = inputs.surface
        output = editing.decode(model, opened.encode(faces))
        self.output = to_cpu(output)
        self.shapes: dict[str, tuple[Tensor, FaceModel]] = {}
        if "shape" in output:
            vertices = editing.restore_vertices(model, output).float().cpu()
            wanted = len(self.part.mean)
            if vertices.shape[1] != wanted:
                raise ConfigurationError(
                    f"the network's shape has {vertices.shape[1]} vertices, that of the face model "
                    f"({self.part.source}) {wanted}"
                )
            self.shapes["decoder"] = (vertices, self.part)
        self.left_out = ""
        try:
            face = inputs.find_coefficient_model()
            self.shapes["coefficients"] = (editing.build_vertices(model, output, face), face)
        except ConfigurationError as error:
            if inputs.own_surface is None:
                raise
            self.left_out = f"no mesh of the coefficients: {error}"
        self.maps = editing.collect_frontal_maps(self.output)
        if "normal" in self.output:
            self.maps["normal"] = self.output["normal"] * (self.output["mask"] > 0.5)
        self.truth = self._find_truth()

    def _find_truth(self) -> dict[int, Tensor]:
        """True shapes (V_s, 3) by face number, if they have the vertices of the network's shape."""
        shapes = {}
        for number, face in enumerate(self.faces):
            if "shape" in face.truth and face.truth["valid"][0, VALID.index("shape")]:
                shape = face.truth["shape"][0].view(-1, 3)
                if len(shape) == len(self.part.mean):
                    shapes[number] = shape
        return shapes

    def choose_texture(self) -> Tensor | None:
        """The frontal colours that the meshes are painted with."""
        name = next((name for name in ("texture", "frontal_image") if name in self.maps), None)
        return None if name is None else self.maps[name].clamp(0, 1)

    def write(self, folder: Path, number: int, format: str) -> None:
        """Writes meshes and maps of one face."""
        picture = self.choose_texture()
        for name, (vertices, face) in self.shapes.items():
            colours = None
            if picture is not None:
                rows = slice(number, number + 1)
                colours = meshes.sample_colours(vertices[rows], picture[rows])[0]
            meshes.write_mesh(
                folder / f"{name}.{format}", vertices[number], face.triangles, colours
            )
        for name, maps in self.maps.items():
            save_image(
                self.opened.check_output(folder / f"{name}.png"), to_colours(name, maps)[number]
            )

    def measure_errors(self) -> dict[str, Any]:
        """Root mean square errors of each face over the vertices of the network's shape, and those
        of the mean face; empty if no ground truth is known."""
        if not self.truth:
            return {}
        rows, truth = list(self.truth), torch.stack(list(self.truth.values()))
        chosen = self.opened.inputs.face_model.shape_vertices
        compared = {"mean face": self.part.mean.expand_as(truth)}
        for name, (vertices, face) in self.shapes.items():
            compared[name] = (vertices if face is self.part else vertices[:, chosen])[rows]
        rms = {name: editing.measure_shape_error(v, truth).tolist() for name, v in compared.items()}
        return {
            "unit": "mm",
            "face_model": self.part.source,
            "faces": [self.faces[row].name for row in rows],
            "rms": rms,
        }

    def make_columns(self) -> dict[str, Tensor]:
        """The columns of the figure: input, reconstruction, shapes from two sides, maps."""

        def large(maps: Tensor) -> Tensor:
            return torch.nn.functional.interpolate(maps, size=(_DRAWN, _DRAWN))

        columns = {"input": large(stack_pictures(self.faces))}
        columns["reconstruction"] = large(self.output["image"].clamp(0, 1))
        shapes = dict(self.shapes)
        if len(self.truth) == len(self.faces):
            shapes["truth"] = (torch.stack(list(self.truth.values())), self.part)
        for name, (vertices, face) in shapes.items():
            for angles in meshes.VIEWS:
                side = "" if angles == meshes.VIEWS[0] else ", side"
                columns[f"{name}{side}"] = meshes.draw_shapes(vertices, face, angles, _DRAWN)
        picture = self.choose_texture()
        if picture is not None:
            name, (vertices, face) = next(iter(self.shapes.items()))
            colours = meshes.sample_colours(vertices, picture)
            columns["painted"] = meshes.draw_shapes(
                vertices, face, meshes.VIEWS[1], _DRAWN, colours
            )
        for name, maps in self.maps.items():
            columns[name] = large(to_colours(name, maps))
        return columns
