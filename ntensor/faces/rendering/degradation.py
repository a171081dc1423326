"""What cameras, files and crops do to a picture."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ntensor.faces.reading import compress_jpeg


@dataclasses.dataclass(frozen=True)
class Degradation:
    """The parameters of `degrade`.

    Attributes:
        cast (tuple of float): factors for red, green and blue.
        exposure (float): factor for all channels.
        gamma (float): exponent.
        saturation (float): 1: unchanged, 0: grey.
        blur (float): resolution of the picture relative to its size, 0..1.
        noise (float): standard deviation.
        seed (int): of the noise.
        quality (int): JPEG quality, 1..100; 0: no JPEG compression.
        margins (tuple of int): pixels missing at the left, right, top and bottom; filled by
            repeating the edge.
        black (bool): fills the margins with black instead.
    """

    cast: tuple[float, float, float] = (1.0, 1.0, 1.0)
    exposure: float = 1.0
    gamma: float = 1.0
    saturation: float = 1.0
    blur: float = 1.0
    noise: float = 0.0
    seed: int = 0
    quality: int = 0
    margins: tuple[int, int, int, int] = (0, 0, 0, 0)
    black: bool = False


def degrade(image: Tensor, how: Degradation) -> Tensor:
    """Degrades a picture (1, 3, S, S), 0..1, as a camera and an image file would."""
    size = image.shape[-1]
    x = image * image.new_tensor(how.cast).view(1, 3, 1, 1) * how.exposure
    x = x.clamp(0, 1) ** how.gamma
    if how.saturation < 1:
        grey = (x * x.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
        x = grey + how.saturation * (x - grey)
    if any(how.margins):
        x = _lay_margins(x, how)
    if how.blur < 1:
        small = max(8, round(how.blur * size))
        x = F.interpolate(x, (small, small), mode="bilinear", antialias=True)
        x = F.interpolate(x, (size, size), mode="bilinear", align_corners=False)
    if how.noise:
        drawn = np.random.default_rng(how.seed).standard_normal(x.shape, np.float32)
        if how.saturation == 0:
            drawn[:] = drawn[:, :1]
        x = x + how.noise * torch.from_numpy(drawn).to(x)
    x = x.clamp(0, 1)
    return compress_jpeg(x[0], how.quality)[None] if how.quality else x


def _lay_margins(x: Tensor, how: Degradation) -> Tensor:
    left, right, top, bottom = how.margins
    size = x.shape[-1]
    inner = x[..., top : size - bottom, left : size - right]
    if how.black:
        return F.pad(inner, how.margins)
    return F.pad(inner, how.margins, mode="replicate")
