"""Pictures of faces from files: reading, landmarks, alignment.

Pixel coordinates are `(x, y)`: x to the right, y down, `(0, 0)` the centre of the upper left pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ntensor.faces.baselines.landmark_fit import to_pixels
from ntensor.faces.common import extras
from ntensor.faces.common.errors import DamagedPicture, ImageError
from ntensor.faces.datasets import scenes
from ntensor.faces.morphable.face_model import FaceModel
from ntensor.faces.reading import FORMATS, is_picture, parsing, read_json, read_text
from ntensor.faces.rendering.renderer import Camera
from ntensor.faces.writing.files import replacing

# Files with these suffixes are treated as pictures.
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
COUNTS = (5, 68)
# For each of the five points, the landmarks of the 68 that it averages: left eye, right eye, tip of
# the nose, left and right corner of the mouth, as seen in the image.
FIVE = (range(36, 42), range(42, 48), (30,), (48,), (54,))
# Limit on the coordinates of landmarks and boxes, pixels.
FARTHEST = 1e6


def list_images(folder: Path) -> list[Path]:
    """Lists the pictures in a folder, by name.

    Files with a picture's content count, whatever their suffix. So do files with a picture's
    suffix: if they are damaged, reading them reports the error.

    Raises:
        ImageError: it is not a folder, or has no pictures.
    """
    if not folder.is_dir():
        raise ImageError(f"{folder}: expected a folder of pictures, found none")
    files = sorted(path for path in folder.iterdir() if path.is_file())
    paths = [path for path in files if path.suffix.lower() in SUFFIXES or is_picture(path)]
    if not paths:
        raise ImageError(f"{folder}: the folder has no pictures ({', '.join(FORMATS)})")
    return paths


def read_landmarks(path: Path, image: str | None = None) -> Tensor:
    """Reads the landmarks of one picture.

    A text file has a line `x y` or `x, y` for each of 5 or 68 points, in pixels of the original
    picture. A `.pts` file is the same, but counts pixels from 1. A `.json` file holds
    `{"picture.png": [[x, y], ...], ...}` for several pictures. A folder has one file per picture,
    with the picture's name and the suffix `.txt` or `.pts`.

    The 68 points are those of Multi-PIE. The five are left eye, right eye, tip of the nose, left
    and right corner of the mouth, as seen in the image.

    Args:
        path: the file or folder.
        image: the picture's file name, for `.json` files and folders.

    Returns:
        Tensor[5 or 68, 2]

    Raises:
        ImageError: the file cannot be read, lacks the picture, or does not have 5 or 68 points.
    """
    if path.is_dir():
        stem = Path(image or "").stem
        for suffix in (".txt", ".pts"):
            if (path / f"{stem}{suffix}").is_file():
                return read_landmarks(path / f"{stem}{suffix}")
        raise ImageError(f"{path}: has no landmarks {stem}.txt or {stem}.pts")
    if path.suffix == ".json":
        known = read_json(path, dict[str, list[tuple[float, float]]], DamagedPicture)
        if image not in known:
            raise ImageError(f"{path}: has no landmarks for {image}")
        numbers = known[image]
    else:
        text = read_text(path, kind=DamagedPicture)
        lines = [line.replace(",", " ").split() for line in text.splitlines()]
        pairs = [line for line in lines if len(line) == 2 and not line[0].endswith(":")]
        shift = 1 if path.suffix == ".pts" else 0
        with parsing(path, DamagedPicture):
            numbers = [(float(x) - shift, float(y) - shift) for x, y in pairs]
    if len(numbers) not in COUNTS:
        raise ImageError(f"{path}: expected 5 or 68 landmarks of two numbers, got {len(numbers)}")
    points = torch.tensor(numbers)
    if not bool((points.abs() <= FARTHEST).all()):
        raise ImageError(f"{path}: landmarks must be numbers from {-FARTHEST:g} to {FARTHEST:g}")
    return points


def reduce_to_five(landmarks: Tensor) -> Tensor:
    """Reduces 68 landmarks (..., 68, d) to five (..., 5, d)."""
    return torch.stack([landmarks[..., list(rows), :].mean(-2) for rows in FIVE], -2)


def project(points: Tensor, size: int, camera: Camera | None = None) -> Tensor:
    """Projects posed points with the renderer's camera.

    Args:
        points (Tensor[..., 3]): posed, millimetres, x right, y up.
        size (int): pixels per side.
        camera (Camera)

    Returns:
        Tensor[..., 2]: pixels.
    """
    return to_pixels(points[..., :2], size, camera) - 0.5


def find_reference_points(face: FaceModel, count: int) -> Tensor:
    """The mean face's 5 or 68 landmarks (count, 3), millimetres.

    Raises:
        ImageError: the face lacks some of them.
    """
    if bool((face.landmarks68 < 0).any()):
        raise ImageError(f"{face.source}: lacks the 68 landmarks for aligning pictures")
    points = face.mean[face.landmarks68]
    return points if count == 68 else reduce_to_five(points)


def fit_camera(landmarks: Tensor, reference: Tensor) -> tuple[Tensor, float, Tensor]:
    r"""Fits a scaled orthographic camera to the landmarks of a rigid face.

    Minimises :math:`\| p - (s \, R_{1:2} \, v + t) \|^2` in three steps: an affine camera in closed
    form, its nearest rotation, then `s` and `t` for that rotation.

    Args:
        landmarks (Tensor[k, 2]): pixels, y down.
        reference (Tensor[k, 3]): the face's points, y up.

    Returns:
        rotation (Tensor[3, 3]), scale in pixels per millimetre, and the pixel of the face's origin
        (Tensor[2]).

    Raises:
        ImageError: the landmarks coincide or are collinear.
    """
    p = landmarks.double() * landmarks.new_tensor([1.0, -1.0], dtype=torch.double)
    v = reference.double()
    centre, middle = p.mean(0), v.mean(0)
    spread = torch.linalg.svdvals(p - centre)
    if float(spread[1]) <= 1e-3 * max(float(spread[0]), 1e-12):
        raise ImageError("landmarks lie in one place or on one line: they cannot align a face")
    affine = torch.linalg.lstsq(v - middle, p - centre).solution.T  # (2, 3)
    u, _, w = torch.linalg.svd(affine, full_matrices=False)
    rows = u @ w
    rotation = torch.cat([rows, torch.linalg.cross(rows[0], rows[1])[None]])
    seen = (v - middle) @ rows.T
    scale = float((seen * (p - centre)).sum() / seen.square().sum())
    origin = centre - scale * (rows @ middle)
    return rotation.float(), scale, (origin * origin.new_tensor([1.0, -1.0])).float()


def align(
    image: Tensor, landmarks: Tensor, face: FaceModel, size: int, camera: Camera | None = None
) -> tuple[Tensor, Tensor]:
    """Aligns a picture like the generated faces: rotates, scales, shifts and crops it.

    A camera is fitted to the landmarks with the mean face. The face's origin, which is its centre
    of rotation, and its scale are then matched to the renderer's camera. Roll is removed; yaw and
    pitch are kept.

    Args:
        image (Tensor[3, h, w]): 0 to 1.
        landmarks (Tensor[5 or 68, 2]): pixels.
        face (FaceModel): its mean provides the 3D points.
        size (int): pixels per side of the result.
        camera (Camera): of the generated faces.

    Returns:
        the picture (Tensor[3, size, size]), with its border repeated outside the original, and the
        landmarks in it (Tensor[k, 2]).

    Raises:
        ImageError: the landmarks cannot be those of a face.
    """
    rotation, scale, origin = fit_camera(landmarks, find_reference_points(face, len(landmarks)))
    roll = torch.deg2rad(scenes.rotation_to_angles(rotation[None])[0, 2])
    target = project(torch.zeros(3), size, camera)
    factor = size / (2 * (camera or Camera()).half_width) / scale
    # From pixels of the input to pixels of the output; y points down.
    turn = torch.stack([roll.cos(), -roll.sin(), roll.sin(), roll.cos()]).view(2, 2)
    forward = factor * turn
    moved = (landmarks - origin) @ forward.T + target
    backward = torch.linalg.inv(forward)
    return _resample(image, backward, origin - backward @ target, size), moved


def crop(
    image: Tensor, size: int, box: Sequence[float] | None = None, landmarks: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Crops the square around a box, or the largest middle square, and resizes it to `size`.

    Args:
        image (Tensor[3, h, w])
        size (int): pixels per side of the result.
        box (sequence of 4 numbers): left, top, right, bottom in pixels; extended to a square of its
            longer side with the same centre.
        landmarks (Tensor[k, 2]): transformed with the picture.

    Returns:
        the picture (Tensor[3, size, size]) and the landmarks in it. Without a box, a picture that
        already has this size is returned unchanged.

    Raises:
        ImageError: the box is empty or outside the picture.
    """
    height, width = image.shape[1:]
    if box is None:
        side = float(min(height, width))
        left, top = (width - side) / 2, (height - side) / 2
    else:
        x0, y0, x1, y1 = box
        if not (x0 < x1 and y0 < y1):
            raise ImageError(
                f"box must be left, top, right, bottom with a positive area, got {box}"
            )
        if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
            raise ImageError(f"box {box} lies outside the picture of {width} x {height} pixels")
        side = max(x1 - x0, y1 - y0)
        left, top = (x0 + x1 - side) / 2, (y0 + y1 - side) / 2
    if box is None and height == width == size:
        return image, landmarks
    ratio = side / size
    corner = torch.tensor([left, top])
    offset = corner + (0.5 * ratio - 0.5)
    moved = None if landmarks is None else (landmarks - offset) / ratio
    return _resample(image, ratio * torch.eye(2), offset, size), moved


def _resample(image: Tensor, matrix: Tensor, offset: Tensor, size: int) -> Tensor:
    """Resamples so that pixel `p` shows the input at `matrix @ p + offset`, with anti-aliasing."""
    height, width = image.shape[1:]
    step = float(torch.linalg.det(matrix).abs().sqrt())
    smaller = (max(1, round(height / step)), max(1, round(width / step)))
    source = image[None]
    if step > 1:
        source = F.interpolate(source, smaller, mode="bilinear", antialias=True)
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    pixels = torch.stack([columns, rows], -1).float() @ matrix.float().T + offset.float()
    # grid_sample's coordinates run from -1 to 1 between edges, so the reduction does not matter.
    grid = (2 * pixels + 1) / torch.tensor([width, height]) - 1
    resampled = F.grid_sample(source, grid[None], padding_mode="border", align_corners=False)
    return resampled[0].clamp(0, 1)


def save_image(path: Path, image: Tensor) -> None:
    """Writes colours (3, h, w), 0 to 1, in the format of the path's suffix."""
    pixels = (image.detach().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)
    with replacing(path) as unfinished:
        extras.load("PIL.Image").fromarray(pixels.cpu().numpy()).save(unfinished)
