"""The three streams of section 3.5, which combine codes multilinearly, and the light."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import ntensor
from ntensor.faces.rendering import harmonics

from . import initialisation


class Stream(nn.Module):
    r"""A multilinear projection whose core may have a factored output mode.

    .. math:: \mathcal{C} = \mathcal{G} \times_1 U

    with `G` of extent `rank` in its output mode. This has a fraction of the parameters and of the
    update time of a full core; its outputs lie in `rank` dimensions.

    Args:
        factor_sizes (tuple of int): as in `ntensor.nn.MultilinearProjection`.
        out_features (int): `k_x`.
        rank (int): 0: a full core.
        accumulate_core_grad, device, dtype: as in `ntensor.nn.MultilinearProjection`.
    """

    def __init__(
        self,
        factor_sizes: tuple[int, ...],
        out_features: int,
        rank: int = 0,
        accumulate_core_grad: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.projection = ntensor.nn.MultilinearProjection(
            factor_sizes, rank or out_features, accumulate_core_grad, device, dtype
        )
        self.basis: nn.Module = nn.Identity()
        if rank:
            self.basis = nn.Linear(rank, out_features, bias=False, device=device, dtype=dtype)
            initialisation.keep_variance(self.basis, 1.0)


class ShapeStream(Stream):
    r"""Stream 1: 2-way synthesis and projection to the facial shape (eq. 4).

    .. math:: x_{3d} = B_{(1)} (z_{exp} \otimes z_{id})

    Args:
        k_3d, k_exp, k_id (int): extents of the core; `28125, 15, 80` in the paper.
        rank (int): as in `Stream`.
        accumulate_core_grad (bool): as in `ntensor.nn.MultilinearProjection`.
        device, dtype: of the core.
    """

    def __init__(
        self,
        k_3d: int,
        k_exp: int,
        k_id: int,
        rank: int = 0,
        accumulate_core_grad: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__((k_exp, k_id), k_3d, rank, accumulate_core_grad, device, dtype)

    def forward(self, z_exp: Tensor, z_id: Tensor) -> Tensor:
        """Tensor[n, k_3d]: the standardised shape of `z_exp` (n, k_exp) and `z_id` (n, k_id)."""
        shape: Tensor = self.basis(self.projection(z_exp, z_id))
        return shape


class RotatedFeature(nn.Module):
    """First half of stream 2: 2-way synthesis, rotated by the pose (section 3.4).

    Args:
        layout (str): `"column"` or `"row"`, as in `ntensor.rotation`; `"off"`: no rotation.
    """

    def __init__(self, layout: str) -> None:
        super().__init__()
        self.layout = layout

    def forward(self, z_exp: Tensor, z_id: Tensor, z_p: Tensor | None = None) -> Tensor:
        """Tensor[n, k_exp k_id]; `z_p` (n, 9) is the rotation matrix in row-major order."""
        if self.layout == "off":
            return ntensor.synthesis(z_exp, z_id)
        if z_p is None:
            raise ValueError("RotatedFeature: a rotation needs z_p, got None")
        return ntensor.rotated_synthesis(z_exp, z_id, z_p.unflatten(1, (3, 3)), self.layout)

    def extra_repr(self) -> str:
        return f"layout={self.layout!r}"


class FrontalStream(Stream):
    r"""Stream 3: 3-way synthesis and projection to the frontal image (eq. 2) and its normals (5).

    .. math:: x_f = Q_{(1)} (z_l \otimes z_{exp} \otimes z_{id}), \qquad
              n_f = Q_{(1)} (\tfrac{1}{k_l} 1 \otimes z_{exp} \otimes z_{id})

    Both come from one pass over the core.

    Args:
        image_size (int): `S`; the core has `3 S S` rows.
        k_l, k_exp, k_id (int): extents of the codes.
        rank (int): as in `Stream`.
        accumulate_core_grad (bool): as in `ntensor.nn.MultilinearProjection`.
        device, dtype: of the core.
    """

    def __init__(
        self,
        image_size: int,
        k_l: int,
        k_exp: int,
        k_id: int,
        rank: int = 0,
        accumulate_core_grad: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        factors, pixels = (k_l, k_exp, k_id), 3 * image_size**2
        super().__init__(factors, pixels, rank, accumulate_core_grad, device, dtype)
        self.shape = (3, image_size, image_size)

    def to_map(self, projected: Tensor) -> Tensor:
        """Reshapes outputs of the core to maps (Tensor[n, 3, S, S])."""
        pixels: Tensor = self.basis(projected)
        return pixels.unflatten(1, self.shape)

    def forward(self, z_l: Tensor, z_exp: Tensor, z_id: Tensor) -> tuple[Tensor, Tensor]:
        """Frontal image and frontal normals, each Tensor[n, 3, S, S]."""
        image, normal = self.projection(z_l, z_exp, z_id, mean=True)
        return self.to_map(image), self.to_map(normal)


class Light(nn.Module):
    """Maps `z_l` to spherical harmonics of three colours, in the order of `harmonics.ORDER`.

    It is initialised to white ambient light that shades every normal by `START`.

    Args:
        k_l (int): extent of `z_l`.
    """

    START = 0.75

    def __init__(self, k_l: int) -> None:
        super().__init__()
        self.linear = nn.Linear(k_l, 27)
        if self.linear.weight.is_meta:
            return  # no values to set; see `initialisation.keep_variance`
        with torch.no_grad():
            white = harmonics.ambient(torch.full((1, 3), self.START))
            self.linear.weight.mul_(0.1)
            self.linear.bias.copy_(white.flatten())

    def forward(self, z_l: Tensor) -> Tensor:
        """Tensor[n, 3, 9]."""
        light: Tensor = self.linear(z_l)
        return light.unflatten(1, (3, 9))
