"""Edits that warp the picture itself, by the face model with the network's coefficients."""

from __future__ import annotations

import torch
from torch import Tensor

from ntensor.faces.baselines import LandmarkFit, warp_by_flow
from ntensor.faces.common.errors import ConfigurationError
from ntensor.faces.morphable.face_model import FaceModel
from ntensor.faces.networks.model import Model

from .codes import Encoded, find_nearest_rotation, require_codes
from .reconstruction import restore_coefficients


@torch.no_grad()
def fit_by_network(model: Model, face: FaceModel, pictures: Encoded) -> LandmarkFit:
    """The face model with the coefficients and the rotation that the network predicts.

    Args:
        model (Model): with `z_p`, `z_id` and `z_exp`.
        face (FaceModel): the one whose coefficients the network has learnt.
        pictures (Encoded): aligned like the generated faces.

    Raises:
        ConfigurationError: the network has no pose or coefficients, or the face model has other
            numbers of modes.
    """
    require_codes(model, "pose")
    vectors = model.regress(pictures.codes)  # type: ignore[operator]
    identity, weights = (x.float().cpu() for x in restore_coefficients(model, vectors))
    got = (identity.shape[1], weights.shape[1])
    wanted = (face.identity_size, face.expression_size)
    if got != wanted:
        raise ConfigurationError(
            f"the network has {got[0]} coefficients of identity and {got[1]} of expression, "
            f"the {face.source} has {wanted[0]} and {wanted[1]}"
        )
    rotation = find_nearest_rotation(pictures.codes["z_p"].float().cpu()).unflatten(1, (3, 3))
    n = len(identity)
    return LandmarkFit(identity, weights.clamp(0, 1), rotation, torch.ones(n), torch.zeros(n, 2))


def warp_expression(
    model: Model,
    face: FaceModel,
    image: Tensor,
    target: Encoded,
    source: Encoded,
) -> tuple[Tensor, Tensor, Tensor]:
    """Warps the targets' pictures as the face model moves to the sources' expressions.

    Every point of the surface keeps its colour, and what does not move is unchanged; see
    `baselines.warp_by_flow`. Nothing is decoded, so nothing is blurred.

    Args:
        model, face: as in `fit_by_network`.
        image (Tensor[n, 3, S, S]): the targets, 0 to 1.
        target, source (Encoded): of `n` faces each, or one of them a single face.

    Returns:
        (Tensor[n, 3, S, S], Tensor[n, 3, S, S], Tensor[n, 68, 2]): pictures, the face model's unit
        normals (0 outside), and its landmarks' movement in millimetres; on the CPU.

    Raises:
        ConfigurationError: see `fit_by_network`.
    """
    n = max(len(target), len(source))
    own, other = (fit_by_network(model, face, given.expand(n)) for given in (target, source))
    wanted = own.with_expression(other)
    picture, _, normal = warp_by_flow(face, image.float().cpu().expand(n, -1, -1, -1), own, wanted)
    return picture, normal, wanted.landmarks(face) - own.landmarks(face)
