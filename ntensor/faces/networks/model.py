"""The complete networks: the paper's, and the baselines that are configurations of it."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ntensor.faces.common.errors import ConfigurationError
from ntensor.faces.configuration import ModelConfiguration
from ntensor.faces.rendering import harmonics

from .decoder import Decoder, UnpoolingDecoder
from .encoder import Encoder
from .kept import NOTHING, Kept
from .proof_of_concept import ProofOfConcept
from .statistics import Statistics
from .streams import FrontalStream, Light, RotatedFeature, ShapeStream
from .swaps import Swaps


class FaceAutoencoder(nn.Module):
    r"""The network of section 3.5, and, by configuration, the network after [30].

    `E(x) = [z_b, z_m, z_l, z_p, z_id, z_exp]` (eq. 6), then

    1. shape `B_(1)(z_exp (x) z_id)`;
    2. normals and albedo from `rotation(z_exp (x) z_id, z_p)`; shading from normals and `z_l`;
       mask and background from `z_m` and `z_b`; the image
       `mask * albedo * shading + (1 - mask) * background`, not clamped;
    3. frontal image and normals `Q_(1)(z_l (x) z_exp (x) z_id)`, `Q_(1)(1/k_l (x) z_exp (x) z_id)`.

    The network `"intrinsic"`, after [30], has neither stream 1 nor 3. Its normals and albedo are
    decoded from separate codes `z_n` and `z_a`, and it has no `z_p`, `z_id`, `z_exp`.

    Args:
        configuration (ModelConfiguration)

    Example:
        >>> import torch
        >>> from ntensor.faces.configuration import fit_to_data
        >>> from ntensor.faces.configuration.presets import tiny
        >>> from ntensor.faces.networks.model import FaceAutoencoder
        >>> sizes = {"k_3d": 1500, "exp_3dmm": 16, "id_3dmm": 30}
        >>> output = FaceAutoencoder(fit_to_data(tiny(), sizes).model)(torch.rand(2, 3, 64, 64))
        >>> output["image"].shape, output["shape"].shape, output["z_p"].shape
        (torch.Size([2, 3, 64, 64]), torch.Size([2, 1500]), torch.Size([2, 9]))
    """

    def __init__(self, configuration: ModelConfiguration) -> None:
        super().__init__()
        c = configuration
        self.configuration = c
        self.multilinear = c.network == "neuro-tensorial"
        codes = {"z_b": c.k_b, "z_m": c.k_m, "z_l": c.k_l}
        if self.multilinear:
            codes |= {"z_p": 9, "z_id": c.k_id, "z_exp": c.k_exp}
        else:
            codes |= {"z_n": c.K_INTRINSIC, "z_a": c.K_INTRINSIC}
        sizes = (c.image_size, c.channels, c.kernel_size)
        self.encoder = Encoder(
            codes, *sizes, c.k_i, c.bottleneck, c.unpooling, c.depth, c.skips, c.normalise_input
        )
        self.light = Light(c.k_l)
        self.thumbnail = nn.Linear(c.k_i, 48) if c.thumbnail else None
        feature = c.k_exp * c.k_id if self.multilinear else c.K_INTRINSIC
        inner = functools.partial(Decoder, subpixel=c.subpixel, skips=c.skips)
        outer = functools.partial(UnpoolingDecoder, skips=c.skips) if c.unpooling else inner
        self.normal = inner(feature, 3, *sizes, hidden=torch.tanh, output=torch.tanh)
        self.albedo = inner(feature, 3, *sizes, start=0.5)
        self.mask = outer(c.k_m, 1, *sizes, output=torch.sigmoid)
        self.background = outer(c.k_b, 3, *sizes, output=torch.sigmoid)
        if self.multilinear:
            cores = (c.k_exp, c.k_id, c.core_rank, bool(c.accumulate_core_grad))
            self.feature = RotatedFeature(c.rotation)
            self.shape_stream = ShapeStream(c.k_3d, *cores)
            self.frontal_stream = FrontalStream(c.image_size, c.k_l, *cores)
            self.exp_3dmm = nn.Linear(c.k_exp, c.exp_3dmm)
            self.id_3dmm = nn.Linear(c.k_id, c.id_3dmm)
        self.statistics = Statistics(list_target_extents(c))

    def encode(self, image: Tensor) -> tuple[dict[str, Tensor], Kept]:
        """The codes of `image` (Tensor[n, 3, S, S], 0 to 1), and what is kept for the decoders."""
        codes, kept = self.encoder(image)
        return codes, kept

    def decode(
        self,
        codes: Mapping[str, Tensor],
        kept: Kept = NOTHING,
        streams: bool = True,
        frontal: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """`D(codes)` of eq. 7.

        Args:
            codes (mapping): as returned by `encode`; some may come from another image.
            kept (Kept): of the image that provides mask and background.
            streams (bool): also compute streams 1 and 3.
            frontal (Tensor[n] or None): bool, the rows for which stream 3 is computed; its maps are
                0 in the others. None: all.

        Returns:
            dict: `image`, `normal`, `albedo`, `shading`, `background` (n, 3, S, S), `mask`
            (n, 1, S, S), `light` (n, 3, 9); with `streams` also `shape` (n, k_3d),
            `frontal_image`, `frontal_normal` (n, 3, S, S), `exp_3dmm`, `id_3dmm`. Vectors are
            standardised by `statistics`. The length of normals is close to 1 inside the mask and
            close to 0 outside.
        """
        normal, albedo = self.decode_surface(codes, kept)
        vectors = self._regress_vectors(codes)
        light = vectors["light"]
        shading = harmonics.shading(normal.float(), light.float())
        mask, background = self.decode_surroundings(codes, kept)
        output = {
            "image": mask * (albedo * shading) + (1 - mask) * background,
            "normal": normal,
            "albedo": albedo,
            "shading": shading,
            "light": light,
            "mask": mask,
            "background": background,
        }
        if streams and self.multilinear:
            frontal_image, frontal_normal = self._compute_frontal(self._see(codes), frontal)
            output |= {
                "shape": self.shape_stream(codes["z_exp"], codes["z_id"]),
                "frontal_image": frontal_image,
                "frontal_normal": frontal_normal,
                **vectors,
            }
        return output

    def decode_surface(
        self, codes: Mapping[str, Tensor], kept: Kept = NOTHING
    ) -> tuple[Tensor, Tensor]:
        """Normals and albedo, as in `decode`."""
        if self.multilinear:
            seen = self._see(codes)
            normal_code = self.feature(seen["z_exp"], seen["z_id"], seen["z_p"])
            albedo_code = normal_code
        else:
            normal_code, albedo_code = codes["z_n"], codes["z_a"]
        return self.normal(normal_code, kept), self.albedo(albedo_code, kept)

    def decode_surroundings(
        self, codes: Mapping[str, Tensor], kept: Kept = NOTHING
    ) -> tuple[Tensor, Tensor]:
        """Mask and background, as in `decode`."""
        whole = kept.for_all()
        return self.mask(codes["z_m"], whole), self.background(codes["z_b"], whole)

    def regress(self, codes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs that need no decoder.

        Args:
            codes (mapping): as returned by `encode`.

        Returns:
            dict: `light`; `exp_3dmm` and `id_3dmm`, with streams 1 and 3; `thumbnail` (n, 48), if
            the network has one.
        """
        return self._regress_vectors(codes) | self._regress_thumbnail(codes)

    def _see(self, codes: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The codes for images and normals; `z_exp` may be detached from their gradients."""
        if self.multilinear and self.configuration.geometric_expression:
            return {**codes, "z_exp": codes["z_exp"].detach()}
        return codes

    def _regress_vectors(self, codes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        vectors = {"light": self.light(codes["z_l"])}
        if self.multilinear:
            vectors["exp_3dmm"] = self.exp_3dmm(codes["z_exp"])
            vectors["id_3dmm"] = self.id_3dmm(codes["z_id"])
        return vectors

    def _regress_thumbnail(self, codes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {} if self.thumbnail is None else {"thumbnail": self.thumbnail(codes["z_i"])}

    def _compute_frontal(
        self, codes: Mapping[str, Tensor], frontal: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        given = [codes[name] for name in ("z_l", "z_exp", "z_id")]
        if frontal is None:
            image, normal = self.frontal_stream(*given)
            return image, normal
        rows = frontal.nonzero()[:, 0]
        image, normal = (
            part.new_zeros(len(frontal), *part.shape[1:]).index_copy(0, rows, part)
            for part in self.frontal_stream(*(z[rows] for z in given))
        )
        return image, normal

    def forward(
        self,
        image: Tensor,
        frontal: Tensor | None = None,
        fits: Tensor | None = None,
        swaps: Swaps | None = None,
    ) -> dict[str, Tensor]:
        """The codes, `decode(encode(image))`, and the thumbnail if the network has one.

        Args:
            image (Tensor[n, 3, S, S])
            frontal (Tensor[n] or None): as in `decode`.
            fits (Tensor[n] or None): bool, the rows whose normals and albedo are decoded with skip
                connections. None: all.
            swaps (Swaps or None): pictures to decode again with one code of another picture. Adds
                `swapped_normal` and `swapped_face` (m, 3, S, S), the latter albedo times shading.
        """
        codes, kept = self.encode(image)
        output = {
            **codes,
            **self._regress_thumbnail(codes),
            **self.decode(codes, kept.restrict(fits), frontal=frontal),
        }
        return output if swaps is None else output | self._decode_swapped(codes, kept, swaps)

    def _decode_swapped(
        self, codes: Mapping[str, Tensor], kept: Kept, swaps: Swaps
    ) -> dict[str, Tensor]:
        if not len(swaps.rows):
            nothing = codes["z_l"].new_zeros(0, *self.frontal_stream.shape)
            return {"swapped_normal": nothing, "swapped_face": nothing}
        exchanged = swaps.exchange(codes)
        fitting = kept.choose(swaps.rows).restrict(swaps.still)
        normal, albedo = self.decode_surface(exchanged, fitting)
        light = self.light(exchanged["z_l"])
        face = albedo * harmonics.shading(normal.float(), light.float())
        return {"swapped_normal": normal, "swapped_face": face}


class PlainAutoencoder(nn.Module):
    """An adversarial auto-encoder [23] with one code `z_0`, trained towards a normal distribution.

    Encoder and decoder are those of `FaceAutoencoder`.

    Args:
        configuration (ModelConfiguration): `z_0` has `k_i` entries.

    Example:
        >>> import torch
        >>> from ntensor.faces.configuration import ModelConfiguration
        >>> from ntensor.faces.networks.model import PlainAutoencoder
        >>> model = PlainAutoencoder(ModelConfiguration(network="plain", channels=(8, 8, 8)))
        >>> sorted(model(torch.rand(2, 3, 64, 64)))
        ['image', 'z_0', 'z_i']
    """

    def __init__(self, configuration: ModelConfiguration) -> None:
        super().__init__()
        c = configuration
        self.configuration = c
        sizes = (c.image_size, c.channels, c.kernel_size)
        self.encoder = Encoder(
            {"z_0": c.k_i}, *sizes, c.k_i, c.bottleneck, False, c.depth, False, c.normalise_input
        )
        self.decoder = Decoder(c.k_i, 3, *sizes, start=0.5, subpixel=c.subpixel)
        self.statistics = Statistics(list_target_extents(c))

    def encode(self, image: Tensor) -> tuple[dict[str, Tensor], Kept]:
        codes, kept = self.encoder(image)
        return codes, kept

    def decode(self, codes: Mapping[str, Tensor], kept: Kept = NOTHING) -> dict[str, Tensor]:
        return {"image": self.decoder(codes["z_0"])}

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """`image` and `z_0`."""
        codes, kept = self.encode(image)
        return {**codes, **self.decode(codes, kept)}


def list_target_extents(configuration: ModelConfiguration) -> dict[str, int]:
    """Extents of the data's vectors that the network predicts, by name."""
    return {name: getattr(configuration, entry) for name, entry in configuration.targets.items()}


Model = FaceAutoencoder | PlainAutoencoder | ProofOfConcept


def build(configuration: ModelConfiguration) -> Model:
    """Builds the network of a configuration, with random weights.

    Raises:
        ConfigurationError: an extent is 0, which stands for the extent of the data.
    """
    extents = list_target_extents(configuration)
    unknown = [name for name, size in extents.items() if size < 1]
    if unknown:
        raise ConfigurationError(
            f"build: the extents of {', '.join(unknown)} are 0, which stands for the data's; "
            "see configuration.fit_to_data"
        )
    networks: dict[str, type[Model]] = {
        "neuro-tensorial": FaceAutoencoder,
        "intrinsic": FaceAutoencoder,
        "plain": PlainAutoencoder,
        "proof-of-concept": ProofOfConcept,
    }
    return networks[configuration.network](configuration)
