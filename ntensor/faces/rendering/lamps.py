"""Light beyond harmonics of order 2: a hard lamp with shadows and highlights."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from .wild import Layer, Layers

_STEPS = 22
# Height in pixels over which the edge of a shadow fades.
_SOFT = 1.2


@dataclasses.dataclass(frozen=True)
class HardLight:
    """A distant lamp that casts shadows, a weaker one that does not, and ambient light.

    Attributes:
        direction (Tensor[2, 3]): unit vectors to the lamps.
        colour (Tensor[2, 3]), ambient (Tensor[3]): red, green, blue.
        hardness (float): 0: only the harmonics' light; 1: only this light.
        gloss (float or Tensor[n, 1, 1, 1]), exponent (float): of the Blinn-Phong highlight.
    """

    direction: Tensor
    colour: Tensor
    ambient: Tensor
    hardness: float
    gloss: float | Tensor
    exponent: float


def cast_shadows(depth: Tensor, direction: Tensor) -> Tensor:
    """Visibility of the lamp, from a depth map.

    Args:
        depth (Tensor[1, 1, S, S]): towards the camera, pixels.
        direction (Tensor[3]): unit vector to the lamp.

    Returns:
        Tensor[1, 1, S, S]: 0 in shadow to 1 in light. Only surfaces visible to the camera cast
        shadows.
    """
    x, y, z = direction.tolist()
    across = (x * x + y * y) ** 0.5
    if across < 0.05:
        return torch.ones_like(depth)
    size = depth.shape[-1]
    # Growing steps, as far as the shadow of a nose or a fringe reaches.
    reach = (
        torch.linspace(0, 1, _STEPS + 1)[1:].square() * 0.35 * size
        + torch.arange(1, _STEPS + 1) * 0.3
    ).to(depth)
    # The nearest pixel in x and in y, (steps, S) each.
    places = torch.arange(size, device=depth.device)
    column, row = (
        (places + step[:, None]).round_().clamp_(0, size - 1).long()
        for step in (reach * (x / across), reach * (-y / across))
    )
    index = row[:, :, None] * size + column[:, None]
    seen = depth.flatten().index_select(0, index.flatten()).view(_STEPS, size, size)
    above = (seen - (reach * (z / across))[:, None, None]).amax(0) - depth
    # A small height is ignored, so that a surface does not shade its own surroundings.
    return 1 - ((above - 0.6) / _SOFT).clamp(0, 1)


def shade_hard(layer: Layer, lit: Tensor, light: HardLight, soft: Tensor) -> Tensor:
    """The colours (n, 3, S, S) of layers under a hard light.

    Args:
        layer (Layer): `n` layers.
        lit (Tensor[1, 1, S, S]): from `cast_shadows`.
        light (HardLight)
        soft (Tensor[n, 3, S, S]): the shading by harmonics.
    """
    half = light.direction[0] + light.direction.new_tensor([0.0, 0.0, 1.0])
    half = half / half.norm().clamp_min(1e-6)
    # The normal of a pixel without a surface is 0, and nothing shines there.
    directions = torch.cat([light.direction, half[None]])
    lamps = (directions @ layer.normal.flatten(2)).unflatten(2, lit.shape[2:]).clamp_min_(0)
    lamps[:, :1] *= lit
    hard = (light.colour.t() @ lamps[:, :2].flatten(2)).view_as(soft)
    hard += light.ambient.view(1, 3, 1, 1)
    shading = soft.lerp(hard, light.hardness)
    shine = lamps[:, 2:].pow_(light.exponent).mul_(lit)
    return layer.albedo * shading + light.gloss * shine * light.colour[0].view(1, 3, 1, 1)


def join(layers: Layers, colours: Tensor, background: Tensor) -> Tensor:
    """Composites the colours (2, 3, S, S) of face and props, and a background, by coverage."""
    covered = layers.both.covered
    joined = (covered * colours.clamp(0, 1)).sum(0, keepdim=True)
    return joined + (1 - covered.sum(0, keepdim=True)) * background
