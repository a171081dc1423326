"""A multilinear model of pictures by alternating least squares, after the paper's reference [37].

The algorithm is this project's; [37] is the reference for the problem that it solves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

import ntensor

# Limit on the power iterations for a picture's factors, and the relative change of the norm that
# ends them.
_POWER_STEPS = 50
_POWER_TOLERANCE = 1e-6
# A fit with a smaller relative error counts as exact and ends the search.
_EXACT = 1e-5
# Singular vectors kept for every two columns of the core, so that it can rotate among them.
_SURPLUS = 3


@dataclass(frozen=True)
class MultilinearModel:
    r"""Pictures as a core times the Kronecker product of factors, without labels.

    .. math:: x \approx \bar x + \mathcal{B}_{(1)} (z_1 \otimes \dots \otimes z_M), \qquad
              \mathcal{B}_{(1)}^\top \mathcal{B}_{(1)} = I

    The form of equation 2 of the paper, whose factors are light, expression and identity. Only the
    product of a picture's factors is determined, so its factors are scaled to equal lengths. The
    signs of all but the first are chosen so that they point along the most common direction of the
    fitted pictures.

    Attributes:
        mean (Tensor[k_x])
        core (Tensor[k_x, k_1, ..., k_M]): contiguous.
        directions (tuple of Tensor[k_m]): unit vectors, the most common direction of each factor.
        factors (tuple of Tensor[n, k_m]): of the fitted pictures.
        errors (tuple of float): relative error `|X - model| / |X - mean|` after each sweep.

    Example:
        >>> import torch
        >>> from ntensor.faces.baselines import fit_multilinear
        >>> pictures = torch.rand(50, 192)
        >>> model = fit_multilinear(pictures, (2, 3, 4))
        >>> light, expression, identity = model.transform(pictures[:2])
        >>> model.reconstruct(light, expression.flip(0), identity).shape
        torch.Size([2, 192])
    """

    mean: Tensor
    core: Tensor
    directions: tuple[Tensor, ...]
    factors: tuple[Tensor, ...]
    errors: tuple[float, ...]

    def transform(self, x: Tensor) -> tuple[Tensor, ...]:
        """Computes the factors of pictures, fitted or new.

        Args:
            x (Tensor[n, k_x])

        Returns:
            tuple of Tensor[n, k_m]

        Raises:
            ValueError: wrong shape.
        """
        _check(x, self.core.shape[0])
        coefficients = (x - self.mean) @ self.core.flatten(1)
        factors = fit_rank_one(coefficients.unflatten(1, self.core.shape[1:]))
        return orient(factors, self.directions)

    def reconstruct(self, *factors: Tensor) -> Tensor:
        """Pictures (Tensor[n, k_x]) from factors (Tensor[n, k_m]), even of different pictures."""
        return self.mean + ntensor.synthesis_projection(self.core, *factors)

    def edit(self, x: Tensor, donors: Tensor, mode: int) -> Tensor:
        """Pictures `x` with factor `mode` of `donors` (both Tensor[n, k_x]).

        The new factor is scaled to the length of the old one, since the common length of a
        picture's factors is its brightness.
        """
        own, other = list(self.transform(x)), self.transform(donors)[mode]
        own[mode] = F.normalize(other, dim=1) * own[mode].norm(dim=1, keepdim=True)
        return self.reconstruct(*own)

    def permute(self, order: Sequence[int]) -> MultilinearModel:
        """The same model with its factors in another order: new factor `m` is `order[m]`.

        Raises:
            ValueError: `order` is not a permutation of the factors.
        """
        if sorted(order) != list(range(len(self.factors))):
            raise ValueError(
                f"permute: order must be a permutation of {len(self.factors)} factors, got "
                f"{tuple(order)}"
            )
        core = self.core.permute(0, *(mode + 1 for mode in order)).contiguous()
        directions = tuple(self.directions[mode] for mode in order)
        factors = orient(tuple(self.factors[mode] for mode in order), directions)
        return replace(self, core=core, directions=directions, factors=factors)


def fit_multilinear(
    x: Tensor,
    sizes: Sequence[int],
    *,
    center: bool = False,
    sweeps: int = 40,
    tolerance: float = 1e-4,
    starts: int = 1,
    seed: int = 0,
) -> MultilinearModel:
    r"""Fits a `MultilinearModel` by alternating least squares.

    It minimises `|X - X_mean - Z B^T|` over the orthonormal core `B` and the factors in
    `Z = Z_1 kr ... kr Z_M`. It starts from the leading singular vectors of `X` and the best
    rank-one approximation of every picture's coefficients. A sweep updates

    1. each factor in turn, by contracting the coefficients `B^T x` with the other factors,
       :math:`z_m \leftarrow \mathrm{mttkrp}(\mathcal{B}, x, z_{j \neq m})`, which is one step of
       the higher-order power iteration for the best rank-one approximation;
    2. the core by Procrustes: the polar factor of `X^T Z`, which is the gradient of
       `ntensor.synthesis_projection` with respect to its core.

    A sweep forms neither `Z` nor the coefficients, and no step increases the error. The error has
    local minima, even if an exact model exists, so the best of several starts is kept. All starts
    but the first rotate the singular vectors at random.

    Args:
        x (Tensor[n, k_x]): pictures as rows; float32 or float64.
        sizes (sequence of int): `k_1, ..., k_M`, whose product is at most `n` and `k_x`.
        center (bool): subtract the mean picture; otherwise the mean is 0.
        sweeps (int): limit on the sweeps.
        tolerance (float): relative change of the error that ends the fit.
        starts (int): limit on the starts; an exact fit ends the search.
        seed (int): of the random starts.

    Returns:
        MultilinearModel

    Raises:
        ValueError: `x` is not a matrix, a size is not positive, or the product of the sizes is too
            large.
    """
    if x.dim() != 2:
        raise ValueError(f"fit_multilinear: x must have shape (n, k_x), got {tuple(x.shape)}")
    columns = math.prod(sizes)
    if not sizes or min(sizes) < 1 or columns > min(x.shape):
        raise ValueError(
            "fit_multilinear: sizes must be positive with a product of at most n and k_x, got "
            f"{tuple(sizes)} for x of shape {tuple(x.shape)}"
        )
    mean = x.mean(0) if center else torch.zeros_like(x[0])
    centred = x - mean
    scale = centred.norm().clamp_min(torch.finfo(x.dtype).tiny)
    basis, reduced = _reduce(centred, columns)
    lost = (scale.square() - reduced.square().sum()).clamp_min(0)
    generator = torch.Generator().manual_seed(seed)
    best: tuple[Tensor, list[Tensor], list[float]] | None = None
    for start in range(max(1, starts)):
        turn = torch.eye(columns, dtype=x.dtype)
        if start:
            turn = torch.linalg.qr(torch.randn(columns, columns, generator=generator))[0].to(
                x.dtype
            )
        core = F.pad(turn, (0, 0, 0, len(basis) - columns)).to(x.device).unflatten(1, tuple(sizes))
        fit = _alternate(core, reduced, float(lost), float(scale), sweeps, tolerance)
        if best is None or fit[2][-1] < best[2][-1]:
            best = fit
        if best[2][-1] < _EXACT:
            break
    assert best is not None
    core, factors, errors = best
    core = (basis.T @ core.flatten(1)).unflatten(1, tuple(sizes)).contiguous()
    directions = tuple(_find_commonest(z) for z in factors)
    return MultilinearModel(
        mean, core, directions, orient(tuple(factors), directions), tuple(errors)
    )


def _alternate(
    core: Tensor, x: Tensor, lost: float, scale: float, sweeps: int, tolerance: float
) -> tuple[Tensor, list[Tensor], list[float]]:
    """Core, factors and errors from one start; `lost` is the squared norm that `x` lacks."""
    factors = list(fit_rank_one((x @ core.flatten(1)).unflatten(1, core.shape[1:])))
    errors: list[float] = []
    for _ in range(max(1, sweeps)):
        core = _procrustes(core, factors, x)
        for mode in range(len(factors)):
            factors[mode] = _contract(core, x, factors, mode)
        rest = float((x - ntensor.synthesis_projection(core, *factors)).square().sum())
        errors.append(math.sqrt(rest + lost) / scale)
        if len(errors) > 1 and errors[-2] - errors[-1] < tolerance * errors[-2]:
            break
    return core, factors, errors


def fit_rank_one(tensors: Tensor) -> tuple[Tensor, ...]:
    """The best approximation of each tensor by an outer product.

    Starts from the leading left singular vector of every unfolding, then applies the higher-order
    power iteration.

    Args:
        tensors (Tensor[n, k_1, ..., k_M])

    Returns:
        tuple of Tensor[n, k_m]: all of a tensor's factors have the same length.
    """
    order = tensors.dim() - 1
    factors = []
    for mode in range(order):
        unfolded = tensors.movedim(mode + 1, 1).flatten(2)
        _, vectors = torch.linalg.eigh(unfolded @ unfolded.mT)
        factors.append(vectors[:, :, -1])
    length = tensors.new_zeros(len(tensors))
    for _ in range(_POWER_STEPS):
        before = length
        for mode in range(order):
            rest = _multiply(tensors, factors, mode)
            length = rest.norm(dim=1)
            factors[mode] = F.normalize(rest, dim=1)
        if bool(((length - before).abs() <= _POWER_TOLERANCE * length).all()):
            break
    root = length.pow(1 / order).unsqueeze(1)
    return tuple(root * z for z in factors)


def orient(factors: tuple[Tensor, ...], directions: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Scales a picture's factors to equal lengths, and flips all but the first to point along the
    directions; their product is unchanged."""
    lengths = [z.norm(dim=1, keepdim=True) for z in factors]
    root = math.prod(lengths[1:], start=lengths[0]).pow(1 / len(factors))
    sign = torch.ones_like(root)
    turned = []
    for z, direction in zip(factors[1:], directions[1:], strict=True):
        own = torch.where((z @ direction).unsqueeze(1) < 0, -1.0, 1.0).to(z.dtype)
        sign = sign * own
        turned.append(own * root * F.normalize(z, dim=1))
    return (sign * root * F.normalize(factors[0], dim=1), *turned)


def _multiply(tensors: Tensor, factors: Sequence[Tensor], mode: int) -> Tensor:
    """Every tensor times its factors along all modes but one (n, k_mode)."""
    rest = tensors.movedim(mode + 1, 1)
    for other in reversed(range(len(factors))):
        if other != mode:
            rest = (rest * factors[other].view(len(rest), *[1] * (rest.dim() - 2), -1)).sum(-1)
    return rest


def _contract(core: Tensor, x: Tensor, factors: Sequence[Tensor], mode: int) -> Tensor:
    """The factor that is best for an orthonormal core and the other factors (n, k_mode)."""
    others: list[Tensor | None] = [x.T, *(z.T for z in factors)]
    others[mode + 1] = None
    weights = x.new_ones(len(x))
    for place, z in enumerate(factors):
        if place != mode:
            weights = weights / z.square().sum(1).clamp_min(torch.finfo(x.dtype).tiny)
    return ntensor.mttkrp(core, others, mode + 1, weights).T


def _procrustes(core: Tensor, factors: Sequence[Tensor], x: Tensor) -> Tensor:
    """The orthonormal core that is best for the factors."""
    core = core.detach().contiguous().requires_grad_()
    with torch.enable_grad():
        (product,) = torch.autograd.grad(ntensor.synthesis_projection(core, *factors), core, x)
    u, _, v = torch.linalg.svd(product.flatten(1), full_matrices=False)
    return (u @ v).contiguous().view_as(core)


def _reduce(x: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """Leading right singular vectors of `x` (r, k_x), and `x` in them (n, r); r >= columns."""
    n, extent = x.shape
    gram = (x @ x.T if n <= extent else x.T @ x).double()
    values, vectors = torch.linalg.eigh(gram)
    rank = int((values > 1e-10 * values[-1]).sum())
    kept = vectors.flip(1)[:, : max(columns, min(rank, _SURPLUS * columns // 2))].to(x.dtype)
    basis = torch.linalg.qr(x.T @ kept)[0].T if n <= extent else kept.T
    return basis, x @ basis.T


def _find_commonest(z: Tensor) -> Tensor:
    """Leading eigenvector of the second moments of the rows' directions."""
    unit = F.normalize(z, dim=1)
    _, vectors = torch.linalg.eigh(unit.T @ unit)
    return vectors[:, -1]


def _check(x: Tensor, extent: int) -> None:
    if x.dim() != 2 or x.shape[1] != extent:
        raise ValueError(f"transform: x must have shape (n, {extent}), got {tuple(x.shape)}")
