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
        gloss (float), exponent (float): of the Blinn-Phong highlight.
    """

    direction: Tensor
    colour: Tensor
    ambient: Tensor
    hardness: float
    gloss: float
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
    )
    unit = torch.linspace(-1, 1, size + 1)[:-1] + 1 / size
    grid_y, grid_x = torch.meshgrid(unit, unit, indexing="ij")
    base = torch.stack([grid_x, grid_y], -1)
    steps = torch.stack([reach * x / across, -reach * y / across], 1) * (2 / size)
    places = base[None] + steps[:, None, None]  # (steps, S, S, 2)
    seen = torch.nn.functional.grid_sample(
        depth.expand(_STEPS, -1, -1, -1), places.to(depth), "nearest", "border", False
    )
    rise = (reach * z / across).view(-1, 1, 1, 1)
    above = (seen - depth - rise).amax(0, keepdim=True)
    # A small height is ignored, so that a surface does not shade its own surroundings.
    return 1 - ((above - 0.6) / _SOFT).clamp(0, 1)


def shade_hard(layer: Layer, lit: Tensor, light: HardLight, soft: Tensor) -> Tensor:
    """A layer's colours (1, 3, S, S) under a hard light.

    Args:
        layer (Layer)
        lit (Tensor[1, 1, S, S]): from `cast_shadows`.
        light (HardLight)
        soft (Tensor[1, 3, S, S]): the shading by harmonics.
    """
    normal = layer.normal
    lamps = torch.einsum("lc,ncyx->nlyx", light.direction, normal).clamp_min(0)
    lamps[:, :1] *= lit
    hard = torch.einsum("lc,nlyx->ncyx", light.colour, lamps) + light.ambient.view(1, 3, 1, 1)
    shading = soft.lerp(hard, light.hardness)
    half = light.direction[0] + light.direction.new_tensor([0.0, 0.0, 1.0])
    half = half / half.norm().clamp_min(1e-6)
    shine = torch.einsum("c,ncyx->nyx", half, normal).clamp_min(0)[:, None] ** light.exponent
    shine = shine * lit * (normal.abs().sum(1, keepdim=True) > 0)
    return layer.albedo * shading + light.gloss * shine * light.colour[0].view(1, 3, 1, 1)


def join(layers: Layers, face: Tensor, props: Tensor, background: Tensor) -> Tensor:
    """Composites the colours of face, props and background by their coverage."""
    a, b = layers.face.covered, layers.props.covered
    return a * face.clamp(0, 1) + b * props.clamp(0, 1) + (1 - a - b) * background
