"""The decoders of supplementary A: from a code to a map, by upsampling or by unpooling."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import initialisation
from .encoder import threshold
from .kept import NOTHING, Kept

# Initial gain of a decoder's last convolution: a map starts close to its bias.
LAST = 0.1
# Initial gain of a skip connection: at first, a decoder learns mostly from its code.
FIRST_SKIP = 0.3


class Decoder(nn.Module):
    """Maps a code to a map of `S x S`: the mirrored encoder, with upsampling instead of pooling.

    A linear layer, then three stages of nearest-neighbour upsampling by two and a convolution, then
    a 3 x 3 convolution to the map. With `subpixel`, the third upsampling is left out and the last
    convolution outputs four pixels per position, which takes a third fewer operations.

    Args:
        code_size (int): extent of the code.
        out_channels (int): of the map.
        image_size (int): `S`, a multiple of 8.
        channels, kernel_size: of the mirrored encoder.
        hidden, output (callable): activations after the inner convolutions and of the map.
        start (float): initial bias of the last convolution.
        subpixel (bool): see above.
        skips (bool): add skip connections to each stage: a 1 x 1 convolution of the encoder's map
            of the same size, and a 3 x 3 convolution of the picture, whose 2 x 2 blocks become
            channels under `subpixel`. `forward` then needs the `maps` of the encoder.

    Example:
        >>> import torch
        >>> from ntensor.faces.networks import Decoder
        >>> Decoder(128, 3)(torch.ones(2, 128)).shape
        torch.Size([2, 3, 64, 64])
    """

    def __init__(
        self,
        code_size: int,
        out_channels: int,
        image_size: int = 64,
        channels: tuple[int, int, int] = (96, 48, 24),
        kernel_size: int = 5,
        hidden: Callable[[Tensor], Tensor] = threshold,
        output: Callable[[Tensor], Tensor] = threshold,
        start: float = 0.0,
        subpixel: bool = False,
        skips: bool = False,
    ) -> None:
        super().__init__()
        first, second, third = channels
        self.subpixel = subpixel
        self.hidden = hidden
        self.output = output
        self.features = (third, image_size // 8, image_size // 8)
        self.linear = nn.Linear(code_size, third * (image_size // 8) ** 2)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, kernel_size, padding=kernel_size // 2)
            for a, b in ((third, second), (second, first), (first, first))
        )
        self.last = nn.Conv2d(first, 4 * out_channels if subpixel else out_channels, 3, padding=1)
        rectified = hidden is threshold
        gain = initialisation.RECTIFIER if rectified else initialisation.TANH
        for layer in (self.linear, *self.convolutions):
            initialisation.keep_variance(layer, gain)
        initialisation.keep_variance(self.last, LAST)
        nn.init.constant_(self.last.bias, start)  # type: ignore[arg-type]
        self.skips = nn.ModuleList()
        if skips:
            self.skips.append(nn.Conv2d(12 if subpixel else 3, first, 3, padding=1, bias=False))
            self.skips.extend(nn.Conv2d(size, size, 1, bias=False) for size in channels)
            for layer in self.skips:
                initialisation.keep_variance(layer, FIRST_SKIP)

    def forward(self, code: Tensor, kept: Kept = NOTHING) -> Tensor:
        """Decodes a code to its map (Tensor[n, out_channels, S, S]).

        Args:
            code (Tensor[n, code_size])
            kept (Kept): from the encoder, if this decoder needs it.
        """
        x = self.linear(code).unflatten(1, self.features)
        x = self.hidden(self.add_skip(x, 3, kept))
        for stage, convolution in enumerate(self.convolutions):
            if stage < 2 or not self.subpixel:
                x = self.enlarge(x, stage, kept)
            x = self.hidden(self.add_skip(convolution(x), 2 - stage, kept))
        x = self.last(x)
        return self.output(F.pixel_shuffle(x, 2) if self.subpixel else x)

    def enlarge(self, x: Tensor, stage: int, kept: Kept) -> Tensor:
        """Doubles height and width."""
        return F.interpolate(x, scale_factor=2)

    def add_skip(self, x: Tensor, number: int, kept: Kept) -> Tensor:
        """Adds the skip connection from map `number`, in the rows that it fits."""
        if not self.skips:
            return x
        if len(kept.maps) != 4:
            raise ValueError(
                f"Decoder: expected the image and the maps of three stages, got {len(kept.maps)}"
            )
        given = kept.maps[number]
        if number == 0 and self.subpixel:
            given = F.pixel_unshuffle(given, 2)
        added = self.skips[number](given)
        if kept.fits is not None:
            added = added * kept.fits.view(-1, 1, 1, 1)
        return x + added


class UnpoolingDecoder(Decoder):
    """A decoder that places each value where the encoder's pooling found its maximum.

    This is the skip connection of supplementary A. `forward` needs the `places` of the encoder's
    `ConvolutionalStack`, which must have the same `channels`.
    """

    def enlarge(self, x: Tensor, stage: int, kept: Kept) -> Tensor:
        places = kept.places
        if len(places) != 3:
            raise ValueError(
                f"UnpoolingDecoder: expected the places of three poolings, got {len(places)}"
            )
        return torch.where(places[2 - stage], F.interpolate(x, scale_factor=2), 0.0)
