"""The encoder of section 3.5 and supplementary A: from an image to its codes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import initialisation
from .kept import Kept

# The lower bound of the nonlinearity of supplementary A, "thresholding".
FLOOR = 1e-6

# Standard deviation of normalised pictures; `z_i` then starts with a deviation of about 1.
DEVIATION = 0.5
# Keeps a picture of nearly one colour from being amplified to full contrast.
SMALLEST_DEVIATION = 0.02
# Weight of a residual convolution. The identity outweighs it, and continues to do so while Adam
# moves every weight by the same step.
RESIDUE = 0.2

BOTTLENECKS: dict[str, type[nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "identity": nn.Identity,
}


def threshold(x: Tensor) -> Tensor:
    """`x` if it is positive, else `1e-6`."""
    return F.threshold(x, 0.0, FLOOR)


def find_places(indices: Tensor) -> Tensor:
    """The positions where a 2 x 2 pooling found its maxima.

    Args:
        indices (Tensor[n, c, h, w]): from `max_pool2d`, positions in a plane of `2h x 2w`.

    Returns:
        Tensor[n, c, 2h, 2w]: bool, one True in each 2 x 2 window.
    """
    height, width = 2 * indices.shape[2], 2 * indices.shape[3]
    places = torch.arange(height * width, device=indices.device).view(height, width)
    spread = indices.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    return spread == places


def standardise(image: Tensor) -> tuple[Tensor, Tensor]:
    """Normalises pictures to mean 0 and deviation `DEVIATION`.

    All colours are normalised together, so colour casts are kept.

    Args:
        image (Tensor[n, 3, S, S]): 0 to 1.

    Returns:
        (Tensor[n, 3, S, S], Tensor[n, 2]): the pictures; their mean and deviation, approximately
        standardised over pictures.
    """
    deviation, mean = torch.std_mean(image, (1, 2, 3), correction=0, keepdim=True)
    level = torch.cat([(mean - 0.4) / 0.15, (deviation - 0.2) / 0.08], 1).flatten(1)
    return (image - mean) * (DEVIATION / deviation.clamp_min(SMALLEST_DEVIATION)), level


class ResidualConvolution(nn.Module):
    """A residual convolution, `threshold(x + RESIDUE * convolution(x))`.

    Args:
        channels (int)
        kernel_size (int): odd.
    """

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2)
        initialisation.keep_variance(self.convolution, initialisation.RECTIFIER)

    def forward(self, x: Tensor) -> Tensor:
        return threshold(x + RESIDUE * self.convolution(x))


class ConvolutionalStack(nn.Module):
    """Three convolutions, each followed by 2 x 2 max-pooling and the threshold.

    Args:
        channels (tuple of int): filters of the convolutions, `(96, 48, 24)` in the paper.
        kernel_size (int): odd; 5 in the paper.
        in_channels (int): of the image.
        keep_places (bool): keep the positions of the maxima, for unpooling.
        depth (int): convolutions per stage; those after the first are residual and follow the
            pooling.
        keep_maps (bool): keep the image and the stages' outputs, for skip connections.

    Example:
        >>> import torch
        >>> from ntensor.faces.networks import ConvolutionalStack
        >>> features, kept = ConvolutionalStack((96, 48, 24))(torch.ones(1, 3, 64, 64))
        >>> features.shape, [tuple(p.shape) for p in kept.places]  # doctest: +NORMALIZE_WHITESPACE
        (torch.Size([1, 24, 8, 8]), [(1, 96, 64, 64), (1, 48, 32, 32), (1, 24, 16, 16)])
    """

    def __init__(
        self,
        channels: tuple[int, int, int],
        kernel_size: int = 5,
        in_channels: int = 3,
        keep_places: bool = True,
        depth: int = 1,
        keep_maps: bool = False,
    ) -> None:
        super().__init__()
        self.keep_places, self.keep_maps = keep_places, keep_maps
        sizes = (in_channels, *channels)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, kernel_size, padding=kernel_size // 2)
            for a, b in itertools.pairwise(sizes)
        )
        for convolution in self.convolutions:
            initialisation.keep_variance(convolution, initialisation.RECTIFIER)
        self.further = nn.ModuleList(
            nn.Sequential(*(ResidualConvolution(size, kernel_size) for _ in range(depth - 1)))
            for size in channels
        )

    def forward(self, image: Tensor) -> tuple[Tensor, Kept]:
        """Features (Tensor[n, c_3, S/8, S/8]), and what is kept for the decoders."""
        x, places, maps = image, [], [image]
        for convolution, further in zip(self.convolutions, self.further, strict=True):
            x = convolution(x)
            if self.keep_places:
                x, indices = F.max_pool2d(x, 2, return_indices=True)
                places.append(find_places(indices))
            else:
                x = F.max_pool2d(x, 2)
            x = further(threshold(x))
            maps.append(x)
        return x, Kept(places, maps if self.keep_maps else [])


class Encoder(nn.Module):
    """`E(x)` of eq. 6: maps an image to `z_i`, and `z_i` to each code by a linear layer.

    Args:
        code_sizes (mapping): extent of each code by name.
        image_size (int): `S`, a multiple of 8.
        channels, kernel_size: as in `ConvolutionalStack`.
        k_i (int): extent of `z_i`.
        bottleneck (str): activation of `z_i`: `"sigmoid"`, `"tanh"` or `"identity"`.
        keep_places (bool), depth (int), keep_maps (bool): as in `ConvolutionalStack`; the first map
            is the image before normalisation.
        normalise (bool): normalise mean and contrast of pictures before the convolutions, see
            `standardise`; `z_i` gets both as additional inputs.

    Example:
        >>> import torch
        >>> from ntensor.faces.networks import Encoder
        >>> codes, kept = Encoder({"z_exp": 15, "z_id": 80})(torch.ones(2, 3, 64, 64))
        >>> codes["z_id"].shape, codes["z_i"].shape
        (torch.Size([2, 80]), torch.Size([2, 128]))
    """

    def __init__(
        self,
        code_sizes: Mapping[str, int],
        image_size: int = 64,
        channels: tuple[int, int, int] = (96, 48, 24),
        kernel_size: int = 5,
        k_i: int = 128,
        bottleneck: str = "sigmoid",
        keep_places: bool = True,
        depth: int = 1,
        keep_maps: bool = False,
        normalise: bool = False,
    ) -> None:
        super().__init__()
        self.normalise = normalise
        self.stack = ConvolutionalStack(channels, kernel_size, 3, keep_places, depth, keep_maps)
        features = channels[-1] * (image_size // 8) ** 2 + (2 if normalise else 0)
        self.bottleneck = nn.Linear(features, k_i)
        self.activation = BOTTLENECKS[bottleneck]()
        self.heads = nn.ModuleDict({name: nn.Linear(k_i, k) for name, k in code_sizes.items()})
        initialisation.keep_variance(self.bottleneck, 1.0)
        for name, head in self.heads.items():
            initialisation.initialise_code_head(head, name, bottleneck)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> tuple[dict[str, Tensor], Kept]:
        """The codes by name, including `z_i`, and what is kept for the decoders."""
        if self.normalise:
            normal, level = standardise(image)
            convolved, kept = self.stack(normal)
            features = torch.cat([convolved.flatten(1), level], 1)
            kept = kept._replace(maps=[image, *kept.maps[1:]] if kept.maps else [])
        else:
            convolved, kept = self.stack(image)
            features = convolved.flatten(1)
        z_i = self.activation(self.bottleneck(features))
        codes = {name: head(z_i) for name, head in self.heads.items()}
        return {"z_i": z_i, **codes}, kept
