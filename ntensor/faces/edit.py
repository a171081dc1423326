"""Edits faces with a trained network: `python -m ntensor.faces.edit EDIT [RUN] ... --out DIR`.

Faces are picture files, records of a stored data set (`FOLDER:INDEX`), or generated faces:
`generated:SPLIT:PERSON:EXPRESSION:POSE:LIGHT`, such as `generated:test:3:happy:20:5`; trailing
parts may be left out. Pictures are cropped by `--landmarks` or `--box`. Without these, the run's
own encoder looks for an upright face; if it is not sure, the middle square is used.

Example: python -m ntensor.faces.edit expression runs/faces --target photo.jpg
--source generated:test:3:happy --landmarks photo.txt --out edited
"""

from __future__ import annotations

from .common.launch import launch

if __name__ == "__main__":
    launch("ntensor.faces.edit")

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from ntensor.faces.editing.codes import Mask
from ntensor.faces.media.images import save_image
from ntensor.faces.media.inputs import stack_pictures
from ntensor.faces.runs.landmarks import find_landmarks
from ntensor.faces.writing import grids

from . import editing
from .common import extras
from .common.command import command
from .common.errors import ConfigurationError
from .media import videos
from .runs import transfers
from .runs.opened import OpenedRun, Options, pair_faces
from .writing.files import check_writable
from .writing.sheet import tile

Run = Annotated[Path | None, tyro.conf.Positional]
Settings = Annotated[Options, tyro.conf.arg(name="")]
Edit = Literal["expression", "pose", "light", "identity"]
_DEFAULT = Options()


def expression(
    run: Run = None,
    *,
    target: list[str],
    source: list[str],
    out: Path,
    detail: bool = False,
    warp: bool = False,
    options: Settings = _DEFAULT,
) -> None:
    """Transfers expressions from sources to targets (equations 17, 18 and 20).

    Example: python -m ntensor.faces.edit expression runs/faces --target generated:test:0
    --source generated:test:1:happy generated:test:2:surprise --out edited

    Args:
        run: folder of the run, or a file of weights; default: those included in the package.
        target: faces to edit; one, or as many as sources.
        source: faces that provide the expression; one, or as many as targets.
        out: folder for the pictures.
        detail: keep the target's own picture, and change it only where the change of the
            reconstruction exceeds its error.
        warp: warp the target's own picture by the motion of the face model between the coefficients
            that the network predicts for both pictures; nothing is decoded. For aligned faces.
    """
    way = transfers.Way(detail=detail, warp=warp)
    opened = OpenedRun(run, options, "expression")
    transfers.write_transfer(opened, "expression", target, source, out, way)


def pose(
    run: Run = None,
    *,
    target: list[str],
    source: list[str],
    out: Path,
    project: bool = False,
    mask: Mask = "normals",
    follow: bool = False,
    options: Settings = _DEFAULT,
) -> None:
    """Transfers poses from sources to targets (equation 20).

    Example: python -m ntensor.faces.edit pose runs/faces --target photo.jpg
    --source generated:test:0:neutral:40 generated:test:0:neutral:-40 --out edited

    Args:
        run: folder of the run, or a file of weights; default: those included in the package.
        target: faces to edit; one, or as many as sources.
        source: faces that provide the pose; one, or as many as targets.
        out: folder for the pictures.
        project: use the rotation nearest to the source's z_p instead of z_p itself.
        mask: how face and background are joined; code: by the target's own mask and outline;
            normals: by the outline of the turned face.
        follow: let the part of the identity code that depends on the pose follow it, by a
            regression on 256 training pictures; without it, the paper's edit.
    """
    opened = OpenedRun(run, options, "pose")
    leak = opened.leak if follow else None
    transfers.write_transfer(
        opened, "pose", target, source, out, transfers.Way(project, mask, leak)
    )


def identity(
    run: Run = None,
    *,
    target: list[str],
    source: list[str],
    out: Path,
    mask: Mask = "normals",
    follow: bool = False,
    options: Settings = _DEFAULT,
) -> None:
    """Transfers identities from sources to targets.

    Example: python -m ntensor.faces.edit identity runs/faces --target photo.jpg
    --source generated:test:0 --out edited

    Args:
        run: folder of the run, or a file of weights; default: those included in the package.
        target: faces to edit; one, or as many as sources.
        source: faces that provide the identity; one, or as many as targets.
        out: folder for the pictures.
        mask: as for pose.
        follow: as for pose.
    """
    opened = OpenedRun(run, options, "identity")
    leak = opened.leak if follow else None
    transfers.write_transfer(
        opened, "identity", target, source, out, transfers.Way(mask=mask, leak=leak)
    )


def light(
    run: Run = None,
    *,
    target: list[str],
    source: list[str],
    out: Path,
    detail: bool = False,
    options: Settings = _DEFAULT,
) -> None:
    """Transfers light from sources to targets, and shows the shadings (section 5.2).

    Example: python -m ntensor.faces.edit light runs/faces --target photo.jpg
    --source generated:test:0:neutral:0:1 generated:test:0:neutral:0:13 --out edited

    Args:
        run: folder of the run, or a file of weights; default: those included in the package.
        target: faces to edit; one, or as many as sources.
        source: faces that provide the light; one, or as many as targets.
        out: folder for the pictures.
        detail: add the change of the reconstruction to the target's own picture, which keeps
            detail that the network does not reproduce.
    """
    opened = OpenedRun(run, options, "light")
    transfers.write_transfer(opened, "light", target, source, out, transfers.Way(detail=detail))


def interpolate(
    run: Run = None,
    *,
    first: list[str],
    second: list[str],
    out: Path,
    edit: Edit = "expression",
    steps: int = 11,
    project: bool = False,
    options: Settings = _DEFAULT,
) -> None:
    """Interpolates expression, identity, pose or light between two faces (supplementary D).

    Example: python -m ntensor.faces.edit interpolate runs/faces --first generated:test:0
    --second generated:test:0:surprise --edit expression --out edited

    Args:
        run: folder of the run, or a file of weights; default: those included in the package.
        first: faces to start from; one, or as many as second.
        second: faces whose code is reached; one, or as many as first.
        out: folder for the pictures.
        edit: which code is interpolated; all others, and the background, are the first face's.
        steps: number of pictures; 11 gives steps of 0.1.
        project: for pose, use the rotation nearest to each interpolated z_p.
    """
    if steps < 2:
        raise ConfigurationError(f"steps must be at least 2, got {steps}")
    opened = OpenedRun(run, options, edit)
    starts, ends = pair_faces(opened.read(first), opened.read(second), "first", "second")
    check_writable(out)
    mask: Mask = "normals" if edit in ("pose", "identity") else "code"
    rows = []
    for start, end in zip(starts, ends, strict=True):
        pair = opened.encode([start, end])
        made = editing.interpolate(
            opened.model, pair[0], pair[1], edit, steps, project, mask, streams=False
        )
        rows.append(opened.to_colours(made["image"]))
    stacked = torch.stack(rows, 1)  # (steps, pairs, 3, S, S)
    shown = {"first": stack_pictures(starts)}
    shown |= {f"{k / (steps - 1):.2g}": images for k, images in enumerate(stacked)}
    shown["second"] = stack_pictures(ends)
    grids.save_grid(opened.check_output(out / "figure.png"), shown, options.scale)
    animated = [tile(step, len(rows)) for step in [*stacked, *stacked.flip(0)[1:-1]]]
    videos.write_film(
        opened.check_output(out / "interpolation.gif"), animated, options.scale, rate=8
    )
    print(f"{out}: figure.png, interpolation.gif; {edit}, {len(rows)} pairs, {steps} steps")


def grid(
    run: Run = None,
    *,
    target: list[str],
    source: list[str],
    out: Path,
    edit: Edit = "expression",
    options: Settings = _DEFAULT,
) -> None:
    """Edits every pair of target and source, in one figure.

    Example: python -m ntensor.faces.edit grid runs/faces --target generated:test:0
    generated:test:1 --source generated:test:2:happy generated:test:3:anger --out edited

    Args:
        run: folder of the run, or a file of weights; default: those included in the package.
        target: faces to edit; one row each.
        source: faces that provide what is transferred; one column each.
        out: folder for the picture.
        edit: what is transferred.
    """
    opened = OpenedRun(run, options, edit)
    targets, sources = opened.read(target), opened.read(source)
    check_writable(out)
    given, taken = opened.encode(targets), opened.encode(sources)
    blank = torch.ones(1, *targets[0].image.shape)
    cells = [blank, stack_pictures(sources)]
    for row, face in enumerate(targets):
        made = transfers.transfer(opened, edit, given[row], taken, transfers.Way())
        cells += [face.image[None], opened.to_colours(made["image"])]
    picture = tile(torch.cat(cells), len(sources) + 1).float().permute(2, 0, 1) / 255
    save_image(opened.check_output(out / "grid.png"), transfers.enlarge(picture, options.scale))
    print(f"{out}: grid.png; {edit} of {len(sources)} sources on {len(targets)} targets")


def video(
    run: Run = None,
    *,
    template: str,
    drive: str,
    out: Path,
    rate: float = 12.0,
    format: Literal["gif", "webp", "mp4"] = "gif",
    most: int = 600,
    detail: bool = False,
    warp: bool = False,
    options: Settings = _DEFAULT,
) -> None:
    """Animates a template face with the expressions of a video (supplementary E).

    Writes the frames, the video, and a side-by-side video: driving frame, template with its
    expression, template warped to the driving frame's landmarks (the paper's baseline), template.
    Landmarks come from --landmarks or a generated video, else from the network's own shape and
    pose.

    Example: python -m ntensor.faces.edit video runs/faces --template photo.jpg
    --drive generated:test:3 --out edited

    Args:
        run: folder of the run, or a file of weights; default: those included in the package.
        template: the face to animate.
        drive: a folder of frames, a video file (needs imageio and imageio-ffmpeg), or
            generated:SPLIT:PERSON, a generated video of every basic expression.
        out: folder for frames and videos.
        rate: frames per second.
        format: of the videos; mp4 needs imageio and imageio-ffmpeg.
        most: limit on the frames read.
        detail: as for expression.
        warp: as for expression.
    """
    way = transfers.Way(detail=detail, warp=warp)
    if format == "mp4":
        extras.check("video")
    opened = OpenedRun(run, options, "expression")
    face = opened.read([template])[0]
    frames = videos.read_driving_frames(opened.inputs, drive, most)
    for folder in (out, out / "frames"):
        check_writable(folder)
    fixed = opened.encode([face])
    images, points = [], []
    for first in range(0, len(frames), 32):
        part = frames[first : first + 32]
        driven = opened.encode(part)
        given = face.image[None]
        made = transfers.edit_pictures(opened, "expression", given, fixed, driven, way)
        images.append(opened.to_colours(made))
        points += find_landmarks(opened, part, driven)
    edited = torch.cat(images)
    own = find_landmarks(opened, [face], fixed)[0]
    warped = torch.stack([videos.warp_by_landmarks(face.image, own, p) for p in points])
    for number, image in enumerate(edited):
        save_image(opened.check_output(out / "frames" / f"{number:05d}.png"), image)
    still = face.image.expand_as(edited)
    columns = {"driving": stack_pictures(frames), "expression": edited, "warped": warped}
    columns["template"] = still
    beside = [tile(torch.stack(row), 4) for row in zip(*columns.values(), strict=True)]
    videos.write_film(
        opened.check_output(out / f"video.{format}"),
        [tile(i[None], 1) for i in edited],
        options.scale,
        rate,
    )
    videos.write_film(
        opened.check_output(out / f"side_by_side.{format}"), beside, options.scale, rate
    )
    chosen = torch.linspace(0, len(frames) - 1, min(8, len(frames))).round().long()
    strip = {title: images[chosen] for title, images in columns.items()}
    grids.save_grid(opened.check_output(out / "figure.png"), strip, options.scale)
    origin = "given" if frames[0].landmarks is not None else "from the network"
    print(
        f"{out}: {len(frames)} frames/*.png, video.{format}, side_by_side.{format}, figure.png; "
        f"landmarks for the warp: {origin}"
    )


COMMANDS: dict[str, Callable[..., None]] = {
    "expression": expression,
    "pose": pose,
    "light": light,
    "identity": identity,
    "interpolate": interpolate,
    "grid": grid,
    "video": video,
}


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    tyro.extras.subcommand_cli_from_dict(
        COMMANDS, prog="python -m ntensor.faces.edit", description=__doc__, args=arguments
    )
