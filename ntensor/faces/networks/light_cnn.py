"""The verification network of section 3.6: a light CNN after reference [40]."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Red, green, blue to luminance (ITU-R BT.601).
LUMINANCE = (0.299, 0.587, 0.114)


class MaxFeatureMap(nn.Module):
    """A convolution with twice the filters, and the elementwise maximum of its two halves."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(
            in_channels, 2 * out_channels, kernel_size, padding=kernel_size // 2
        )

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.convolution(x).chunk(2, dim=1)
        return torch.maximum(first, second)


class LightCNN(nn.Module):
    """Maps faces to embeddings whose cosine compares identities, by nine max-feature-map layers.

    Colours are converted to luminance, and the image is resized to `input_size`.

    Args:
        width (float): factor for the number of filters; 1 in the published network.
        embedding (int): extent of the embedding, 256 in the published network.
        input_size (int): of the luminance image, a multiple of 16; 128 in the published network.
        identities (int): classes of `logits`; 0: none.
        dropout (float): of the embedding in `logits`.

    Example:
        >>> import torch
        >>> from ntensor.faces.networks.light_cnn import LightCNN
        >>> LightCNN(width=0.25, input_size=64)(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 256])
    """

    def __init__(
        self,
        width: float = 0.5,
        embedding: int = 256,
        input_size: int = 128,
        identities: int = 0,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        if input_size % 16:
            raise ValueError(f"LightCNN: input_size must be a multiple of 16, got {input_size}")
        self.settings = {"width": width, "embedding": embedding, "input_size": input_size}
        self.input_size, self.dropout = input_size, dropout
        a, b, c, d = (max(4, round(width * k)) for k in (48, 96, 192, 128))
        pool = nn.MaxPool2d(2)
        self.layers = nn.Sequential(
            MaxFeatureMap(1, a, 5),
            pool,
            MaxFeatureMap(a, a, 1),
            MaxFeatureMap(a, b, 3),
            pool,
            MaxFeatureMap(b, b, 1),
            MaxFeatureMap(b, c, 3),
            pool,
            MaxFeatureMap(c, c, 1),
            MaxFeatureMap(c, d, 3),
            MaxFeatureMap(d, d, 1),
            MaxFeatureMap(d, d, 3),
            pool,
        )
        self.linear = nn.Linear(d * (input_size // 16) ** 2, 2 * embedding)
        self.classes = nn.Linear(embedding, identities, bias=False) if identities else None
        self.register_buffer("luminance", torch.tensor(LUMINANCE).view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Embeddings (Tensor[n, embedding]) of images (Tensor[n, 3, S, S], 0 to 1)."""
        grey = (image * self.get_buffer("luminance")).sum(1, keepdim=True)
        if grey.shape[-1] != self.input_size:
            size = (self.input_size, self.input_size)
            grey = F.interpolate(grey, size, mode="bilinear", align_corners=False)
        first, second = self.linear(self.layers(grey).flatten(1)).chunk(2, dim=1)
        return torch.maximum(first, second)

    def logits(self, image: Tensor) -> Tensor:
        """Logits (Tensor[n, identities]) of the training identities."""
        if self.classes is None:
            raise ValueError("LightCNN: logits needs identities > 0, got 0")
        features = F.dropout(self(image), self.dropout, self.training)
        scores: Tensor = self.classes(features)
        return scores
