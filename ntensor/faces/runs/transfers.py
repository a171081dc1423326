"""Transfers a code between faces: pictures, figures and errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ntensor.faces import editing
from ntensor.faces.common.errors import ConfigurationError
from ntensor.faces.editing.codes import Mask
from ntensor.faces.media.images import save_image
from ntensor.faces.media.inputs import Face, stack_pictures
from ntensor.faces.writing import grids
from ntensor.faces.writing.files import check_writable
from ntensor.faces.writing.sheet import to_colours

from .opened import OpenedRun, pair_faces


@dataclass(frozen=True)
class Way:
    """How a transfer is done: the arguments of the commands; `leak` is for `follow`."""

    project: bool = False
    mask: Mask = "normals"
    leak: Tensor | None = None
    detail: bool = False
    warp: bool = False

    def __post_init__(self) -> None:
        if self.detail and self.warp:
            raise ConfigurationError("detail and warp exclude each other, got both")


def transfer(
    opened: OpenedRun,
    edit: str,
    target: editing.Encoded,
    source: editing.Encoded,
    way: Way,
    streams: bool = True,
) -> dict[str, Tensor]:
    """The decoder's outputs of one edit, a key of `editing.CODES`; `streams` as in `decode`."""
    if edit == "expression":
        return editing.transfer_expression(opened.model, target, source, streams)
    if edit == "light":
        return editing.transfer_light(opened.model, target, source)
    if edit == "pose":
        return editing.transfer_pose(
            opened.model, target, source, way.project, way.mask, streams, way.leak
        )
    return editing.transfer_identity(opened.model, target, source, way.mask, streams, way.leak)


def edit_pictures(
    opened: OpenedRun,
    edit: str,
    image: Tensor,
    target: editing.Encoded,
    source: editing.Encoded,
    way: Way,
) -> Tensor:
    """The edited pictures (n, 3, S, S): decoded, or the targets `image` (n or 1, 3, S, S) with the
    change of their decodings, or warped."""
    if way.warp:
        face = opened.inputs.find_coefficient_model()
        return editing.warp_expression(opened.model, face, image, target, source)[0]
    made = transfer(opened, edit, target, source, way, streams=False)["image"].cpu()
    if not way.detail:
        return made
    plain = editing.decode(opened.model, target, streams=False)["image"].cpu()
    return editing.keep_detail(edit, *(part.expand_as(made) for part in (image, plain, made)))


def enlarge(picture: Tensor, scale: int) -> Tensor:
    """Repeats every pixel of (..., h, w) `scale` times in both directions."""
    return picture.repeat_interleave(scale, -2).repeat_interleave(scale, -1)


def make_columns(
    opened: OpenedRun,
    edit: str,
    targets: Sequence[Face],
    sources: Sequence[Face],
    way: Way,
) -> tuple[dict[str, Tensor], list[Face]]:
    """The columns of a transfer's figure, and the ground truths if all faces are generated."""
    given, taken = opened.encode(targets), opened.encode(sources)
    made = transfer(opened, edit, given, taken, way)
    plain = editing.decode(opened.model, given, streams=True)
    shown = {"target": stack_pictures(targets), "source": stack_pictures(sources)}
    shown["reconstr."] = plain["image"]
    if edit == "light":
        shown |= {
            "source sh.": to_colours("shading", made["shading_source"]),
            "target sh.": to_colours("shading", made["shading_target"]),
            "new shading": to_colours("shading", made["shading"]),
        }
    shown[edit] = made["image"]
    if way.detail or way.warp:
        shown[edit] = edit_pictures(opened, edit, shown["target"], given, taken, way)
    if edit in ("expression", "identity") and "frontal_image" in made:
        shown |= {"frontal": plain["frontal_image"], f"fr. {edit[:6]}.": made["frontal_image"]}
    truths = [opened.inputs.render_edit(t, s, edit) for t, s in zip(targets, sources, strict=True)]
    known = [truth for truth in truths if truth is not None]
    if len(known) == len(truths):
        shown["truth"] = stack_pictures(known)
    else:
        known = []
    return {title: opened.to_colours(images) for title, images in shown.items()}, known


def write_transfer(
    opened: OpenedRun,
    edit: str,
    target: Sequence[str],
    source: Sequence[str],
    out: Path,
    way: Way,
) -> None:
    """Writes the figure and pictures of an edit; prints their names, and the error if it is known.

    Args:
        opened: the run and its options.
        edit: a key of `editing.CODES`.
        target, source: words for faces, see `inputs`.
        out: folder for the pictures.
        way: how it is done.
    """
    targets, sources = pair_faces(opened.read(target), opened.read(source), "target", "source")
    check_writable(out)
    shown, truths = make_columns(opened, edit, targets, sources, way)
    grids.save_grid(opened.check_output(out / "figure.png"), shown, opened.options.scale)
    for number, image in enumerate(shown[edit]):
        save_image(opened.check_output(out / f"{edit}_{number:03d}.png"), image)
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
