"""A face with a fixed identity, so that a new expression, pose or light is cheap."""

from __future__ import annotations

import torch
from torch import Tensor

import ntensor
from ntensor.faces.common.errors import ConfigurationError
from ntensor.faces.networks.model import FaceAutoencoder, Model
from ntensor.faces.rendering import harmonics

from .codes import Encoded, Mask, compose


class FixedFace:
    r"""One face, prepared for many edits of expression, pose and light.

    The cores are contracted with the face's identity once, :math:`\mathcal{Q} \times_4 z_{id}` and
    :math:`\mathcal{B} \times_3 z_{id}` of eq. 1 and 3, and mask and background, which no such edit
    changes, are decoded once. `decode` returns what the whole network would, up to rounding.

    Args:
        model (Model): the paper's network.
        encoded (Encoded): one face.
        image (Tensor[1, 3, S, S] or None): its picture, for edits of the picture itself.

    Raises:
        ConfigurationError: it is another network.
        ValueError: not exactly one face.

    Example:
        >>> import torch
        >>> from ntensor.faces.configuration import ModelConfiguration
        >>> from ntensor.faces.editing import FixedFace, encode
        >>> from ntensor.faces.networks.model import build
        >>> model = build(ModelConfiguration(channels=(8, 8, 8), k_3d=30))
        >>> faces = encode(model, torch.rand(5, 3, 64, 64))
        >>> FixedFace(model, faces[0]).decode(z_exp=faces.codes["z_exp"])["image"].shape
        torch.Size([5, 3, 64, 64])
    """

    def __init__(self, model: Model, encoded: Encoded, image: Tensor | None = None) -> None:
        if not isinstance(model, FaceAutoencoder) or not model.multilinear:
            raise ConfigurationError(
                f'FixedFace needs a network "neuro-tensorial", got "{model.configuration.network}"'
            )
        if len(encoded) != 1:
            raise ValueError(f"FixedFace: expected one face, got {len(encoded)}")
        self.model, self.encoded, self.image = model, encoded, image
        codes = encoded.codes
        with torch.no_grad():
            z_id = codes["z_id"][0]
            self.frontal_core = ntensor.contract(model.frontal_stream.projection.core, z_id, -1)
            self.shape_core = ntensor.contract(model.shape_stream.projection.core, z_id, -1)
            self.mask, self.background = model.decode_surroundings(codes, encoded.kept)
            self.id_3dmm = model.id_3dmm(codes["z_id"])

    @torch.no_grad()
    def decode(
        self,
        z_exp: Tensor | None = None,
        z_p: Tensor | None = None,
        z_l: Tensor | None = None,
        streams: bool = True,
        mask: Mask = "code",
    ) -> dict[str, Tensor]:
        """Decodes the face with other codes; omitted ones are its own.

        Args:
            z_exp (Tensor[n, k_exp]), z_p (Tensor[n, 9]), z_l (Tensor[n, k_l]): each may have one
                row.
            streams (bool), mask (str): as in `editing.decode`.

        Returns:
            dict: as `editing.decode`.
        """
        given = {"z_exp": z_exp, "z_p": z_p, "z_l": z_l}
        own = self.encoded.codes
        codes = {name: own[name] if code is None else code for name, code in given.items()}
        n = max(len(code) for code in codes.values())
        codes = {name: code.expand(n, -1) for name, code in codes.items()}
        edited = self.encoded.expand(n).replace(codes)
        z_exp, z_l = codes["z_exp"], codes["z_l"]
        normal, albedo = self.model.decode_surface(edited.codes, edited.kept)
        light = self.model.light(z_l)
        shading = harmonics.shading(normal.float(), light.float())
        covered = self.mask.expand(n, -1, -1, -1)
        background = self.background.expand(n, -1, -1, -1)
        output = {
            "image": covered * (albedo * shading) + (1 - covered) * background,
            "normal": normal,
            "albedo": albedo,
            "shading": shading,
            "light": light,
            "mask": covered,
            "background": background,
        }
        if streams:
            output |= self.streams(z_l, z_exp)
        return compose(output, mask)

    @torch.no_grad()
    def streams(self, z_l: Tensor, z_exp: Tensor) -> dict[str, Tensor]:
        """Streams 1 and 3 and the coefficients, from the contracted cores."""
        frontal, shape = self.model.frontal_stream, self.model.shape_stream
        image, normal = ntensor.synthesis_projection_with_mean(self.frontal_core, z_l, z_exp)
        return {
            "shape": shape.basis(ntensor.synthesis_projection(self.shape_core, z_exp)),
            "frontal_image": frontal.to_map(image),
            "frontal_normal": frontal.to_map(normal),
            "exp_3dmm": self.model.exp_3dmm(z_exp),
            "id_3dmm": self.id_3dmm.expand(len(z_exp), -1),
        }
