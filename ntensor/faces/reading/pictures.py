"""Reads pictures and videos, up to a number of pixels."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from ntensor.faces.common import extras
from ntensor.faces.common.errors import DamagedPicture, ImageError

from .files import open_regular, parsing

# Limit for one picture or frame; the largest come from phones. Reading takes 25 bytes per pixel.
MOST_PIXELS = 64_000_000
# Limit for one file.
MOST_PICTURE_BYTES = 500_000_000
# Formats that Pillow decodes itself; some of its other readers run programs.
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
_SMALLEST = 8
# Offsets and first bytes of the video formats that cannot refer to other files.
_FILMS = (
    (4, b"ftyp"),
    (4, b"moov"),
    (4, b"mdat"),
    (4, b"wide"),
    (0, b"\x1a\x45\xdf\xa3"),
    (8, b"AVI "),
)


def read_picture(path: str | Path, most_pixels: int = MOST_PIXELS) -> Tensor:
    """Reads the first frame of a picture.

    Grey pictures get three equal channels, palettes are resolved, 16-bit values keep their full
    range, and transparent areas become white. The orientation recorded by the camera is applied.

    Args:
        path: of a file of one of the `FORMATS`.
        most_pixels: limit on its pixels.

    Returns:
        Tensor[3, height, width]: red, green, blue, 0 to 1.

    Raises:
        ImageError: it is missing, not a picture, damaged, smaller than 8 pixels, larger than
            `most_pixels`, or of a kind whose range is unknown (floating point, 32 bits).
    """
    return next(_read_frames(Path(path), 1, most_pixels))


def compress_jpeg(picture: Tensor, quality: int) -> Tensor:
    """Compresses a picture as JPEG and decodes it again.

    Args:
        picture (Tensor[3, height, width]): 0 to 1.
        quality (int): 1 to 100.

    Returns:
        Tensor[3, height, width]
    """
    image = extras.load("PIL.Image")
    pixels = (picture.permute(1, 2, 0) * 255).round().to(torch.uint8).cpu().numpy()
    stream = io.BytesIO()
    image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    read = np.array(image.open(stream))
    return torch.from_numpy(read).permute(2, 0, 1).to(picture) / 255


def is_picture(path: Path) -> bool:
    """Whether a file begins like one of the `FORMATS`, whatever its suffix; the rest may be
    damaged.

    Raises:
        DamagedPicture: it cannot be opened.
    """
    with open_regular(path, DamagedPicture) as file, parsing(path, DamagedPicture):
        film = _open_film(file)
        if film is not None:
            film.close()
        return film is not None


def read_frames(path: str | Path, most: int, most_pixels: int = MOST_PIXELS) -> Iterator[Tensor]:
    """Reads the first `most` frames (3, h, w) of an animation or a video, one at a time.

    Raises:
        ImageError: as `read_picture`.
    """
    path = Path(path)
    with open_regular(path, DamagedPicture) as file:
        start = file.read(16)
    if any(start[at:].startswith(mark) for at, mark in _FILMS):
        return _read_film(path, most, most_pixels)
    return _read_frames(path, most, most_pixels)


def _read_frames(path: Path, most: int, most_pixels: int) -> Iterator[Tensor]:
    with open_regular(path, DamagedPicture) as file, parsing(path, DamagedPicture):
        if file.seek(0, 2) > MOST_PICTURE_BYTES:
            raise DamagedPicture(
                path, None, f"expected at most {MOST_PICTURE_BYTES} bytes, got more"
            )
        file.seek(0)
        film = _open_film(file)
        if film is None:
            wanted = ", ".join(FORMATS)
            raise DamagedPicture(path, None, f"not a picture of a supported format ({wanted})")
        with film:
            frames = min(most, getattr(film, "n_frames", 1)) if most > 1 else 1
            for number in range(frames):
                if number:
                    film.seek(number)
                _check_size(path, film.size, most_pixels)
                film.load()
                yield _to_colours(film if frames == 1 else film.convert("RGB"), str(path))


def _open_film(file: BinaryIO) -> Any | None:
    """Opens a picture with Pillow, without loading it; None if its format is not supported."""
    pillow = extras.load("PIL.Image")
    pillow.init()
    try:
        return pillow.open(file, formats=[name for name in FORMATS if name in pillow.OPEN])
    except pillow.UnidentifiedImageError:
        return None


def _check_size(path: Path, size: tuple[int, int], most_pixels: int) -> None:
    width, height = size
    if width * height > most_pixels:
        raise DamagedPicture(
            path,
            None,
            f"expected at most {most_pixels / 1e6:.3g} million pixels, got {width} x {height}",
        )


def _to_colours(image: Any, name: str) -> Tensor:
    """Colours (3, h, w) of a picture that Pillow has loaded; `name` is used in messages."""
    image = extras.load("PIL.ImageOps").exif_transpose(image)
    if min(image.size) < _SMALLEST:
        raise ImageError(
            f"{name}: expected at least {_SMALLEST} x {_SMALLEST} pixels, got {image.size}"
        )
    if image.mode == "I" and image.format in ("PNG", "PPM"):  # 16-bit grey of older Pillow
        image = image.convert("I;16")
    if image.mode.startswith("I;16"):
        grey = torch.from_numpy(np.asarray(image).astype(np.float32) / 65535)
        return grey.expand(3, -1, -1).contiguous()
    if image.mode in ("I", "F"):
        raise ImageError(
            f"{name}: expected colours or grey of 8 or 16 bits, got mode {image.mode!r}, whose "
            "range is unknown"
        )
    if image.mode == "1":
        image = image.convert("L")
    if "transparency" in image.info or image.mode in ("LA", "PA", "RGBA", "La", "RGBa"):
        image = image.convert("RGBA")
        white = extras.load("PIL.Image").new("RGBA", image.size, (255, 255, 255, 255))
        white.alpha_composite(image)
        image = white
    colours = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    return colours.contiguous().float().div_(255)


def _read_film(path: Path, most: int, most_pixels: int) -> Iterator[Tensor]:
    module = load_imageio()
    with parsing(path, DamagedPicture), module.imopen(path, "r", plugin="FFMPEG") as film:
        _check_size(path, film.metadata()["size"], most_pixels)
        for number, frame in enumerate(film.iter()):
            if number == most:
                return
            yield torch.from_numpy(np.array(frame)).permute(2, 0, 1).contiguous().float().div_(255)


def load_imageio() -> ModuleType:
    """Loads the package that reads and writes videos.

    Raises:
        MissingPackage: it is not installed; the message says how to install it.
    """
    extras.load("imageio_ffmpeg", "video")
    return extras.load("imageio.v3", "video")
