"""Figures 1, 4, 7 to 11 and 16 to 21: transfers and interpolations between faces."""

from __future__ import annotations

import torch
from torch import Tensor

from ntensor.faces import editing
from ntensor.faces.baselines import rewarp, warp_by_flow
from ntensor.faces.media.inputs import Face, stack_pictures
from ntensor.faces.runs.opened import OpenedRun
from ntensor.faces.writing.sheet import to_colours

from .material import Figure, Material

_FOLLOWS = "with another pose or identity, z_id follows the pose"
_TRUE_LANDMARKS = "the face model is fitted to true landmarks"


def render_truths(opened: OpenedRun, targets: list[Face], sources: list[Face], edit: str) -> Tensor:
    """Renders the ground truth of an edit."""
    made = [opened.inputs.render_edit(t, s, edit) for t, s in zip(targets, sources, strict=True)]
    return stack_pictures([face for face in made if face is not None])


def edit_faces(
    opened: OpenedRun, targets: list[Face], sources: list[Face], edit: str, follow: bool = False
) -> dict[str, Tensor]:
    """The network's outputs after an edit.

    With `follow`, `z_id` follows the pose if training did not separate the two; see
    `fit_pose_leak`.
    """
    leak = opened.leak if follow and not opened.separated else None
    given, taken = opened.encode(targets), opened.encode(sources)
    if edit == "expression":
        output = editing.transfer_expression(opened.model, given, taken)
    elif edit == "pose":
        output = editing.transfer_pose(opened.model, given, taken, mask="normals", leak=leak)
    elif edit == "identity":
        output = editing.transfer_identity(opened.model, given, taken, mask="normals", leak=leak)
    else:
        output = editing.transfer_light(opened.model, given, taken)
    return {name: value.float().cpu() for name, value in output.items()}


def begin_columns(targets: list[Face], sources: list[Face]) -> dict[str, Tensor]:
    """The first two columns."""
    return {"target": stack_pictures(targets), "source": stack_pictures(sources)}


def draw_overview(material: Material) -> Figure:
    """Figure 1."""
    opened = material.main
    targets = material.draw_faces(opened, 0)
    sources = material.draw_faces(opened, 20, lights=True, strong=True)
    columns = begin_columns(targets, sources)
    columns["reconstr."] = editing.decode(opened.model, opened.encode(targets))["image"].cpu()
    for edit in editing.CODES:
        follow = edit in ("pose", "identity")
        columns[edit] = edit_faces(opened, targets, sources, edit, follow)["image"]
    title = "A face with the expression, pose, light or identity of another"
    return Figure(title, columns, notes=() if opened.separated else (_FOLLOWS,))


def draw_concept(material: Material, edit: str) -> Figure:
    """Figures 4 and 7."""
    opened = material.find_other(f"poc_{edit}")
    editing.require_codes(opened.model, edit)
    turned = edit == "pose"
    targets = material.draw_faces(opened, 0, turned)
    sources = material.draw_faces(opened, 11, turned, strong=True)
    columns = begin_columns(targets, sources)
    columns[edit] = edit_faces(opened, targets, sources, edit)["image"]
    columns["truth"] = render_truths(opened, targets, sources, edit)
    return Figure(f"Proof of concept: {edit} transfer compared with the rendered truth", columns)


def draw_fitted(material: Material, edit: str) -> Figure:
    """Figures 8 and 10."""
    opened = material.main
    targets = material.draw_faces(opened, 3)
    sources = material.draw_faces(opened, 30, strong=True, turned=edit == "pose")
    own, other = material.fit_landmarks(targets), material.fit_landmarks(sources)
    face = opened.inputs.face_model
    swapped = own.with_expression(other) if edit == "expression" else own.with_pose(other)
    columns = begin_columns(targets, sources)
    output = edit_faces(opened, targets, sources, edit)
    columns["network"] = output["image"]
    if edit == "expression":
        columns["frontal"] = output["frontal_image"]
        columns["warp"], _, _ = editing.warp_expression(
            opened.model, face, columns["target"], opened.encode(targets), opened.encode(sources)
        )
    elif not opened.separated:
        columns["z_id follows"] = edit_faces(opened, targets, sources, edit, follow=True)["image"]
    draw = warp_by_flow if edit == "expression" else rewarp
    columns["3DMM swap"] = draw(face, columns["target"], own, swapped)[0]
    columns["truth"] = render_truths(opened, targets, sources, edit)
    title = f"{edit.capitalize()} transfer compared with the swap of a fitted face model"
    return Figure(title, columns, notes=(_TRUE_LANDMARKS,))


def draw_multilinear(material: Material, first: int, turned: bool) -> Figure:
    """Figures 9 and 21."""
    opened = material.main
    targets = material.draw_faces(opened, first, turned)
    sources = material.draw_faces(opened, first + 27, turned, strong=True)
    columns = begin_columns(targets, sources)
    output = edit_faces(opened, targets, sources, "expression")
    columns["network"] = output["image"]
    columns["frontal"] = output["frontal_image"]
    mode = material.expression_mode
    masks = [torch.cat([face.truth["mask"] for face in faces]) for faces in (targets, sources)]
    donor = {"image": columns["source"], "mask": masks[1]}
    columns["ALS"] = material.multilinear.edit(columns["target"], masks[0], donor, mode)
    columns["truth"] = render_truths(opened, targets, sources, "expression")
    note = (
        f"our ALS after [37] of {len(material.training)} unaligned pictures, with true masks; "
        f"the swapped factor is the one for {mode}, which predicts the training expressions best"
    )
    return Figure("Expression transfer compared with the multilinear model", columns, notes=(note,))


def draw_lights(material: Material, first: int) -> Figure:
    """Figures 11 and 20."""
    opened, notes = material.main, []
    targets = material.draw_faces(opened, first)
    sources = material.draw_faces(opened, first + 23, lights=True)
    columns = begin_columns(targets, sources)
    output = edit_faces(opened, targets, sources, "light")
    for title, name in (("s source", "source"), ("s target", "target")):
        columns[title] = to_colours("shading", output[f"shading_{name}"])
    columns["s transfer"] = to_colours("shading", output["shading"])
    columns["network"] = output["image"]
    other = material.others["intrinsic"]
    if other is None:
        notes.append("without the network after [30]: --intrinsic was not given")
    else:
        columns["after [30]"] = edit_faces(other, targets, sources, "light")["image"]
    columns["truth"] = render_truths(opened, targets, sources, "light")
    return Figure("Light transfer with shadings", columns, notes=tuple(notes))


def draw_every_pair(material: Material, edit: str, first: int) -> Figure:
    """Figures 16 and 17."""
    opened = material.main
    targets = material.draw_faces(opened, first)
    sources = material.draw_faces(opened, first - 8, strong=True)[: min(6, material.rows)]
    white = torch.ones_like(targets[0].image)[None]
    columns = {"target": torch.cat([white, stack_pictures(targets)])}
    for number, source in enumerate(sources, 1):
        made = edit_faces(opened, targets, [source], edit, follow=edit == "pose")["image"]
        columns[f"source {number}"] = torch.cat([source.image[None], made])
    notes = (_FOLLOWS,) if edit == "pose" and not opened.separated else ()
    title = f"{edit.capitalize()} of each source (top) on each target (left)"
    return Figure(title, columns, notes=notes)


def draw_interpolation(material: Material, edit: str, first: int) -> Figure:
    """Figures 18 and 19."""
    opened = material.main
    starts = material.draw_faces(opened, first)
    ends = material.draw_faces(opened, first + 5, strong=True, turned=False)
    a, b = opened.encode(starts), opened.encode(ends)
    mask: editing.codes.Mask = "normals" if edit == "identity" else "code"
    rows = [
        editing.interpolate(opened.model, a[k], b[k], edit, mask=mask)["image"].cpu()
        for k in range(len(starts))
    ]
    columns = {"input": stack_pictures(starts)}
    for step, images in enumerate(torch.stack(rows, 1)):
        columns[f"{step / 10:g}"] = images
    columns["target"] = stack_pictures(ends)
    return Figure(f"{edit.capitalize()} interpolated in steps of 0.1", columns)
