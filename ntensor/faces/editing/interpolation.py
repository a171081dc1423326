"""Faces between two faces."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ntensor.faces.networks.model import Model

from .codes import CODES, Encoded, Mask, decode, find_nearest_rotation, require_codes


def blend(
    first: Encoded,
    second: Encoded,
    weights: Mapping[str, float | Tensor],
    project: bool = False,
) -> Encoded:
    r"""The first face with some of its codes moved towards those of the second.

    .. math:: z = (1 - w) \, z^{first} + w \, z^{second}

    Mask, background and all codes that `weights` does not name are the first's.

    Args:
        first, second (Encoded): `n` faces each, or a single one.
        weights (mapping): `expression`, `pose`, `light`, `identity` to `w`, a number or
            Tensor[n]; 0 is the first face, 1 the second; other numbers extrapolate.
        project (bool): replace a mixed `z_p` by the nearest rotation.

    Returns:
        Encoded

    Raises:
        ValueError: an unknown name, or one that the network has no code for.

    Example:
        >>> import torch
        >>> from ntensor.faces.configuration import ModelConfiguration
        >>> from ntensor.faces.editing import blend, decode, encode
        >>> from ntensor.faces.networks.model import build
        >>> model = build(ModelConfiguration(channels=(8, 8, 8), k_3d=30))
        >>> faces = encode(model, torch.rand(2, 3, 64, 64))
        >>> half = blend(faces[0], faces[1], {"expression": 0.5, "pose": 1.0})
        >>> decode(model, half)["image"].shape
        torch.Size([1, 3, 64, 64])
    """
    unknown = [edit for edit in weights if CODES.get(edit) not in first.codes]
    if unknown:
        has = ", ".join(edit for edit, name in CODES.items() if name in first.codes)
        raise ValueError(f"blend: weights must be among {has}, got {', '.join(unknown)}")
    columns = [torch.as_tensor(w) for w in weights.values()]
    n = max([len(first), len(second), *(w.numel() for w in columns)])
    start, end = first.expand(n).codes, second.expand(n).codes
    mixed = {}
    fits = torch.ones(n, dtype=torch.bool, device=next(iter(start.values())).device)
    for edit, weight in zip(weights, columns, strict=True):
        name = CODES[edit]
        w = weight.to(start[name]).view(-1, 1)
        mixed[name] = torch.lerp(start[name], end[name], w.expand(n, 1))
        if edit in ("pose", "identity"):
            fits = fits & (w == 0).view(-1)
    if project and "z_p" in mixed:
        mixed["z_p"] = find_nearest_rotation(mixed["z_p"])
    return first.expand(n).replace(mixed, fits)


def interpolate(
    model: Model,
    first: Encoded,
    second: Encoded,
    edit: str,
    steps: int = 11,
    project: bool = False,
    mask: Mask = "code",
    streams: bool = True,
) -> dict[str, Tensor]:
    """Supplementary D: one code from the first face's to the second's, in equal steps.

    Args:
        model (Model)
        first, second (Encoded): one face each; background and all other codes are the first's.
        edit (str): `expression`, `identity` (the paper's two), `pose` or `light`.
        steps (int): pictures, both ends included; 11 are the paper's steps of 0.1.
        project (bool): for a pose, as in `blend`.
        mask (str), streams (bool): as in `decode`.

    Returns:
        dict: as `decode`, `n = steps`.

    Raises:
        ConfigurationError: the network has no such code.
        ValueError: fewer than two steps.
    """
    require_codes(model, edit)
    if steps < 2:
        raise ValueError(f"interpolate: steps must be at least 2, got {steps}")
    weights = torch.linspace(0, 1, steps)
    return decode(model, blend(first, second, {edit: weights}, project), streams, mask)
