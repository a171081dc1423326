"""Edits that preserve what the network does not reproduce of a picture."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

# Sides of the averaging windows for changes and errors, relative to the picture's side, and the
# weight of the error relative to the change. Chosen on validation persons.
_CHANGE, _ERROR, _DOUBT = 1 / 5, 1 / 9, 1.5


def keep_detail(edit: str, image: Tensor, reconstruction: Tensor, edited: Tensor) -> Tensor:
    """Transfers the change that an edit makes to the reconstruction to the picture itself: by
    `replace_changed` for an expression, which moves things, else by `add_detail`.

    Args:
        edit (str): a key of `editing.CODES`.
        image, reconstruction, edited (Tensor[n, 3, S, S])

    Returns:
        Tensor[n, 3, S, S]: 0 to 1.
    """
    way = replace_changed if edit == "expression" else add_detail
    return way(image, reconstruction, edited)


def add_detail(image: Tensor, reconstruction: Tensor, edited: Tensor) -> Tensor:
    r"""Adds the change that an edit makes to the reconstruction to the picture itself.

    .. math:: x + D(z^{edited}) - D(z)

    What the network does not reproduce (hair, marks, background detail) is kept. For edits in which
    nothing moves, such as a new light.

    Args:
        image, reconstruction, edited (Tensor[n, 3, S, S]): `x`, `D(z)`, `D(z^{edited})`.

    Returns:
        Tensor[n, 3, S, S]: cut to 0 to 1.
    """
    return (image + edited - reconstruction).clamp(0, 1)


def replace_changed(image: Tensor, reconstruction: Tensor, edited: Tensor) -> Tensor:
    r"""Decodes the changed regions of a picture, and keeps all others.

    .. math:: (1 - w) \, x + w \, (D(z^{edited}) + \overline{x - D(z)}), \qquad
              w = \frac{\overline{|D(z^{edited}) - D(z)|}}
                       {\overline{|D(z^{edited}) - D(z)|} + c \, \overline{|x - D(z)|}}

    with means :math:`\overline{\cdot}` over a neighbourhood. The change is trusted to the extent
    that it exceeds the network's error at the same place. Where it is trusted, things have moved,
    so the picture's own fine detail no longer belongs there and is dropped. An error common to the
    whole neighbourhood, such as its colour, is corrected.

    Args:
        image, reconstruction, edited (Tensor[n, 3, S, S]): `x`, `D(z)`, `D(z^{edited})`.

    Returns:
        Tensor[n, 3, S, S]: cut to 0 to 1.

    Example:
        >>> import torch
        >>> from ntensor.faces.editing import replace_changed
        >>> image, decoded = torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64)
        >>> torch.equal(replace_changed(image, decoded, decoded), image)
        True
    """
    error = image - reconstruction
    changed, wrong = (
        _average(part.norm(dim=1, keepdim=True), _CHANGE)
        for part in (edited - reconstruction, error)
    )
    believed = changed / (changed + _DOUBT * wrong).clamp_min(1e-6)
    decoded = edited + _average(error, _ERROR)
    return image.lerp(decoded, believed).clamp(0, 1)


def _average(maps: Tensor, part: float) -> Tensor:
    """Averages over a window twice, so that its weights taper off; `part` is the window's side
    relative to the maps'."""
    side = 2 * max(1, round(part * maps.shape[-1] / 2)) + 1
    for _ in range(2):
        maps = F.avg_pool2d(maps, side, 1, side // 2, count_include_pad=False)
    return maps
