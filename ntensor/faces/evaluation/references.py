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
from ntensor.faces.datasets.records import get_input
from ntensor.faces.editing import find_nearest_rotation
from ntensor.faces.networks.statistics import Statistics

from .pictures import Pictures, find_known

MODES = ("light", "expression", "identity")
# Principal components from which normals are regressed.
_COMPONENTS = 150


class Multilinear:
    r"""The multilinear model of pictures after [37], and normals from its codes.

    Its pictures have no background: the true mask is given. The fit does not tell which factor is
    which, so they are named such that linear regressions from them best explain the light,
    expressions and identities of the training pictures. Normals are

    .. math:: n(x) = N_{(1)} (\tfrac{1}{k_l} 1 \otimes z_{exp} \otimes z_{id})

    as in equation 5. The core `N` is fitted to the true normals of the training pictures by ridge
    regression.

    Args:
        pictures (Pictures): of training identities.
        sizes (tuple of int): extents of the factors, intended for light, expression and identity.
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
        """Transfers one factor from other pictures; the background is kept.

        Args:
            image (Tensor[n, 3, S, S]), mask (Tensor[n, 1, S, S])
            donor (dict): `image` and `mask` of the other pictures.
            mode (str): one of `MODES`.
        """
        own, other = mask_background(image, mask), mask_background(donor["image"], donor["mask"])
        edited = self.model.edit(own, other, MODES.index(mode)).view_as(image).clamp(0, 1)
        return mask * edited + (1 - mask) * image

    @staticmethod
    def _shape_codes(factors: Any) -> list[Tensor]:
        return [F.normalize(z, dim=1) for z in factors]


class References:
    """Mean image, mean face, principal components of pixels, and models fitted to training faces.

    Components and regressions are computed from the pictures as a network sees them.

    Args:
        pictures (Pictures): of training identities.
        dimensions (int): number of principal components for comparison with codes.
        statistics (Statistics): of the training coefficients.

    Attributes:
        source (str): a description of the pictures.
    """

    def __init__(self, pictures: Pictures, dimensions: int, statistics: Statistics) -> None:
        self.source, self.statistics = f"{len(pictures)} pictures of {pictures.source}", statistics
        batch = pictures[slice(None)]
        image, normal, mask = batch["image"], batch["normal"], batch["mask"]
        self.image = image.mean(0, keepdim=True)
        self.normal = (normal.sum(0) / mask.sum(0).clamp_min(1)).unsqueeze(0)
        self.components, projected = fit_components(get_input(batch), max(dimensions, _COMPONENTS))
        self.used = min(_COMPONENTS, projected.shape[1], max(1, len(image) // 5))
        self.linear = self._regress(projected[:, : self.used], batch)

    def _regress(self, features: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        targets = {"normal": batch["normal"].flatten(1), "pose": batch["pose"].flatten(1)}
        for name in self.statistics.sizes:
            if name in batch:
                targets[name] = self.statistics.standardise(name, batch[name])
        weights = {}
        for name, target in targets.items():
            known = find_known(batch, name)
            if bool(known.any()) and target.numel():
                weights[name] = fit_ridge(features[known], target[known])
        return weights

    def project(self, images: Tensor) -> Tensor:
        """Principal components (n, dimensions) of images (n, 3, S, S)."""
        return torch.from_numpy(self.components.transform(images.flatten(1).numpy())).float()

    def estimate(self, projected: Tensor) -> dict[str, Tensor]:
        """Linear regression from principal components.

        Returns:
            dict: unit `normal` (n, 3, S, S); `pose` (n, 3, 3) and standardised coefficients, if
            the training pictures have them.
        """
        features = F.pad(projected[:, : self.used], (0, 1), value=1)
        found = {name: features @ weights for name, weights in self.linear.items()}
        found["normal"] = F.normalize(found["normal"].unflatten(1, self.normal.shape[1:]), dim=1)
        if "pose" in found:
            found["pose"] = find_nearest_rotation(found["pose"]).unflatten(1, (3, 3))
        return found


def fit_components(images: Tensor, count: int) -> tuple[Any, Tensor]:
    """Fits at most `count` principal components to images (n, 3, S, S).

    Returns scikit-learn's model, and the images' components (n, k).
    """
    from sklearn.decomposition import PCA

    count = min(count, len(images), images[0].numel())
    components = PCA(count, svd_solver="randomized", random_state=0)
    return components, torch.from_numpy(components.fit_transform(images.flatten(1).numpy()))


def mask_background(image: Tensor, mask: Tensor) -> Tensor:
    """Pictures without their background, as rows (n, 3 S S)."""
    return (image * mask).flatten(1)


def _assign_modes(factors: Sequence[Tensor], batch: Mapping[str, Tensor]) -> tuple[int, ...]:
    """The factor for each of `MODES`, by the variance that linear regressions explain."""
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
