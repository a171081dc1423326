"""One face with the expression, pose, light or identity of another."""

from __future__ import annotations

import torch
from torch import Tensor

from ntensor.faces.common.errors import ConfigurationError
from ntensor.faces.networks.model import FaceAutoencoder, Model
from ntensor.faces.rendering import harmonics

from .codes import CODES, Encoded, Mask, decode, find_nearest_rotation, require_codes
from .leak import follow_pose


def transfer_expression(
    model: Model, target: Encoded, source: Encoded, streams: bool = True
) -> dict[str, Tensor]:
    r"""The targets with the sources' expressions, eq. 18 and the first line of eq. 20.

    .. math:: D(z_{exp}^{source}, z_{id}^{target}, z_p^{target}) = x

    Args:
        model (Model): with `z_exp`.
        target, source (Encoded): `n` faces each, or one of them a single face.
        streams (bool): as in `decode`.

    Returns:
        dict: as `decode`.

    Raises:
        ConfigurationError: the network has no such code.

    Example:
        >>> import torch
        >>> from ntensor.faces.configuration import ModelConfiguration
        >>> from ntensor.faces.editing import encode, transfer_expression
        >>> from ntensor.faces.networks.model import build
        >>> model = build(ModelConfiguration(channels=(8, 8, 8), k_3d=30))
        >>> faces = encode(model, torch.rand(3, 3, 64, 64))
        >>> transfer_expression(model, faces[0], faces)["image"].shape
        torch.Size([3, 3, 64, 64])
    """
    return decode(model, swap_code(model, target, source, "expression"), streams)


def transfer_pose(
    model: Model,
    target: Encoded,
    source: Encoded,
    project: bool = False,
    mask: Mask = "code",
    streams: bool = True,
    leak: Tensor | None = None,
) -> dict[str, Tensor]:
    r"""The targets with the sources' poses, the second line of eq. 20.

    .. math:: D(z_{exp}^{target}, z_{id}^{target}, z_p^{source}) = x

    Args:
        model (Model): with `z_p`.
        target, source (Encoded): `n` faces each, or one of them a single face.
        project (bool): replace `z_p` by the nearest rotation.
        mask (str): as in `decode`. The target's mask (`"code"`) has the target's outline.
        streams (bool): as in `decode`.
        leak (Tensor[9, k_id] or None): from `fit_pose_leak`: `z_id` follows the pose. None: the
            paper's edit, which leaves `z_id` unchanged.

    Returns:
        dict: as `decode`.

    Raises:
        ConfigurationError: the network has no such code.
    """
    turned = swap_code(model, target, source, "pose")
    if project:
        turned = turned.replace({"z_p": find_nearest_rotation(turned.codes["z_p"])})
    turned = follow_pose(turned, target.expand(len(turned)).codes["z_p"], leak)
    return decode(model, turned, streams, mask)


def transfer_identity(
    model: Model,
    target: Encoded,
    source: Encoded,
    mask: Mask = "code",
    streams: bool = True,
    leak: Tensor | None = None,
) -> dict[str, Tensor]:
    """The targets with the sources' identities: `z_id` of the source, all other codes the target's.

    Args:
        model (Model): with `z_id`.
        target, source (Encoded): `n` faces each, or one of them a single face.
        mask (str), streams (bool): as in `decode`.
        leak (Tensor[9, k_id] or None): as in `transfer_pose`.

    Returns:
        dict: as `decode`.

    Raises:
        ConfigurationError: the network has no such code.
    """
    edited = swap_code(model, target, source, "identity")
    if leak is not None:
        edited = follow_pose(edited, source.expand(len(edited)).codes["z_p"], leak)
    return decode(model, edited, streams, mask)


@torch.no_grad()
def transfer_light(model: Model, target: Encoded, source: Encoded) -> dict[str, Tensor]:
    r"""The targets under the sources' lights, section 5.2.

    .. math:: s^{transfer} = S(\hat n^{target}, \hat l^{source}), \qquad
              x^{transfer} = m \, \hat a^{target} s^{transfer} + (1 - m) \, b

    with `S` of `ntensor.faces.rendering.harmonics` and the target's mask and background.

    Args:
        model (Model): the paper's network or the one after [30].
        target, source (Encoded): `n` faces each, or one of them a single face.

    Returns:
        dict: as `decode` of the targets without streams, but with the transferred `image`, `light`
        and `shading`; and `shading_source` (n, 3, S, S), `shading_target`.

    Raises:
        ConfigurationError: the network has no light.
    """
    require_codes(model, "light")
    if not isinstance(model, FaceAutoencoder):
        raise ConfigurationError(
            f'light needs a network with normals, got "{model.configuration.network}"'
        )
    n = max(len(target), len(source))
    given = decode(model, source, streams=False)
    own = decode(model, target, streams=False)
    own = {name: value.expand(n, *value.shape[1:]) for name, value in own.items()}
    lamp = given["light"].float().expand(n, -1, -1)
    transferred = harmonics.shading(own["normal"].float(), lamp)
    mask = own["mask"]
    return {
        **own,
        "image": mask * (own["albedo"] * transferred) + (1 - mask) * own["background"],
        "shading": transferred,
        "light": lamp,
        "shading_target": own["shading"],
        "shading_source": given["shading"].expand_as(transferred),
    }


def swap_code(model: Model, target: Encoded, source: Encoded, edit: str) -> Encoded:
    """The targets with one code (a key of `CODES`) of the sources."""
    require_codes(model, edit)
    n = max(len(target), len(source))
    name = CODES[edit]
    return target.expand(n).replace({name: source.expand(n).codes[name]})
