"""The encoder of section 3.5 and supplementary A: an image to its codes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import initialisation

# The floor of the nonlinearity of supplementary A, "thresholding".
FLOOR = 1e-6

BOTTLENECKS: dict[str, type[nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "identity": nn.Identity,
}


def threshold(x: Tensor) -> Tensor:
    """`x` where it is positive, else `1e-6`."""
    return F.threshold(x, 0.0, FLOOR)


def find_places(indices: Tensor) -> Tensor:
    """Where a 2 x 2 pooling found its maxima.

    Args:
        indices (Tensor[n, c, h, w]): of `max_pool2d`, places in a plane of `2h x 2w`.

    Returns:
        Tensor[n, c, 2h, 2w]: bool, one True in each 2 x 2 window.
    """
    height, width = 2 * indices.shape[2], 2 * indices.shape[3]
    places = torch.arange(height * width, device=indices.device).view(height, width)
    spread = indices.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    return spread == places


class ConvolutionalStack(nn.Module):
    """Three convolutions, each followed by a 2 x 2 max-pooling and the threshold.

    Args:
        channels (tuple of int): filters of the convolutions, `(96, 48, 24)` in the paper.
        kernel_size (int): odd; 5 in the paper.
        in_channels (int): of the image.
        keep_places (bool): give the places of the maxima, for unpooling.

    Example:
        >>> import torch
        >>> from ntensor.faces.networks import ConvolutionalStack
        >>> features, places = ConvolutionalStack((96, 48, 24))(torch.ones(1, 3, 64, 64))
        >>> features.shape, [tuple(p.shape) for p in places]  # doctest: +NORMALIZE_WHITESPACE
        (torch.Size([1, 24, 8, 8]), [(1, 96, 64, 64), (1, 48, 32, 32), (1, 24, 16, 16)])
    """

    def __init__(
        self,
        channels: tuple[int, int, int],
        kernel_size: int = 5,
        in_channels: int = 3,
        keep_places: bool = True,
    ) -> None:
        super().__init__()
        self.keep_places = keep_places
        sizes = (in_channels, *channels)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, kernel_size, padding=kernel_size // 2)
            for a, b in itertools.pairwise(sizes)
        )
        for convolution in self.convolutions:
            initialisation.keep_variance(convolution, initialisation.RECTIFIER)

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Features (Tensor[n, c_3, S/8, S/8]), and the places of each pooling's maxima, first
        pooling first; none where they are not kept."""
        x, places = image, []
        for convolution in self.convolutions:
            x = convolution(x)
            if self.keep_places:
                x, indices = F.max_pool2d(x, 2, return_indices=True)
                places.append(find_places(indices))
            else:
                x = F.max_pool2d(x, 2)
            x = threshold(x)
        return x, places


class Encoder(nn.Module):
    """`E(x)` of eq. 6: an image to `z_i`, and `z_i` to every code by a linear layer of its own.

    Args:
        code_sizes (mapping): extent of each code by name.
        image_size (int): `S`, a multiple of 8.
        channels, kernel_size: as in `ConvolutionalStack`.
        k_i (int): extent of `z_i`.
        bottleneck (str): activation of `z_i`: `"sigmoid"`, `"tanh"` or `"identity"`.
        keep_places (bool): as in `ConvolutionalStack`.

    Example:
        >>> import torch
        >>> from ntensor.faces.networks import Encoder
        >>> codes, places = Encoder({"z_exp": 15, "z_id": 80})(torch.ones(2, 3, 64, 64))
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
    ) -> None:
        super().__init__()
        self.stack = ConvolutionalStack(channels, kernel_size, keep_places=keep_places)
        self.bottleneck = nn.Linear(channels[-1] * (image_size // 8) ** 2, k_i)
        self.activation = BOTTLENECKS[bottleneck]()
        self.heads = nn.ModuleDict({name: nn.Linear(k_i, k) for name, k in code_sizes.items()})
        initialisation.keep_variance(self.bottleneck, 1.0)
        for name, head in self.heads.items():
            initialisation.initialise_code_head(head, name, bottleneck)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> tuple[dict[str, Tensor], list[Tensor]]:
        """The codes by name, `z_i` among them, and the places of the poolings' maxima."""
        features, places = self.stack(image)
        z_i = self.activation(self.bottleneck(features.flatten(1)))
        codes = {name: head(z_i) for name, head in self.heads.items()}
        return {"z_i": z_i, **codes}, places
