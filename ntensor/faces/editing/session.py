"""Two faces between which one moves, factor by factor: what stays as it is is computed once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from ntensor.faces import harmonics
from ntensor.faces.errors import ConfigurationError
from ntensor.faces.model import FaceAutoencoder, Model

FACTORS = {"identity": "z_id", "expression": "z_exp", "pose": "z_p", "light": "z_l"}


def contract(core: Tensor, z: Tensor, mode: int) -> Tensor:
    return torch.tensordot(core, z, dims=([mode], [0]))


def require_factors(model: Model) -> FaceAutoencoder:
    """The model, if it has a code for every factor of `FACTORS`.

    Raises:
        ConfigurationError: it has not.
    """
    if not isinstance(model, FaceAutoencoder) or not model.multilinear:
        raise ConfigurationError(
            'editing needs the network "neuro-tensorial", which has z_id, z_exp, z_p and z_l; '
            f'got network "{model.configuration.network}"'
        )
    return model


@dataclasses.dataclass(frozen=True)
class EncodedFace:
    """One face, and all that depends on it alone.

    Attributes:
        image (Tensor[1, 3, S, S]): 0 to 1.
        codes (dict): by name (1, k).
        maps (dict): as of `FaceAutoencoder.decode`.
        shape_core (Tensor[k_3d, k_exp]), frontal_core (Tensor[3 S S, k_l, k_exp]): the cores of
            streams 1 and 3, contracted with `z_id`.
    """

    image: Tensor
    codes: dict[str, Tensor]
    maps: dict[str, Tensor]
    shape_core: Tensor
    frontal_core: Tensor


@torch.no_grad()
def encode(model: FaceAutoencoder, image: Tensor) -> EncodedFace:
    """Encodes a face.

    Args:
        model (FaceAutoencoder)
        image (Tensor[3, S, S]): 0 to 1.

    Returns:
        EncodedFace
    """
    codes, places = model.encode(image[None])
    z_id = codes["z_id"][0]
    return EncodedFace(
        image[None],
        codes,
        model.decode(codes, places),
        contract(model.shape_stream.projection.core, z_id, 2),
        contract(model.frontal_stream.projection.core, z_id, 3),
    )


class Session:
    """The faces between a first and a second one.

    With weights `w` of the factors, a code is `(1 - w)` times the first face's and `w` times the
    second's; a pose turns along the shortest rotation. Background and, up to the pose, mask are
    the first face's. Since the streams 1 and 3 are linear in `z_id`, their cores are contracted
    with it once a face; a new expression or light costs the small rest, a new light no convolution.

    Args:
        model (FaceAutoencoder): with all factors, see `require_factors`.
        first, second (EncodedFace)
    """

    def __init__(self, model: FaceAutoencoder, first: EncodedFace, second: EncodedFace) -> None:
        self.model, self.first, self.second = model, first, second
        self._surface: tuple[tuple[float, ...], tuple[Tensor, Tensor]] | None = None

    def code(self, name: str, weight: float) -> Tensor:
        """The code of that name between the faces (1, k)."""
        first, second = self.first.codes[name], self.second.codes[name]
        return torch.lerp(first, second, weight)

    @torch.no_grad()
    def decode(self, weights: Mapping[str, float]) -> dict[str, Tensor]:
        """The edited face.

        Args:
            weights (mapping): of the names of `FACTORS`; 0 the first face, 1 the second. What is
                left out is 0.

        Returns:
            dict: the maps of `FaceAutoencoder.decode`, without its vectors.
        """
        w = {name: float(weights.get(name, 0.0)) for name in FACTORS}
        normal, albedo = self._surface_of(w)
        z_l = self.code("z_l", w["light"])
        light = self.model.light(z_l)
        shading = harmonics.shading(normal, light)
        turned = min(max(w["pose"], 0.0), 1.0)
        mask = torch.lerp(self.first.maps["mask"], self.second.maps["mask"], turned)
        background = self.first.maps["background"]
        core = torch.lerp(self.first.frontal_core, self.second.frontal_core, w["identity"])
        lit = contract(core, self.code("z_exp", w["expression"])[0], 2)  # (3 S S, k_l)
        flat = (1, *self.model.frontal_stream.shape)
        return {
            "image": mask * (albedo * shading) + (1 - mask) * background,
            "normal": normal,
            "albedo": albedo,
            "shading": shading,
            "light": light,
            "mask": mask,
            "background": background,
            "frontal_image": contract(lit, z_l[0], 1).view(flat),
            "frontal_normal": lit.mean(1).view(flat),
        }

    @torch.no_grad()
    def shape(self, weights: Mapping[str, float]) -> Tensor:
        """The edited facial shape (V, 3), millimetres."""
        core = torch.lerp(
            self.first.shape_core, self.second.shape_core, weights.get("identity", 0.0)
        )
        shape = contract(core, self.code("z_exp", weights.get("expression", 0.0))[0], 1)
        return self.model.statistics.restore("shape", shape).view(-1, 3)

    def _surface_of(self, w: Mapping[str, float]) -> tuple[Tensor, Tensor]:
        """Normals and albedo, which no light changes: the last ones are kept."""
        key = (w["identity"], w["expression"], w["pose"])
        if self._surface is None or self._surface[0] != key:
            feature = self.model.feature(
                self.code("z_exp", w["expression"]),
                self.code("z_id", w["identity"]),
                self.code("z_p", w["pose"]),
            )
            self._surface = key, (self.model.normal(feature), self.model.albedo(feature))
        return self._surface[1]
