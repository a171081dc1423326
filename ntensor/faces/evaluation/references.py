"""Estimates without a deep network, fitted to pictures of training identities."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import ntensor
from ntensor.faces.baselines import MultilinearModel, fit_multilinear
from ntensor.faces.common.errors import ConfigurationError
from ntensor.faces.common.ridge import fit_ridge

from .pictures import Pictures
from .settings import Evaluation

MODES = ("light", "expression", "identity")
# Principal components from which normals are regressed.
_COMPONENTS = 150


class Multilinear:
    r"""The multilinear model of pictures after [37], and normals from its codes.

    Its pictures have no background: it is given the true mask. The model does not know which of its
    factors is which. They are named so that linear regressions from them best explain light,
    expressions and identities of the training pictures. Normals are

    .. math:: n(x) = N_{(1)} (\tfrac{1}{k_l} 1 \otimes z_{exp} \otimes z_{id})

    as in equation 5, with a core `N` that is fitted to the true normals of the training pictures
    by ridge regression.

    Args:
        pictures (Pictures): of training identities.
        sizes (tuple of int): extents of the factors, meant for light, expression and identity.
    """

    def __init__(self, pictures: Pictures, sizes: tuple[int, ...]) -> None:
        wanted = math.prod(sizes)
        batch = pictures[slice(None)]
        x = mask_background(batch["image"], batch["mask"])
        if len(sizes) != len(MODES) or min(sizes) < 1 or wanted > min(x.shape):
            raise ConfigurationError(
                f"als must be three extents with a product of at most the {min(x.shape)} that "
                f"{len(x)} pictures of {x.shape[1]} values allow, got {tuple(sizes)}"
            )
        model: MultilinearModel = fit_multilinear(x, sizes)
        self.model = model.permute(_assign_modes(model.factors, batch))
        _, *factors = self.model.factors
        target = batch["normal"].flatten(1)
        self.core = fit_ridge(ntensor.synthesis(*self._shape_codes(factors)), target)

    def codes(self, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Light, expression and identity (n, k_m) of pictures."""
        return dict(zip(MODES, self.model.transform(mask_background(image, mask)), strict=True))

    def normals(self, codes: dict[str, Tensor], size: int) -> Tensor:
        """Normals (n, 3, S, S), unit."""
        features = ntensor.synthesis(*self._shape_codes([codes["expression"], codes["identity"]]))
        flat = F.pad(features, (0, 1), value=1) @ self.core
        return F.normalize(flat.unflatten(1, (3, size, size)), dim=1)

    def edit(self, image: Tensor, mask: Tensor, donor: dict[str, Tensor], mode: str) -> Tensor:
        """Pictures with one factor of other pictures; the background stays.

        Args:
            image (Tensor[n, 3, S, S]), mask (Tensor[n, 1, S, S])
            donor (dict): `image` and `mask` of the others.
            mode (str): of `MODES`.
        """
        own, other = mask_background(image, mask), mask_background(donor["image"], donor["mask"])
        edited = self.model.edit(own, other, MODES.index(mode)).view_as(image).clamp(0, 1)
        return mask * edited + (1 - mask) * image

    @staticmethod
    def _shape_codes(factors: Any) -> list[Tensor]:
        return [F.normalize(z, dim=1) for z in factors]


class References:
    """Mean image, mean face, principal components of pixels, and models fitted to training faces.

    Args:
        pictures (Pictures): of training identities, poses as in training.
        frontal (Pictures or None): the same with frontal poses.
        settings (Evaluation)
        dimensions (int): principal components that codes are compared with.
    """

    def __init__(
        self, pictures: Pictures, frontal: Pictures | None, settings: Evaluation, dimensions: int
    ) -> None:
        from sklearn.decomposition import PCA

        batch = pictures[slice(None)]
        image, normal, mask = batch["image"], batch["normal"], batch["mask"]
        self.image = image.mean(0, keepdim=True)
        self.normal = (normal.sum(0) / mask.sum(0).clamp_min(1)).unsqueeze(0)
        dimensions = min(max(dimensions, _COMPONENTS), len(image), image[0].numel())
        self.components = PCA(dimensions, svd_solver="randomized", random_state=0)
        projected = torch.from_numpy(self.components.fit_transform(image.flatten(1).numpy()))
        self.used = min(_COMPONENTS, dimensions, max(1, len(image) // 5))
        self.linear = fit_ridge(projected[:, : self.used], normal.flatten(1))
        self.unaligned = Multilinear(pictures, settings.als)
        self.frontal = None if frontal is None else Multilinear(frontal, settings.als)

    def project(self, images: Tensor) -> Tensor:
        """Principal components (n, dimensions) of images (n, 3, S, S)."""
        return torch.from_numpy(self.components.transform(images.flatten(1).numpy())).float()

    def make_constant(self) -> Tensor:
        """The normal that looks to the camera, everywhere (1, 3, S, S)."""
        forward = torch.zeros_like(self.normal)
        forward[:, 2] = 1
        return forward

    def regress_normals(self, projected: Tensor) -> Tensor:
        """Normals (n, 3, S, S) by linear regression from principal components."""
        features = F.pad(projected[:, : self.used], (0, 1), value=1)
        return F.normalize((features @ self.linear).unflatten(1, self.normal.shape[1:]), dim=1)


def mask_background(image: Tensor, mask: Tensor) -> Tensor:
    """Pictures without their background, as rows (n, 3 S S)."""
    return (image * mask).flatten(1)


def _assign_modes(factors: Sequence[Tensor], batch: Mapping[str, Tensor]) -> tuple[int, ...]:
    """The factor for each of `MODES`, by the shares of variance that linear regressions explain."""
    targets = [batch[name].flatten(1) for name in ("light", "exp_3dmm", "id_3dmm")]
    explained = []
    for z in factors:
        features = F.normalize(z, dim=1)
        row = []
        for target in targets:
            centred = target - target.mean(0)
            rest = centred - F.pad(features, (0, 1), value=1) @ fit_ridge(features, centred)
            total = centred.square().sum().clamp_min(torch.finfo(z.dtype).tiny)
            row.append(1 - float(rest.square().sum() / total))
        explained.append(row)
    return max(
        itertools.permutations(range(len(MODES))),
        key=lambda order: sum(explained[mode][place] for place, mode in enumerate(order)),
    )
