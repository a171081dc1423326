"""A user's own photographs with labels, as pictures of an evaluation."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import torch
from tqdm import tqdm

from ntensor.faces.common.errors import FacesError, ImageError
from ntensor.faces.media import images
from ntensor.faces.reading import read_picture, read_text

from .pictures import FACTORS, Pictures

_UNKNOWN = ("", "-1", "?")


def read_labels(path: Path) -> dict[str, dict[str, str]]:
    """Labels of a CSV file: a column `file`, and any of `identity`, `expression`, `pose`, `light`.

    Empty entries, `?` and `-1` are unknown.

    Args:
        path (Path)

    Returns:
        dict: name of a picture to its known labels by factor.

    Raises:
        FacesError: it cannot be read, has no or other columns, or a line is wrong; the message
            names file and line.
    """
    labels: dict[str, dict[str, str]] = {}
    factors = list(FACTORS.values())
    try:
        with io.StringIO(read_text(path), newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip().lower() for name in next(reader, [])]
            unknown = [name for name in header if name not in ("file", *factors)]
            if "file" not in header or unknown or len(set(header)) < len(header):
                raise FacesError(
                    f"{path}, line 1: wanted the columns file and any of {', '.join(factors)}, "
                    f"got {', '.join(header) or 'nothing'}"
                )
            for row in reader:
                if not any(cell.strip() for cell in row):
                    continue
                if len(row) != len(header):
                    raise FacesError(
                        f"{path}, line {reader.line_num}: wanted {len(header)} entries as in the "
                        f"first line, got {len(row)}"
                    )
                entry = dict(zip(header, (cell.strip() for cell in row), strict=True))
                name = entry.pop("file")
                if not name or name in labels:
                    reason = f"names {name} again" if name else "names no file"
                    raise FacesError(f"{path}, line {reader.line_num}: {reason}")
                labels[name] = {k: v for k, v in entry.items() if v not in _UNKNOWN}
    except csv.Error as error:
        raise FacesError(f"{path}: not a readable CSV file ({error})") from error
    if not labels:
        raise FacesError(f"{path}: the file labels no picture")
    return labels


def read_photographs(folder: Path, labels: Path | None, size: int) -> tuple[Pictures, list[str]]:
    """The pictures of a folder, cut to a square about their middle and resized.

    Grey pictures get three equal channels.

    Args:
        folder (Path)
        labels (Path or None): see `read_labels`; a picture that it does not name has no labels.
        size (int): pixels a side.

    Returns:
        Pictures and the names of their files, in order.

    Raises:
        FacesError: no folder, no or an unreadable picture, a label of a picture that is not there.
    """
    paths = images.list_images(folder)
    known = {} if labels is None else read_labels(labels)
    absent = sorted(set(known) - {path.name for path in paths})
    if absent:
        raise FacesError(f"{labels}: labels {absent[0]}, which is not in {folder}")
    numbers: dict[str, dict[str, int]] = {factor: {} for factor in FACTORS.values()}
    batches = []
    for path in tqdm(paths, "photographs", unit="picture"):
        image, _ = images.crop(read_picture(path), size)
        batch = {"image": image.unsqueeze(0)}
        for key, factor in FACTORS.items():
            label = known.get(path.name, {}).get(factor)
            # Classes are numbered in the order in which they first appear.
            number = (
                -1 if label is None else numbers[factor].setdefault(label, len(numbers[factor]))
            )
            batch[key] = torch.tensor([number])
        batches.append(batch)
    if labels is not None and not any(numbers.values()):
        raise ImageError(f"{labels}: every label is unknown")
    return Pictures(f"photographs in {folder}", batches), [path.name for path in paths]
