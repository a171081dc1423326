"""The codes of pictures, and decoding with some of them replaced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ntensor.faces.common.errors import ConfigurationError
from ntensor.faces.networks.kept import Kept
from ntensor.faces.networks.model import FaceAutoencoder, Model

# What can be edited, and the code that holds it.
CODES = {"expression": "z_exp", "pose": "z_p", "light": "z_l", "identity": "z_id"}

# If one of these codes is replaced, a picture's maps no longer fit its normals and albedo.
_OF_THE_MAPS = {"z_p", "z_id"}

Mask = Literal["code", "normals"]


@dataclass(frozen=True)
class Encoded:
    """The codes of `n` pictures, and what the decoders need of the pictures themselves.

    Attributes:
        codes (dict of Tensor[n, k]): `z_exp`, `z_id` and so on; those that the network has.
        kept (Kept): for unpooling and skip connections; it belongs to the picture that provides
            mask and background.
    """

    codes: dict[str, Tensor]
    kept: Kept

    def __len__(self) -> int:
        return len(next(iter(self.codes.values())))

    def __getitem__(self, index: int | slice | Tensor) -> Encoded:
        """Some of the pictures; one number keeps the leading dimension."""
        rows = slice(index, index + 1 or None) if isinstance(index, int) else index
        codes = {name: code[rows] for name, code in self.codes.items()}
        return Encoded(codes, self.kept.choose(rows))

    def expand(self, n: int) -> Encoded:
        """Repeats one picture `n` times.

        Raises:
            ValueError: there is more than one.
        """
        if len(self) not in (1, n):
            raise ValueError(f"expand: expected one picture or {n}, got {len(self)}")
        codes = {name: code.expand(n, -1) for name, code in self.codes.items()}
        return Encoded(codes, self.kept.expand(n))

    def replace(self, codes: Mapping[str, Tensor], fits: Tensor | None = None) -> Encoded:
        """The same pictures with some codes replaced.

        Normals and albedo of another pose or identity are decoded without skip connections: the
        pictures' own maps show neither.

        Args:
            codes (mapping): Tensor[n, k] by name.
            fits (Tensor[n] or None): bool, the pictures that keep pose and identity; None: those
                for which both codes are unchanged.

        Raises:
            ValueError: a code that these pictures do not have, or one of the wrong shape.
        """
        for name, code in codes.items():
            if name not in self.codes:
                raise ValueError(f"replace: expected codes of {sorted(self.codes)}, got {name}")
            if code.shape != self.codes[name].shape:
                raise ValueError(
                    f"replace: {name} must have shape {tuple(self.codes[name].shape)}, "
                    f"got {tuple(code.shape)}"
                )
        kept = self.kept.restrict(fits)
        for name in _OF_THE_MAPS & codes.keys() if fits is None else ():
            kept = kept.restrict((codes[name] == self.codes[name]).all(1))
        return replace(self, codes={**self.codes, **codes}, kept=kept)


def require_codes(model: Model, *edits: str) -> None:
    """Checks that the network has the codes of these edits (keys of `CODES`).

    Raises:
        ConfigurationError: it lacks one.
    """
    has = [name for name in model.encoder.heads if isinstance(name, str)]
    for edit in edits:
        if CODES[edit] not in has:
            raise ConfigurationError(
                f"{edit} needs a network with the code {CODES[edit]}; the run's network "
                f'"{model.configuration.network}" has {", ".join(sorted(has))}'
            )


@torch.no_grad()
def encode(model: Model, images: Tensor) -> Encoded:
    """`E(x)` of eq. 6, 17 and 19.

    Args:
        model (Model): as returned by `load_run`.
        images (Tensor[n, 3, S, S]): 0 to 1, of the network's size.

    Returns:
        Encoded

    Raises:
        ValueError: wrong shape.

    Example:
        >>> import torch
        >>> from ntensor.faces.configuration import ModelConfiguration
        >>> from ntensor.faces.editing import encode
        >>> from ntensor.faces.networks.model import build
        >>> model = build(ModelConfiguration(channels=(8, 8, 8), k_3d=30))
        >>> encode(model, torch.rand(2, 3, 64, 64)).codes["z_exp"].shape
        torch.Size([2, 15])
    """
    size = model.configuration.image_size
    if images.dim() != 4 or images.shape[1:] != (3, size, size):
        raise ValueError(
            f"encode: images must have shape (n, 3, {size}, {size}), got {tuple(images.shape)}"
        )
    return Encoded(*model.encode(images))


@torch.no_grad()
def decode(
    model: Model, encoded: Encoded, streams: bool = True, mask: Mask = "code"
) -> dict[str, Tensor]:
    """`D(z)` of eq. 7, 18 and 20.

    Args:
        model (Model)
        encoded (Encoded): its codes may come from several pictures.
        streams (bool): also compute shape, frontal images and coefficients.
        mask (str): how face and background are composited. `"code"`: by the mask of `z_m`, as in
            eq. 7. `"normals"`: by the length of the decoded normals, which is near zero outside the
            face, so that the outline follows an edited pose or identity.

    Returns:
        dict: as the network's `decode`, with `frontal_image` clamped to 0 to 1.
    """
    if not isinstance(model, FaceAutoencoder):
        return model.decode(encoded.codes, encoded.kept)
    output = model.decode(encoded.codes, encoded.kept, streams)
    return compose(output, mask)


def compose(output: Mapping[str, Tensor], mask: Mask) -> dict[str, Tensor]:
    """Composites the output's `image` with another mask, and clamps the frontal image; see
    `decode`."""
    output = bound(output)
    if mask == "code":
        return output
    if mask != "normals":
        raise ValueError(f'decode: mask must be "code" or "normals", got {mask!r}')
    # Lengths between a third and two thirds are the soft edge.
    covered = (3 * output["normal"].norm(dim=1, keepdim=True) - 1).clamp(0, 1)
    face = output["albedo"] * output["shading"]
    image = covered * face + (1 - covered) * output["background"]
    return {**output, "mask": covered, "image": image}


def bound(output: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The output with `frontal_image`, if there is one, clamped to 0 to 1.

    Eq. 2 is unbounded: for pictures unlike those of training, its values can be arbitrary.
    """
    bounded = dict(output)
    if "frontal_image" in bounded:
        bounded["frontal_image"] = bounded["frontal_image"].clamp(0, 1)
    return bounded


def find_nearest_rotation(z_p: Tensor) -> Tensor:
    r"""The rotation nearest to `z_p` in the Frobenius norm, as a code.

    .. math:: R = U \, \mathrm{diag}(1, 1, \det(U V^T)) \, V^T, \qquad z_p = U S V^T

    The paper decodes `z_p` as it is; this is for codes that are mixed or extrapolated.

    Args:
        z_p (Tensor[n, 9]): in row-major order.

    Returns:
        Tensor[n, 9]

    Example:
        >>> import torch
        >>> from ntensor.faces.editing import find_nearest_rotation
        >>> find_nearest_rotation(2 * torch.eye(3).view(1, 9)).view(3, 3)
        tensor([[1., 0., 0.],
                [0., 1., 0.],
                [0., 0., 1.]])
    """
    u, _, v = torch.linalg.svd(z_p.unflatten(1, (3, 3)))
    sign = torch.linalg.det(u @ v).sign()
    last = F.pad(sign.unsqueeze(1), (2, 0), value=1.0)
    return (u * last.unsqueeze(1) @ v).flatten(1)
