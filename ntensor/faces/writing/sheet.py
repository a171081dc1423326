"""Contact sheets: many small pictures in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ntensor.faces.common import extras
from ntensor.faces.common.errors import ConfigurationError

from .files import replacing

SHOWN = ("image", "mask", "albedo", "shading", "normal", "frontal_image", "frontal_normal")


def to_colours(name: str, maps: Tensor) -> Tensor:
    """A map as colours (n, 3, S, S) in 0..1: normals as (n + 1)/2, shading at half its value."""
    if name.endswith("normal"):
        maps = (maps + 1) / 2 * (maps.abs().amax(1, keepdim=True) > 0)
    if name == "shading":
        maps = maps / 2
    return maps.clamp(0, 1).expand(-1, 3, -1, -1)


def tile(pictures: Tensor, columns: int) -> Tensor:
    """Puts pictures side by side.

    Args:
        pictures (Tensor[n, 3, S, S]): 0..1.
        columns (int)

    Returns:
        Tensor[rows S, columns S, 3], uint8: row by row; empty places are black.

    Example:
        >>> import torch
        >>> from ntensor.faces.writing.sheet import tile
        >>> tile(torch.rand(5, 3, 8, 8), 3).shape
        torch.Size([16, 24, 3])
    """
    n, _, height, width = pictures.shape
    rows = -(-n // columns)
    padded = torch.cat([pictures, pictures.new_zeros(rows * columns - n, 3, height, width)])
    grid = padded.view(rows, columns, 3, height, width).permute(0, 3, 1, 4, 2)
    return (grid.reshape(rows * height, columns * width, 3) * 255).round().to(torch.uint8)


def stack_maps(batch: Mapping[str, Tensor], names: Sequence[str] = SHOWN) -> Tensor:
    """Every map of every sample, sample by sample (n len(names), 3, S, S)."""
    shown = ["input", *names] if "input" in batch else names
    stacked = torch.stack([to_colours(name, batch[name]) for name in shown], dim=1)
    return stacked.flatten(0, 1)


def check_ending(path: Path) -> None:
    """Refuses a file whose suffix is not that of a format that Pillow writes.

    Raises:
        ConfigurationError: names the suffix.
    """
    image = extras.load("PIL.Image")
    if image.registered_extensions().get(path.suffix.lower()) not in image.SAVE:
        raise ConfigurationError(
            f"{path}: expected the suffix of a picture, such as .png, got {path.suffix or 'none'}"
        )


def save(path: Path, picture: Tensor) -> None:
    """Writes a picture (height, width, 3), uint8, in the format of the path's suffix."""
    image = extras.load("PIL.Image")
    with replacing(path) as unfinished:
        image.fromarray(picture.cpu().numpy()).save(unfinished)
