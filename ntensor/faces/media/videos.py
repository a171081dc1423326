"""Videos of faces: reads frames, writes animations, and warps a template as a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ntensor.faces.common import extras
from ntensor.faces.common.errors import ImageError
from ntensor.faces.datasets.rendered import SPLITS
from ntensor.faces.reading import load_imageio, read_frames
from ntensor.faces.writing.files import replacing

from . import images
from .inputs import Face, Inputs

# Frames from one basic expression to the next in a generated video.
_STEPS = 6
# The warp ignores landmarks closer than this to an earlier one, in pixels.
_NEAREST = 0.75


def read_driving_frames(inputs: Inputs, drive: str, most: int) -> list[Face]:
    """Reads and crops the frames of a video.

    Args:
        inputs (Inputs)
        drive (str): a folder of pictures, a video file, or `generated:SPLIT:PERSON`.
        most (int): limit on the frames read.

    Raises:
        FacesError: there are no frames.
    """
    if most < 1:
        raise ImageError(f"most must be at least 1 frame, got {most}")
    if drive.startswith("generated:"):
        return generate_film(inputs, drive)[:most]
    path = Path(drive)
    if path.is_file():
        frames = [inputs.crop(f, path, k) for k, f in enumerate(read_frames(path, most))]
        if not frames:
            raise ImageError(f"{path}: the video has no frames")
        return frames
    return [inputs.read_picture(name) for name in images.list_images(path)[:most]]


def generate_film(inputs: Inputs, word: str) -> list[Face]:
    """Generates a person who shows the basic expressions in turn, with a slight change of yaw."""
    parts = word.split(":")[1:]
    if len(parts) != 2 or parts[0] not in SPLITS or not parts[1].isdecimal():
        raise ImageError(f"{word}: a generated video must be generated:SPLIT:PERSON")
    persons = SPLITS[parts[0]]
    if int(parts[1]) >= len(persons):
        raise ImageError(f"{word}: PERSON must be 0 to {len(persons) - 1}")
    basic = inputs.face_model.basic_weights
    stops = torch.cat([basic, basic[:1]])
    faces: list[Face] = []
    for stop in range(len(stops) - 1):
        for step in range(_STEPS):
            t = (1 - np.cos(np.pi * step / _STEPS)) / 2
            weights = torch.lerp(stops[stop], stops[stop + 1], float(t))
            yaw = 12 * np.sin(2 * np.pi * len(faces) / (_STEPS * (len(stops) - 1)))
            scene = inputs.make_scene(persons[int(parts[1])], weights, (float(yaw), 0.0, 0.0), None)
            faces.append(inputs.render(word, scene))
    return faces


def warp_by_landmarks(image: Tensor, landmarks: Tensor, target: Tensor) -> Tensor:
    """Warps a picture by a thin-plate spline that moves its landmarks to others.

    This is the paper's baseline of supplementary E. The corners and the midpoints of the borders
    are fixed.

    Args:
        image (Tensor[3, S, S])
        landmarks (Tensor[k, 2]): pixels of `image`.
        target (Tensor[k, 2]): their new positions.

    Returns:
        Tensor[3, S, S]
    """
    spline = extras.load("scipy.interpolate").RBFInterpolator
    size = image.shape[-1]
    steps = np.linspace(0, size - 1, 3)
    border = [(x, y) for x in steps for y in steps if x in steps[::2] or y in steps[::2]]
    keep = _choose_apart(target)
    ends = np.concatenate([target[keep].double().numpy(), border])
    starts = np.concatenate([landmarks[keep].double().numpy(), border])
    y, x = np.mgrid[:size, :size]
    places = spline(ends, starts, kernel="thin_plate_spline", smoothing=1e-3)(
        np.stack([x.ravel(), y.ravel()], 1)
    )
    grid = torch.from_numpy((2 * places + 1) / size - 1).float().view(1, size, size, 2)
    bent = torch.nn.functional.grid_sample(
        image[None], grid, padding_mode="border", align_corners=False
    )
    return bent[0]


def _choose_apart(points: Tensor) -> list[int]:
    """Indices of the points that are not close to an earlier chosen one."""
    kept: list[int] = []
    for row, point in enumerate(points):
        if all(float((point - points[other]).norm()) >= _NEAREST for other in kept):
            kept.append(row)
    return kept


def write_film(path: Path, frames: Sequence[Tensor], scale: int, rate: float) -> None:
    """Writes a looping animation.

    Args:
        path: with the suffix .gif or .webp, written by Pillow, or .mp4, written by imageio and
            imageio-ffmpeg.
        frames (sequence of Tensor[h, w, 3], uint8)
        scale (int): enlargement.
        rate (float): frames per second.

    Raises:
        ImageError: there are no frames, or the rate is not positive.
        MissingPackage: imageio is not installed.
    """
    if not frames or rate <= 0:
        raise ImageError(
            f"{path}: expected frames and a rate above 0, got {len(frames)} and {rate}"
        )
    large = [frame.repeat_interleave(scale, 0).repeat_interleave(scale, 1) for frame in frames]
    arrays = [frame.cpu().numpy() for frame in large]
    with replacing(path) as unfinished:
        if path.suffix == ".mp4":
            load_imageio().imwrite(unfinished, np.stack(arrays), fps=rate, macro_block_size=2)
            return
        module = extras.load("PIL.Image")
        first, *rest = [module.fromarray(array) for array in arrays]
        pause = round(1000 / rate)
        first.save(unfinished, save_all=True, append_images=rest, duration=pause, loop=0)
