"""Discriminators: the auto-encoder of the adversarial loss, eq. 8, and one on codes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .decoder import Decoder
from .encoder import Encoder


class Discriminator(nn.Module):
    """`D` of section 3.6: an auto-encoder of images with the architecture of the face network.

    Args: as `Encoder`.

    Example:
        >>> import torch
        >>> from ntensor.faces.networks import Discriminator
        >>> Discriminator()(torch.ones(2, 3, 64, 64)).shape
        torch.Size([2, 3, 64, 64])
    """

    def __init__(
        self,
        image_size: int = 64,
        channels: tuple[int, int, int] = (96, 48, 24),
        kernel_size: int = 5,
        k_i: int = 128,
    ) -> None:
        super().__init__()
        sizes = (image_size, channels, kernel_size)
        self.encoder = Encoder({}, *sizes, k_i, keep_places=False)
        self.decoder = Decoder(k_i, 3, *sizes, start=0.5)

    def forward(self, image: Tensor) -> Tensor:
        """The reconstruction (Tensor[n, 3, S, S]) of `image`."""
        codes, _ = self.encoder(image)
        reconstruction: Tensor = self.decoder(codes["z_i"])
        return reconstruction


class CodeDiscriminator(nn.Module):
    """Discriminates codes from normal samples, as in the adversarial auto-encoder [23].

    Args:
        k (int): extent of the code.
        width (int): of the two hidden layers.
    """

    def __init__(self, k: int, width: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(k, width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, 1),
        )

    def forward(self, code: Tensor) -> Tensor:
        """Logits (Tensor[n]), positive for a code that looks like a normal sample."""
        logit: Tensor = self.layers(code)
        return torch.squeeze(logit, 1)
