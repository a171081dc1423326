"""Edits that give faces the code of others: their pictures, figures and errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ntensor.faces import editing
from ntensor.faces.editing.codes import Mask
from ntensor.faces.media.images import save_image
from ntensor.faces.media.inputs import Face, pictures_of
from ntensor.faces.writing import grids
from ntensor.faces.writing.sheet import as_colours

from .opened import OpenedRun, paired


@dataclass(frozen=True)
class Way:
    """How a transfer is done: arguments of the commands; `leak` is that of `follow`."""

    project: bool = False
    mask: Mask = "normals"
    leak: Tensor | None = None
    detail: bool = False
    warp: bool = False


def transferred(
    opened: OpenedRun,
    edit: str,
    target: editing.Encoded,
    source: editing.Encoded,
    way: Way,
) -> dict[str, Tensor]:
    """The decoder's outputs of one edit, a key of `editing.CODES`."""
    if edit == "expression":
        return editing.expression(opened.model, target, source)
    if edit == "light":
        return editing.light(opened.model, target, source)
    if edit == "pose":
        return editing.pose(opened.model, target, source, way.project, way.mask, leak=way.leak)
    return editing.identity(opened.model, target, source, way.mask, leak=way.leak)


def enlarged(picture: Tensor, scale: int) -> Tensor:
    """Every pixel of (..., h, w) `scale` times in both directions."""
    return picture.repeat_interleave(scale, -2).repeat_interleave(scale, -1)


def columns(
    opened: OpenedRun,
    edit: str,
    targets: Sequence[Face],
    sources: Sequence[Face],
    way: Way,
) -> tuple[dict[str, Tensor], list[Face]]:
    """A transfer's figure, by titles, and the truths where all faces are generated."""
    given, taken = opened.encode(targets), opened.encode(sources)
    made = transferred(opened, edit, given, taken, way)
    plain = editing.decode(opened.model, given, streams=True)
    shown = {"target": pictures_of(targets), "source": pictures_of(sources)}
    shown["reconstr."] = plain["image"]
    if edit == "light":
        shown |= {
            "source sh.": as_colours("shading", made["shading_source"]),
            "target sh.": as_colours("shading", made["shading_target"]),
            "new shading": as_colours("shading", made["shading"]),
        }
    shown[edit] = made["image"]
    if way.detail:
        parts = (shown["target"], plain["image"].cpu(), made["image"].cpu())
        shown[edit] = editing.with_detail(*parts)
    if way.warp:
        face, image = opened.inputs.face_model, shown["target"]
        shown[edit], _, _ = editing.warped(opened.model, face, image, given, taken)
    if edit in ("expression", "identity") and "frontal_image" in made:
        shown |= {"frontal": plain["frontal_image"], f"fr. {edit[:6]}.": made["frontal_image"]}
    truths = [opened.inputs.edited(t, s, edit) for t, s in zip(targets, sources, strict=True)]
    known = [truth for truth in truths if truth is not None]
    if len(known) == len(truths):
        shown["truth"] = pictures_of(known)
    else:
        known = []
    return {title: opened.shown(images) for title, images in shown.items()}, known


def write(
    opened: OpenedRun,
    edit: str,
    target: Sequence[str],
    source: Sequence[str],
    out: Path,
    way: Way,
) -> None:
    """Writes an edit's figure and pictures; says what they are, and how far from known truths.

    Args:
        opened: the run and its options.
        edit: a key of `editing.CODES`.
        target, source: words for faces, see `inputs`.
        out: folder for the pictures.
        way: how it is done.
    """
    targets, sources = paired(opened.read(target), opened.read(source), "target", "source")
    shown, truths = columns(opened, edit, targets, sources, way)
    grids.save_grid(opened.output(out / "figure.png"), shown, opened.options.scale)
    for number, image in enumerate(shown[edit]):
        save_image(opened.output(out / f"{edit}_{number:03d}.png"), image)
    print(f"{out}: figure.png, {len(targets)} pictures {edit}_*.png")
    if truths:
        inside = torch.cat([face.truth["mask"] for face in truths])
        errors = {
            name: float(((images - shown["truth"]).square() * inside).sum() / (3 * inside.sum()))
            for name, images in (("edited", shown[edit]), ("unedited", shown["target"]))
        }
        print(
            f"mean squared error in the face against the rendered truth: {errors['edited']:.5f}; "
            f"of the unedited target: {errors['unedited']:.5f}"
        )
