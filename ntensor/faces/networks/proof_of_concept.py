"""The proof-of-concept networks of section 4, without pose (figure 3a) and with it (figure 3b)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ntensor.faces.configuration import ModelConfiguration

from .decoder import Decoder
from .encoder import Encoder
from .kept import NOTHING, Kept
from .statistics import Statistics
from .streams import RotatedFeature


class ProofOfConcept(nn.Module):
    """Expression, identity and optionally pose, without background, mask and light.

    The image is decoded from `z_exp (x) z_id`, rotated by `z_p` if the configuration has a
    rotation. The facial texture, which is the albedo of the neutral, frontal face, is decoded from
    `z_id`. Linear layers predict the coefficients of the morphable model.

    Args:
        configuration (ModelConfiguration)

    Example:
        >>> import torch
        >>> from ntensor.faces.configuration import ModelConfiguration
        >>> from ntensor.faces.networks.proof_of_concept import ProofOfConcept
        >>> sizes = dict(channels=(8, 8, 8), network="proof-of-concept", rotation="off")
        >>> output = ProofOfConcept(ModelConfiguration(**sizes))(torch.rand(2, 3, 64, 64))
        >>> output["texture"].shape, "z_p" in output
        (torch.Size([2, 3, 64, 64]), False)
    """

    def __init__(self, configuration: ModelConfiguration) -> None:
        super().__init__()
        c = configuration
        self.configuration = c
        codes = {"z_id": c.k_id, "z_exp": c.k_exp}
        if c.rotation != "off":
            codes["z_p"] = 9
        sizes = (c.image_size, c.channels, c.kernel_size)
        self.encoder = Encoder(
            codes, *sizes, c.k_i, c.bottleneck, False, c.depth, False, c.normalise_input
        )
        self.feature = RotatedFeature(c.rotation)
        self.decoder = Decoder(c.k_exp * c.k_id, 3, *sizes, start=0.5, subpixel=c.subpixel)
        self.texture = Decoder(c.k_id, 3, *sizes, start=0.5, subpixel=c.subpixel)
        self.exp_3dmm = nn.Linear(c.k_exp, c.exp_3dmm)
        self.id_3dmm = nn.Linear(c.k_id, c.id_3dmm)
        self.statistics = Statistics({"exp_3dmm": c.exp_3dmm, "id_3dmm": c.id_3dmm})

    def encode(self, image: Tensor) -> tuple[dict[str, Tensor], Kept]:
        """The codes of `image` (Tensor[n, 3, S, S], 0 to 1), eq. 17."""
        codes, kept = self.encoder(image)
        return codes, kept

    def decode(self, codes: Mapping[str, Tensor], kept: Kept = NOTHING) -> dict[str, Tensor]:
        """`D(z_exp, z_id)` of eq. 18, optionally with `z_p`; codes may come from several images.

        Returns:
            dict: `image`, `texture` (n, 3, S, S), `exp_3dmm`, `id_3dmm` (standardised).
        """
        z_exp = codes["z_exp"]
        if self.configuration.geometric_expression:
            z_exp = z_exp.detach()
        feature = self.feature(z_exp, codes["z_id"], codes.get("z_p"))
        return {
            "image": self.decoder(feature),
            **self.regress(codes),
            "texture": self.texture(codes["z_id"]),
        }

    def regress(self, codes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`exp_3dmm` and `id_3dmm`, which need no decoder."""
        return {
            "exp_3dmm": self.exp_3dmm(codes["z_exp"]),
            "id_3dmm": self.id_3dmm(codes["z_id"]),
        }

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """`decode(encode(image))` and the codes."""
        codes, kept = self.encode(image)
        return {**codes, **self.decode(codes, kept)}
