"""A user's own photographs and labels, for evaluation."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

import torch
from tqdm import tqdm

from ntensor.faces.common.errors import FacesError, ImageError
from ntensor.faces.media import images
from ntensor.faces.media.inputs import Inputs
from ntensor.faces.media.placement import Box
from ntensor.faces.reading import read_picture, read_text
from ntensor.faces.training.runs import open_run

from .pictures import FACTORS, Pictures
from .settings import Evaluation

_UNKNOWN = ("", "-1", "?")
BOX = ("left", "top", "right", "bottom")


def read_labels(path: Path) -> dict[str, dict[str, str]]:
    """Reads labels from a CSV file.

    A column `file` is required; `identity`, `expression`, `pose` and `light` are optional. Empty
    entries, `?` and `-1` are unknown. The optional columns `left`, `top`, `right` and `bottom` hold
    the face's box in pixels; if all four are empty, there is no box.

    Args:
        path (Path)

    Returns:
        dict: by file name, the known labels by factor, and the edges of the box.

    Raises:
        FacesError: the file cannot be read, its columns are missing or unknown, or a line is
            invalid; the message names file and line.
    """
    labels: dict[str, dict[str, str]] = {}
    factors = list(FACTORS.values())
    try:
        with io.StringIO(read_text(path), newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip().lower() for name in next(reader, [])]
            unknown = [name for name in header if name not in ("file", *factors, *BOX)]
            boxed = sum(name in header for name in BOX) in (0, len(BOX))
            if "file" not in header or unknown or not boxed or len(set(header)) < len(header):
                raise FacesError(
                    f"{path}, line 1: expected the columns file and any of {', '.join(factors)}, "
                    f"or all of {', '.join(BOX)}, got {', '.join(header) or 'nothing'}"
                )
            for row in reader:
                if not any(cell.strip() for cell in row):
                    continue
                if len(row) != len(header):
                    raise FacesError(
                        f"{path}, line {reader.line_num}: expected {len(header)} entries as in the "
                        f"first line, got {len(row)}"
                    )
                entry = dict(zip(header, (cell.strip() for cell in row), strict=True))
                name = entry.pop("file")
                if not name or name in labels:
                    reason = f"names {name} again" if name else "names no file"
                    raise FacesError(f"{path}, line {reader.line_num}: {reason}")
                edges = {k: entry.pop(k) for k in BOX if entry.get(k)}
                if edges:
                    check_box(edges, f"{path}, line {reader.line_num}")
                known = {k: v for k, v in entry.items() if v not in _UNKNOWN}
                labels[name] = known | edges
    except csv.Error as error:
        raise FacesError(f"{path}: not a readable CSV file ({error})") from error
    if not labels:
        raise FacesError(f"{path}: the file labels no picture")
    return labels


def check_box(edges: Mapping[str, str], place: str) -> Box:
    """Converts a box to numbers, within the limits of `--box`.

    Raises:
        FacesError: the box is invalid; the message begins with `place`.
    """
    try:
        left, top, right, bottom = (float(edges[name]) for name in BOX)
        if all(abs(edge) <= images.FARTHEST for edge in (left, top, right, bottom)):
            return left, top, right, bottom
    except (KeyError, ValueError):
        pass
    got = ", ".join(edges.get(name) or "nothing" for name in BOX)
    raise FacesError(
        f"{place}: expected {', '.join(BOX)} as numbers up to {images.FARTHEST:g}, got {got}"
    )


def open_inputs(run: Path, settings: Evaluation) -> Inputs:
    """The inputs that read and crop pictures for a run, as `settings` say.

    Raises:
        FacesError: there is no such run.
    """
    trained = open_run(run, settings.checkpoint)
    looking = trained.model if settings.place == "auto" else None
    return Inputs(trained.configuration, settings.landmarks, settings.box, looking, trained.surface)


def read_photographs(
    folder: Path, labels: Path | None, size: int, inputs: Inputs | None = None
) -> tuple[Pictures, list[str]]:
    """Reads the pictures of a folder, cropped and resized.

    A box in the labels takes precedence over the crop of `inputs`. Grey pictures get three equal
    channels.

    Args:
        folder (Path)
        labels (Path or None): see `read_labels`; pictures that it does not name are unlabelled.
        size (int): pixels per side.
        inputs (Inputs or None): crops for networks of this size; None: by box, or else the middle
            square.

    Returns:
        Pictures and list of str: the pictures and their file names, in order.

    Raises:
        FacesError: the folder is missing or has no pictures, a picture is unreadable, or a label
            names a missing picture.
    """
    paths = images.list_images(folder)
    known = {} if labels is None else read_labels(labels)
    absent = sorted(set(known) - {path.name for path in paths})
    if absent:
        raise FacesError(f"{labels}: labels {absent[0]}, which is not in {folder}")
    numbers: dict[str, dict[str, int]] = {factor: {} for factor in FACTORS.values()}
    batches = []
    for path in tqdm(paths, "photographs", unit="picture"):
        own = known.get(path.name, {})
        box = check_box(own, f"{labels}, {path.name}") if BOX[0] in own else None
        picture = read_picture(path)
        if inputs is None:
            image, _ = images.crop(picture, size, box)
        else:
            image = inputs.crop(picture, path, box=box).image
        batch = {"image": image.unsqueeze(0)}
        for key, factor in FACTORS.items():
            label = own.get(factor)
            # Classes are numbered in the order in which they first appear.
            number = (
                -1 if label is None else numbers[factor].setdefault(label, len(numbers[factor]))
            )
            batch[key] = torch.tensor([number])
        batches.append(batch)
    if known and not any(numbers.values()) and not any(BOX[0] in own for own in known.values()):
        raise ImageError(f"{labels}: every label is unknown")
    return Pictures(f"photographs in {folder}", batches), [path.name for path in paths]
