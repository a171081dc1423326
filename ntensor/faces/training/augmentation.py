"""Augmentation of the inputs, so that a network does not memorise a data set.

Targets do not change: these variations of light and colour model the camera, not the scene that the
network should recover.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

# Standard deviations of the logarithms of exposure, contrast, gamma and each colour.
_EXPOSURE, _CONTRAST, _GAMMA, _COLOUR = 0.2, 0.2, 0.2, 0.08
_GREY, _COVERED, _BLURRED = 0.25, 0.5, 0.3  # shares of pictures
_NOISE = 0.04  # largest standard deviation
_SIDES = (0.1, 0.45)  # range of the covering rectangle's sides, relative to the picture's
# Standard deviations of the logarithm of the scale, and of the shift in half picture sides.
_ZOOM, _SHIFT = 0.05, 0.04


class Augmentation(NamedTuple):
    """The parameters of the augmentation of `n` pictures.

    Attributes:
        tone (Tensor[n, 3]): logarithms of exposure, contrast, gamma.
        colour (Tensor[n, 3]): logarithms of the colours' factors.
        chosen (Tensor[n, 3]): bool: grey, covered, blurred.
        noise (Tensor[n, 3, S, S]): additive noise.
        cover (Tensor[n, 7]): centre and half sides of the rectangle, relative to the picture's
            side; colour.
        move (Tensor[n, 3]): logarithm of the scale; shift right and down.
    """

    tone: Tensor
    colour: Tensor
    chosen: Tensor
    noise: Tensor
    cover: Tensor
    move: Tensor

    def choose(self, rows: slice) -> Augmentation:
        """The parameters of some pictures."""
        return Augmentation(*(value[rows] for value in self))

    def apply(self, image: Tensor, moves: bool) -> Tensor:
        """Augments pictures (Tensor[n, 3, S, S], 0..1).

        Args:
            image: the pictures.
            moves (bool): also change scale and position; only valid if no target is a map.
        """
        given = Augmentation(*(value.to(image.device) for value in self))
        x = given.shift(image) if moves else image
        grey, covered, blurred = given.chosen[:, :, None, None, None].unbind(1)
        x = torch.where(blurred, F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1), x)
        exposure, contrast, gamma = given.tone.exp()[:, :, None, None, None].unbind(1)
        x = x.clamp(1e-4, 1) ** gamma * exposure * given.colour.exp()[:, :, None, None]
        middle = x.mean((1, 2, 3), keepdim=True)
        x = middle + contrast * (x - middle)
        x = torch.where(grey, x.mean(1, keepdim=True), x)
        x = torch.where(covered & given.find_cover(x.shape[-1]), given.cover[:, 4:, None, None], x)
        return (x + given.noise).clamp(0, 1)

    def shift(self, image: Tensor) -> Tensor:
        """Scales and shifts the pictures; edges are repeated."""
        size = self.move[:, :1].exp()
        frame = torch.cat([1 / size, torch.zeros_like(size), self.move[:, 1:2]], 1)
        below = torch.cat([torch.zeros_like(size), 1 / size, self.move[:, 2:]], 1)
        grid = F.affine_grid(torch.stack([frame, below], 1), list(image.shape), False)
        return F.grid_sample(image, grid, padding_mode="border", align_corners=False)

    def find_cover(self, size: int) -> Tensor:
        """The covering rectangles as masks (Tensor[n, 1, size, size], bool)."""
        place = (torch.arange(size, device=self.cover.device) + 0.5) / size
        across, down = (
            (place - self.cover[:, k, None]).abs() < self.cover[:, k + 2, None] for k in range(2)
        )
        return (down[:, :, None] & across[:, None])[:, None]


def draw_augmentation(update: int, count: int, size: int, seed: int) -> Augmentation:
    """Draws the augmentation of one update: `count` pictures of `size` pixels per side."""
    generator = torch.Generator().manual_seed((seed << 32) + update + (1 << 62))

    def normal(*spread: float) -> Tensor:
        drawn = torch.randn(count, len(spread), generator=generator)
        return drawn * torch.tensor(spread)

    tone, colour = normal(_EXPOSURE, _CONTRAST, _GAMMA), normal(_COLOUR, _COLOUR, _COLOUR)
    chances = torch.tensor([_GREY, _COVERED, _BLURRED])
    chosen = torch.rand(count, 3, generator=generator) < chances
    loud = _NOISE * torch.rand(count, 1, 1, 1, generator=generator)
    noise = loud * torch.randn(count, 3, size, size, generator=generator)
    cover = torch.rand(count, 7, generator=generator)
    cover[:, 2:4] = (_SIDES[0] + (_SIDES[1] - _SIDES[0]) * cover[:, 2:4]) / 2
    return Augmentation(tone, colour, chosen, noise, cover, normal(_ZOOM, _SHIFT, _SHIFT))
