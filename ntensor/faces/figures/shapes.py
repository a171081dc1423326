"""Figures 5, 6, 12 and 13: shapes, textures and normals."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional as F

from ntensor.faces import editing
from ntensor.faces.media import meshes
from ntensor.faces.media.inputs import stack_pictures
from ntensor.faces.runs.reconstruction import Reconstruction
from ntensor.faces.writing.sheet import to_colours

from .material import Figure, LeftOut, Material

_SIZE = 128


def _enlarge(maps: Tensor) -> Tensor:
    return F.interpolate(maps.clamp(0, 1), size=(_SIZE, _SIZE))


def draw_shapes(material: Material, other: str | None, first: int) -> Figure:
    """Figures 5 and 12: shapes of another run, or of the main one."""
    opened = material.main if other is None else material.find_other(other)
    faces = material.draw_faces(opened, first, strong=True)
    made = Reconstruction(opened, faces)
    columns = {"input": _enlarge(stack_pictures(faces))}
    truth = torch.stack(list(made.truth.values()))
    columns["truth"] = meshes.draw_shapes(truth, made.part, size=_SIZE)
    for name, (vertices, face) in made.shapes.items():
        columns[name] = meshes.draw_shapes(vertices, face, size=_SIZE)
    columns["truth, side"] = meshes.draw_shapes(truth, made.part, meshes.VIEWS[1], _SIZE)
    for name, (vertices, face) in made.shapes.items():
        columns[f"{name}, side"] = meshes.draw_shapes(vertices, face, meshes.VIEWS[1], _SIZE)
    rms = made.measure_errors()["rms"]
    means = ", ".join(f"{name} {sum(row) / len(row):.2f}" for name, row in rms.items())
    return Figure("3D shape from one picture", columns, notes=(f"rms error in mm: {means}",))


def draw_textures(material: Material) -> Figure:
    """Figure 6."""
    opened = material.find_other("poc_expression")
    faces = material.draw_faces(opened, 5)
    output = editing.decode(opened.model, opened.encode(faces))
    if "texture" not in output:
        raise LeftOut("the run of --poc-expression has no stream to the texture")
    true = []
    for face in faces:
        assert face.scene is not None
        scene = dataclasses.replace(
            face.scene,
            exp_3dmm=torch.zeros_like(face.scene.exp_3dmm),
            angles=torch.zeros_like(face.scene.angles),
        )
        true.append(opened.inputs.render(face.name, scene).truth["albedo"])
    columns = {
        "input": stack_pictures(faces),
        "truth": torch.cat(true),
        "texture": output["texture"].cpu(),
    }
    return Figure("Facial texture from one picture", columns)


def draw_normals(material: Material) -> Figure:
    """Figure 13."""
    opened, notes = material.main, []
    faces = material.draw_faces(opened, 18, lights=True, strong=True)
    images = stack_pictures(faces)
    mask = torch.cat([face.truth["mask"] for face in faces])
    columns = {"input": images}

    def shown(normal: Tensor) -> Tensor:
        return to_colours("normal", F.normalize(normal.float().cpu(), dim=1) * (mask > 0.5))

    columns["network"] = shown(editing.decode(opened.model, opened.encode(faces))["normal"])
    other = material.others["intrinsic"]
    if other is None:
        notes.append("without the network after [30]: --intrinsic was not given")
    else:
        columns["after [30]"] = shown(editing.decode(other.model, other.encode(faces))["normal"])
    model = material.multilinear
    columns["ALS"] = shown(model.normals(model.codes(images, mask), images.shape[-1]))
    mean = material.training[slice(None)]["normal"].sum(0, keepdim=True)
    columns["mean face"] = shown(mean.expand_as(images))
    columns["truth"] = shown(torch.cat([face.truth["normal"] for face in faces]))
    notes.append(
        f"ALS, after [37], of {len(material.training)} unaligned pictures, with true masks"
    )
    return Figure("Normals compared with other estimates", columns, notes=tuple(notes))
