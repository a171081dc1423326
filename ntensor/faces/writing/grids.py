"""Pictures of a network's outputs: a grid with one row per face."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .files import replacing

MARGIN = 2
HEADER = 14

# Title, key in the batch, key in the output, whether values are -1 to 1.
COLUMNS = (
    ("input", "input", None, False),
    ("target", "image", None, False),
    ("reconstr.", None, "image", False),
    ("normals", None, "normal", True),
    ("true norm.", "normal", None, True),
    ("albedo", None, "albedo", False),
    ("true alb.", "albedo", None, False),
    ("shading", None, "shading", False),
    ("mask", None, "mask", False),
    ("backgr.", None, "background", False),
    ("frontal", None, "frontal_image", False),
    ("true fr.", "frontal_image", None, False),
    ("fr. norm.", None, "frontal_normal", True),
    ("texture", None, "texture", False),
    ("true tex.", "texture", None, False),
)


def make_columns(batch: Mapping[str, Tensor], output: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The maps of batch and output, by title, as colours 0 to 1 (n, 3, S, S).

    Targets of parts that the network lacks are left out; normals are shown as `(n + 1) / 2`. If the
    batch has no `input`, the network sees its `image`.
    """
    shown: dict[str, Tensor] = {}
    if "input" not in batch:
        batch = {"input": batch["image"], **{k: v for k, v in batch.items() if k != "image"}}
    for title, given, made, signed in COLUMNS:
        partner = {"true norm.": "normal", "true alb.": "albedo", "true fr.": "frontal_image"}
        partner |= {"true tex.": "texture"}
        if partner.get(title, "image") not in output:
            continue
        source, key = (batch, given) if given is not None else (output, made)
        if key is None or key not in source:
            continue
        value = source[key].detach().float().cpu()
        value = (value + 1) / 2 if signed else value
        shown[title] = value.clamp(0, 1).expand(-1, 3, -1, -1)
    return shown


def draw_grid(shown: Mapping[str, Tensor], scale: int = 1) -> Tensor:
    """Draws several columns of maps as one picture.

    Args:
        shown (mapping): as returned by `make_columns`; at least one column, all with the same `n`.
        scale (int): enlargement.

    Returns:
        Tensor[height, width, 3]: uint8, with a white strip for the titles on top.
    """
    maps = torch.stack(list(shown.values()), dim=1)  # (n, columns, 3, S, S)
    maps = maps.repeat_interleave(scale, 3).repeat_interleave(scale, 4)
    n, count, _, height, width = maps.shape
    size = (HEADER + n * (height + MARGIN), count * (width + MARGIN), 3)
    picture = torch.full(size, 255, dtype=torch.uint8)
    for row in range(n):
        for column in range(count):
            top, left = HEADER + row * (height + MARGIN), column * (width + MARGIN)
            colours = (maps[row, column] * 255).round().to(torch.uint8).permute(1, 2, 0)
            picture[top : top + height, left : left + width] = colours
    return picture


def save_grid(path: Path, shown: Mapping[str, Tensor], scale: int = 1) -> None:
    """Writes the picture of `draw_grid` with its titles as PNG."""
    from PIL import Image, ImageDraw

    picture = Image.fromarray(draw_grid(shown, scale).numpy())
    width = next(iter(shown.values())).shape[-1] * scale + MARGIN
    draw = ImageDraw.Draw(picture)
    for column, title in enumerate(shown):
        text, font = fit_title(title, width - MARGIN)
        draw.text((column * width + 1, 1), text, fill=(0, 0, 0), font=font)
    with replacing(path) as unfinished:
        picture.save(unfinished)


def save_figure(path: Path, figure: Any, dots: int) -> None:
    """Writes a matplotlib figure with `dots` per inch."""
    with replacing(path) as unfinished:
        figure.savefig(unfinished, dpi=dots)


def fit_title(title: str, width: int) -> tuple[str, Any]:
    """The title, and the largest font in which it fits into `width` pixels; truncated if none is
    small enough."""
    from PIL import ImageFont

    for size in (10, 9, 8, 7):
        font = ImageFont.load_default(size)
        if font.getlength(title) <= width:
            return title, font
    while len(title) > 1 and font.getlength(title) > width:
        title = title[:-1]
    return title, font
