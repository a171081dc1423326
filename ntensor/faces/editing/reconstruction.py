"""The 3D face, texture and normals that a picture's codes describe."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ntensor.faces.common.errors import ConfigurationError
from ntensor.faces.morphable.face_model import FaceModel
from ntensor.faces.networks.model import Model


def restore_vertices(model: Model, output: Mapping[str, Tensor]) -> Tensor:
    r"""The shape of stream 1, `\mathcal{B} \times_2 z_{exp} \times_3 z_{id}` (eq. 3), in its unit.

    Args:
        model (Model): its `statistics` undo the standardisation.
        output (mapping): from `decode`.

    Returns:
        Tensor[n, V_s, 3]: in the unit of the training shapes; millimetres, not posed, for the
        project's face models.

    Raises:
        ConfigurationError: the network has no shape stream.
    """
    _require_output(model, output, "shape", "a shape from the decoder")
    return model.statistics.restore("shape", output["shape"]).unflatten(1, (-1, 3))


def restore_coefficients(model: Model, output: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The coefficients of the morphable model predicted from the codes (sections 4.1.2 and 5.3).

    Args:
        model (Model)
        output (mapping): from `decode`.

    Returns:
        `x_id` (Tensor[n, k_a]) and `x_exp` (Tensor[n, k_b]), not standardised.

    Raises:
        ConfigurationError: the network does not map its codes to coefficients.
    """
    for name in ("id_3dmm", "exp_3dmm"):
        _require_output(model, output, name, "coefficients of a face model")
    restore = model.statistics.restore
    return (
        restore("id_3dmm", output["id_3dmm"]),
        restore("exp_3dmm", output["exp_3dmm"]),
    )


def build_vertices(model: Model, output: Mapping[str, Tensor], face: FaceModel) -> Tensor:
    """The face model with the predicted coefficients in place of its own (section 5.3).

    Args:
        model (Model)
        output (mapping): from `decode`.
        face (FaceModel): the one that the network was trained with.

    Returns:
        Tensor[n, V, 3]: every vertex of `face`, millimetres, not posed, on the face's device.

    Raises:
        ConfigurationError: the face model has other numbers of coefficients.
    """
    x_id, x_exp = restore_coefficients(model, output)
    if (x_id.shape[1], x_exp.shape[1]) != (face.identity_size, face.expression_size):
        raise ConfigurationError(
            f"the network predicts {x_id.shape[1]} identity and {x_exp.shape[1]} expression "
            f"coefficients, the face model ({face.source}) has {face.identity_size} and "
            f"{face.expression_size}"
        )
    return face.vertices(x_id.to(face.mean), x_exp.to(face.mean))


def collect_frontal_maps(output: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Texture and normals of the unposed face, if the network has them.

    Args:
        output (mapping): from `decode`.

    Returns:
        dict: of `texture` (section 4.1.2, a proof-of-concept network), `frontal_image` (eq. 2) and
        `frontal_normal` (eq. 5, normalised where its length exceeds 0.5, else zero).
    """
    names = ("texture", "frontal_image", "frontal_normal")
    known = {name: output[name] for name in names if name in output}
    if "frontal_normal" in known:
        normal = known["frontal_normal"]
        length = normal.norm(dim=1, keepdim=True)
        known["frontal_normal"] = normal / length.clamp_min(1e-12) * (length > 0.5)
    return known


def measure_shape_error(shape: Tensor, truth: Tensor) -> Tensor:
    r"""Root of the mean squared distance of corresponding vertices, in their unit.

    .. math:: e = \sqrt{\frac{1}{V} \sum_v \| x_v - \hat x_v \|^2}

    There is no alignment: both are in the axes of the face model.

    Args:
        shape, truth (Tensor[n, V, 3])

    Returns:
        Tensor[n]

    Example:
        >>> import torch
        >>> from ntensor.faces.editing import measure_shape_error
        >>> truth = torch.tensor([[[3.0, 4.0, 0.0], [0.0, 0.0, 5.0]]])
        >>> measure_shape_error(torch.zeros(1, 2, 3), truth)
        tensor([5.])
    """
    if shape.shape != truth.shape:
        raise ValueError(
            "measure_shape_error: expected equal shapes, got "
            f"{tuple(shape.shape)} and {tuple(truth.shape)}"
        )
    return (shape - truth).square().sum(2).mean(1).sqrt()


def _require_output(model: Model, output: Mapping[str, Tensor], name: str, purpose: str) -> None:
    if name not in output:
        raise ConfigurationError(
            f'the network "{model.configuration.network}" does not provide {purpose}'
        )
