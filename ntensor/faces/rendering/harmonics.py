r"""Spherical-harmonics lighting of order 2, as used in the network after reference [30].

The light of one colour channel is `L_1 ... L_9`. The shading of a unit normal `(x, y, z)` is

.. math:: S(n) = \max\Big(0, \sum_{j=1}^{9} L_j \, b_j(n)\Big)

with, in this order (`ORDER`),

====================  ===============================================
`b_1`                 `c4`
`b_2, b_3, b_4`       `2 c2 y`, `2 c2 z`, `2 c2 x`
`b_5, b_6`            `2 c1 x y`, `2 c1 y z`
`b_7`                 `c5 (3 z^2 - 1)`
`b_8, b_9`            `2 c1 x z`, `c1 (x^2 - y^2)`
====================  ===============================================

`c1 = sqrt(15 pi)/16 = 0.429043`, `c2 = sqrt(3 pi)/6 = 0.511664`, `c4 = sqrt(pi)/2 = 0.886227`,
`c5 = sqrt(5 pi)/16 = 0.247708`. This is the form `(n, 1)^T M(L) (n, 1)` of Ramamoorthi and Hanrahan
(2001) with `c3 = 3 c5 = 0.743125`. The basis functions are harmonics times the attenuation
`pi (1, 2/3, 1/4)` of a Lambertian surface, so `L` are the coefficients of the incoming light.

Normals: x right in the image, y up, z towards the camera.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

ORDER = "1,y,z,x,xy,yz,3z2-1,xz,x2-y2"
SFSNET_ORDER = "1,z,x,y,3z2-1,xz,yz,x2-y2,xy"

C1 = math.sqrt(15 * math.pi) / 16
C2 = math.sqrt(3 * math.pi) / 6
C4 = math.sqrt(math.pi) / 2
C5 = math.sqrt(5 * math.pi) / 16

_TO_SFSNET = [ORDER.split(",").index(name) for name in SFSNET_ORDER.split(",")]
_FROM_SFSNET = [SFSNET_ORDER.split(",").index(name) for name in ORDER.split(",")]


def _check_normals(operation: str, normals: Tensor) -> None:
    if normals.dim() < 2 or normals.shape[1] != 3:
        raise ValueError(
            f"{operation}: normals must have shape (n, 3, ...), got {tuple(normals.shape)}"
        )


def basis(normals: Tensor) -> Tensor:
    """The nine basis functions `b_1 ... b_9` of the module's table at unit normals.

    Args:
        normals (Tensor[n, 3, ...]): unit vectors.

    Returns:
        Tensor[n, 9, ...]

    Raises:
        ValueError: the second dimension is not 3.

    Example:
        >>> import torch
        >>> from ntensor.faces.rendering import harmonics
        >>> [round(b, 3) for b in harmonics.basis(torch.tensor([[0.0, 0.0, 1.0]]))[0].tolist()]
        [0.886, 0.0, 1.023, 0.0, 0.0, 0.0, 0.495, 0.0, 0.0]
    """
    _check_normals("basis", normals)
    x, y, z = normals.unbind(1)
    return torch.stack(
        [
            torch.full_like(x, C4),
            2 * C2 * y,
            2 * C2 * z,
            2 * C2 * x,
            2 * C1 * x * y,
            2 * C1 * y * z,
            C5 * (3 * z * z - 1),
            2 * C1 * x * z,
            C1 * (x * x - y * y),
        ],
        dim=1,
    )


def shading(normals: Tensor, light: Tensor, rectify: bool = True) -> Tensor:
    """Shading of a normal map by the module's formula, per colour channel. Differentiable.

    Args:
        normals (Tensor[n, 3, ...]): unit vectors, usually `(n, 3, height, width)`.
        light (Tensor[n, 3, 9]): coefficients of red, green and blue in the order `ORDER`.
        rectify (bool): clamp negative values to 0, as in the formula. Default: True.

    Returns:
        Tensor[n, 3, ...]: not bounded above; the image is `clamp(albedo * shading, 0, 1)`.

    Raises:
        ValueError: wrong shape.

    Example:
        >>> import torch
        >>> from ntensor.faces.rendering import harmonics
        >>> normals = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(1, 3, 64, 64)
        >>> light = harmonics.directional(torch.tensor([[0.0, 0.0, 1.0]]), torch.ones(1, 3))
        >>> harmonics.shading(normals, light).shape
        torch.Size([1, 3, 64, 64])
    """
    _check_normals("shading", normals)
    if light.shape != (normals.shape[0], 3, 9):
        raise ValueError(
            f"shading: light must have shape ({normals.shape[0]}, 3, 9) for normals of shape "
            f"{tuple(normals.shape)}, got {tuple(light.shape)}"
        )
    values = torch.einsum("ncj,nj...->nc...", light, basis(normals))
    return values.relu() if rectify else values


def ambient(colour: Tensor) -> Tensor:
    """Light that shades every normal with `colour`.

    Args:
        colour (Tensor[n, 3]): red, green, blue.

    Returns:
        Tensor[n, 3, 9]

    Example:
        >>> import torch
        >>> from ntensor.faces.rendering import harmonics
        >>> light = harmonics.ambient(torch.full((1, 3), 0.5))
        >>> up = torch.tensor([[0.0, 1.0, 0.0]])
        >>> harmonics.shading(up, light).tolist()
        [[0.5, 0.5, 0.5]]
    """
    light = colour.new_zeros(*colour.shape, 9)
    light[..., 0] = colour / C4
    return light


def directional(direction: Tensor, colour: Tensor) -> Tensor:
    """A distant lamp, projected onto the harmonics of order 2.

    The shading approximates `colour * max(0, n . direction)`. It is 1.07 times `colour` where the
    normal faces the lamp. Far from there it has small negative values, which `shading` clamps.

    Args:
        direction (Tensor[n, 3]): unit vectors from the face to the lamp. For azimuth `A` and
            elevation `E` this is `(-sin A cos E, sin E, cos A cos E)`, see `direction_of`.
        colour (Tensor[n, 3]): red, green, blue.

    Returns:
        Tensor[n, 3, 9]

    Example:
        >>> import torch
        >>> from ntensor.faces.rendering import harmonics
        >>> left = harmonics.direction_of(torch.tensor([60.0]), torch.tensor([0.0]))
        >>> harmonics.directional(left, torch.ones(1, 3)).shape
        torch.Size([1, 3, 9])
    """
    # A lamp's coefficients are the harmonics at its direction; `basis` returns them attenuated.
    attenuation = direction.new_tensor([math.pi] + [2 * math.pi / 3] * 3 + [math.pi / 4] * 5)
    harmonic = basis(direction) / attenuation
    return colour.unsqueeze(2) * harmonic.unsqueeze(1)


def direction_of(azimuth: Tensor, elevation: Tensor) -> Tensor:
    """Unit vector to a lamp: `(-sin A cos E, sin E, cos A cos E)`.

    A positive azimuth means a lamp on the LEFT of the image (`x < 0`), a positive elevation one
    above.

    Args:
        azimuth, elevation (Tensor[...]): degrees.

    Returns:
        Tensor[..., 3]

    Example:
        >>> import torch
        >>> from ntensor.faces.rendering import harmonics
        >>> harmonics.direction_of(torch.tensor(0.0), torch.tensor(0.0)).tolist()
        [-0.0, 0.0, 1.0]
    """
    a, e = torch.deg2rad(azimuth), torch.deg2rad(elevation)
    return torch.stack([-a.sin() * e.cos(), e.sin(), a.cos() * e.cos()], dim=-1)


def to_sfsnet(light: Tensor) -> Tensor:
    """Converts light to the 27 numbers of SfSNet: red, green, blue, each in `SFSNET_ORDER`.

    SfSNet's basis includes the attenuation `pi (1, 2/3, 1/4)`, as `basis` does, so the conversion
    is a permutation. Its shading pictures are 200/255 of the value.

    Args:
        light (Tensor[n, 3, 9]): in the order `ORDER`.

    Returns:
        Tensor[n, 27]

    Raises:
        ValueError: wrong shape.
    """
    if light.dim() != 3 or light.shape[1:] != (3, 9):
        raise ValueError(f"to_sfsnet: light must have shape (n, 3, 9), got {tuple(light.shape)}")
    return light[:, :, _TO_SFSNET].flatten(1)


def from_sfsnet(light: Tensor) -> Tensor:
    """Converts SfSNet's light to the order `ORDER`; the inverse of `to_sfsnet`.

    Args:
        light (Tensor[n, 27]): red, green, blue, each in `SFSNET_ORDER`.

    Returns:
        Tensor[n, 3, 9]

    Raises:
        ValueError: wrong shape.

    Example:
        >>> import torch
        >>> from ntensor.faces.rendering import harmonics
        >>> light = torch.randn(2, 3, 9)
        >>> torch.equal(harmonics.from_sfsnet(harmonics.to_sfsnet(light)), light)
        True
    """
    if light.dim() != 2 or light.shape[1] != 27:
        raise ValueError(f"from_sfsnet: light must have shape (n, 27), got {tuple(light.shape)}")
    return light.unflatten(1, (3, 9))[:, :, _FROM_SFSNET]
