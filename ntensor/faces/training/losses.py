r"""Every term of the paper's objective, as a function of tensors.

Conventions: batch first. A squared norm is a MEAN over pixels or coordinates and over the batch.
The paper's is a sum; the weights of `LossConfiguration` absorb the factor, and so keep their
meaning for any image size, number of vertices and batch size. A mask multiplies; the mean is still
over all pixels. Every term is a mean over samples, so averages over parts of a batch equal the
whole. The exceptions are `white_shading` and `pairs`, which use all samples of a part together.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# Temperature of the cosines in `pairs`.
TEMPERATURE = 0.1
# Weight of the normals in `swap`, relative to the squared error of colours.
SWAP_NORMAL = 0.2


def reconstruction(image: Tensor, target: Tensor) -> Tensor:
    r"""`E_recon = |x - x_hat|_2^2` of eq. 8.

    Args:
        image, target (Tensor[n, ...]): reconstruction and image.
    """
    return (image - target).square().mean()


def opponent(image: Tensor) -> Tensor:
    r"""Opponent colours: luminance minus 0.4, red minus green, yellow minus blue.

    Each is divided by its approximate standard deviation in pictures of faces: 0.2, 0.05, 0.05.

    Args:
        image (Tensor[n, 3, S, S]): RGB.

    Returns:
        Tensor[n, 3, S, S]
    """
    red, green, blue = image.unbind(1)
    luminance = (red + green + blue) / 3
    yellow = (red + green) / 2
    return torch.stack([5 * (luminance - 0.4), 20 * (red - green), 20 * (yellow - blue)], 1)


def colour(image: Tensor, target: Tensor) -> Tensor:
    r"""Squared error of the two colour differences of `opponent`; not in the paper.

    Their variance is a fifteenth of that of luminance, so with `reconstruction` alone, colours are
    learnt late.

    Args:
        image, target (Tensor[n, 3, S, S]): reconstruction and image.
    """
    return (opponent(image)[:, 1:] - opponent(target)[:, 1:]).square().mean()


def thumbnail(predicted: Tensor, image: Tensor) -> Tensor:
    r"""Squared error of a thumbnail of the image, 4 x 4 means of `opponent`; not in the paper.

    Args:
        predicted (Tensor[n, 48]): the network's output.
        image (Tensor[n, 3, S, S])
    """
    return (predicted - F.adaptive_avg_pool2d(opponent(image), 4).flatten(1)).square().mean()


def adversarial(image: Tensor, autoencoded: Tensor) -> Tensor:
    r"""`E_adv = |x_hat - D(x_hat)|_1` of eq. 8: the discriminator's reconstruction error.

    For a real image, this is the first term of the discriminator's own objective.

    Args:
        image, autoencoded (Tensor[n, 3, S, S]): `x_hat` and `D(x_hat)`.
    """
    return (image - autoencoded).abs().mean()


def discriminator(real: Tensor, fake: Tensor, k: Tensor) -> Tensor:
    r"""Discriminator objective: `|x - D(x)|_1 - k_t |x_hat - D(x_hat)|_1` (section 3.6).

    Args:
        real, fake (Tensor[]): `adversarial` of images and of reconstructions.
        k (Tensor[]): `k_t`.
    """
    return real - k * fake


def update_balance(
    k: Tensor, real: Tensor, fake: Tensor, gamma: float, rate: float
) -> tuple[Tensor, Tensor]:
    r"""The balance between discriminator and generator, from the paper's reference [2].

    .. math:: k_{t+1} = \mathrm{clip}(k_t + \lambda_k (\gamma E_{real} - E_{fake}), 0, 1), \qquad
              M = E_{real} + |\gamma E_{real} - E_{fake}|

    Args:
        k, real, fake (Tensor[]): `k_t`, and the two errors of this step.
        gamma (float): the desired ratio `E_fake / E_real`.
        rate (float): `lambda_k`.

    Returns:
        (k_{t+1}, M), both without gradient; M measures convergence.

    Example:
        >>> import torch
        >>> from ntensor.faces.training.losses import update_balance
        >>> k, real, fake = torch.tensor(0.1), torch.tensor(1.0), torch.tensor(0.2)
        >>> update_balance(k, real, fake, gamma=0.5, rate=1.0)
        (tensor(0.4000), tensor(1.3000))
    """
    difference = gamma * real.detach() - fake.detach()
    return (k + rate * difference).clamp(0, 1), real.detach() + difference.abs()


def verification(embedding: Tensor, target: Tensor) -> Tensor:
    r"""`E_veri = 1 - cos(V(x), V(x_hat))` of section 3.6.

    Args:
        embedding, target (Tensor[n, k]): `V(x_hat)`, `V(x)`.
    """
    return (1 - F.cosine_similarity(embedding, target, dim=1)).mean()


def pose(z_p: Tensor, R: Tensor) -> Tensor:
    r"""`E_p = |z_p - x_p|_2^2` of eq. 9.

    Args:
        z_p (Tensor[n, 9]): the rotation in row-major order.
        R (Tensor[n, 3, 3]): of the fitted model.
    """
    return (z_p - R.flatten(1)).square().mean()


def expression(predicted: Tensor, exp_3dmm: Tensor) -> Tensor:
    r"""`E_exp = |fc(z_exp) - x_exp|_2^2` of eq. 10, both standardised (n, k)."""
    return (predicted - exp_3dmm).square().mean()


def identity(predicted: Tensor, id_3dmm: Tensor) -> Tensor:
    r"""`E_id = |fc(z_id) - x_id|_2^2` of eq. 11, both standardised (n, k)."""
    return (predicted - id_3dmm).square().mean()


def pairs(z_id: Tensor, identity: Tensor) -> Tensor:
    r"""Supervised contrastive loss over pictures of the same person; not in the paper.

    .. math:: -\frac{1}{|A|} \sum_{i \in A} \frac{1}{|P_i|} \sum_{p \in P_i}
              \log \frac{e^{s_{ip} / T}}{\sum_{a \ne i} e^{s_{ia} / T}}, \qquad
              s_{ia} = \cos(z_i - 1, z_a - 1), \quad T = 0.1

    where `P_i` are the other pictures of the person in picture `i`, and `A` the pictures that have
    any. The codes are initialised near 1, see `initialisation.FACTORS`. In distributed training,
    each process compares the pictures of its own part.

    Args:
        z_id (Tensor[n, k])
        identity (Tensor[n]): the persons; pictures of unknown persons (-1) are ignored.
    """
    known = identity >= 0
    if known.sum() < 2:
        return z_id.new_zeros(())
    unit, person = F.normalize(z_id[known] - 1, dim=1), identity[known]
    itself = torch.eye(len(person), dtype=torch.bool, device=person.device)
    same = (person.unsqueeze(0) == person.unsqueeze(1)) & ~itself
    similarity = (unit @ unit.T / TEMPERATURE).masked_fill(itself, -torch.inf)
    log_share = similarity.log_softmax(1).masked_fill(~same, 0.0)
    count = same.sum(1)
    each = -log_share.sum(1) / count.clamp_min(1)
    return each.sum() / (count > 0).sum().clamp_min(1)


def shape(predicted: Tensor, target: Tensor) -> Tensor:
    r"""`E_3d = |x_3d - B x_2 z_exp x_3 z_id|_2^2` of eq. 12, both standardised (n, k_3d)."""
    return (predicted - target).square().mean()


def _select(predicted: Tensor, target: Tensor, selected: Tensor) -> Tensor:
    each = (predicted - target).square().flatten(1).mean(1)
    return (each * selected.to(each.dtype)).mean()


def frontal_image(predicted: Tensor, target: Tensor, near_frontal: Tensor) -> Tensor:
    r"""`E_f = |x_f - Q x_2 z_l x_3 z_exp x_4 z_id|_2^2` of eq. 13, near-frontal samples only.

    Args:
        predicted, target (Tensor[n, 3, S, S])
        near_frontal (Tensor[n]): bool. The mean is over all `n`; other samples count as zero.
    """
    return _select(predicted, target, near_frontal)


def frontal_normal(predicted: Tensor, target: Tensor, near_frontal: Tensor) -> Tensor:
    r"""`E_n = |n_f - Q x_2 1/k_l x_3 z_exp x_4 z_id|_2^2` of eq. 14, near-frontal samples only.

    Args: as `frontal_image`.
    """
    return _select(predicted, target, near_frontal)


def normal(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    r"""Normals against the pseudo ground truth, inside the mask: `|m (N - n)|_2^2` ([30]).

    Outside the mask the target is zero, at a tenth of the weight.

    Args:
        predicted, target (Tensor[n, 3, S, S])
        mask (Tensor[n, 1, S, S]): 0 to 1.
    """
    weight = 0.1 + 0.9 * mask
    return (weight * (predicted - target).square()).mean()


def swap(
    face: Tensor, normals: Tensor, target: Tensor, target_normals: Tensor, mask: Tensor, n: int
) -> Tensor:
    r"""Swapped codes: `|m (a s - x)|_2^2 + 0.2 E_normal`; not in the paper.

    A picture decoded with one code of another is compared with that other picture. The two must
    differ only in the factor of that code.

    Args:
        face, normals (Tensor[m, 3, S, S]): decoded albedo times shading, and normals.
        target, target_normals (Tensor[m, 3, S, S]), mask (Tensor[m, 1, S, S]): of the others.
        n (int): pictures in the batch. The mean is over all of them; those without a partner count
            as zero.
    """
    if not len(face):
        return face.new_zeros(())
    error = (mask * (face - target).square()).mean()
    return (error + SWAP_NORMAL * normal(normals, target_normals, mask)) * (len(face) / n)


def normal_unit(predicted: Tensor, mask: Tensor) -> Tensor:
    r"""Unit length inside the mask: `m (|N|^2 - 1)^2` ([30]).

    Args: as `normal`.
    """
    return (mask * (predicted.square().sum(1, keepdim=True) - 1).square()).mean()


def _subtract_neighbours(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Vertical and horizontal differences of neighbours that both lie inside the mask."""
    down = (x[:, :, 1:] - x[:, :, :-1]) * (mask[:, :, 1:] * mask[:, :, :-1])
    right = (x[..., 1:] - x[..., :-1]) * (mask[..., 1:] * mask[..., :-1])
    return down, right


def normal_smoothness(predicted: Tensor, mask: Tensor) -> Tensor:
    r"""Squared differences of neighbouring normals inside the mask ([30]).

    Args: as `normal`.
    """
    down, right = _subtract_neighbours(predicted, mask)
    return down.square().mean() + right.square().mean()


def albedo_smoothness(albedo: Tensor, mask: Tensor) -> Tensor:
    r"""Total variation of the albedo inside the mask: absolute differences of neighbours ([30]).

    Args:
        albedo (Tensor[n, 3, S, S]), mask (Tensor[n, 1, S, S])
    """
    down, right = _subtract_neighbours(albedo, mask)
    return down.abs().mean() + right.abs().mean()


def white_shading(shading: Tensor, mask: Tensor, level: float = 0.75) -> Tensor:
    r"""Batch-wise white shading of [30]: the mean shading of each colour is the same grey.

    .. math:: \sum_c \tfrac12 \Big(\frac{\sum_{i,p} m_{ip} S_{icp}}{\sum_{i,p} m_{ip}} -
              \text{level}\Big)^2

    In distributed training the sums run over the batches of all processes.

    Args:
        shading (Tensor[n, 3, S, S]), mask (Tensor[n, 1, S, S])
        level (float): the desired mean.
    """
    total = (mask * shading).sum((0, 2, 3))
    weight = mask.sum()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        from torch.distributed.nn import functional as distributed

        total = distributed.all_reduce(total)
        weight = distributed.all_reduce(weight.detach())
    mean = total / weight.clamp_min(1)
    return 0.5 * (mean - level).square().sum()


def light(predicted: Tensor, target: Tensor) -> Tensor:
    r"""Harmonics of the light against the pseudo ground truth ([30]), both (n, 3, 9)."""
    return (predicted - target).square().mean()


def mask(predicted: Tensor, target: Tensor) -> Tensor:
    r"""Face mask against the pseudo ground truth: `|M - m|_1` ([30]), both (n, 1, S, S)."""
    return (predicted - target).abs().mean()


def background(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    r"""The image outside the mask: `|(1 - m) (B - x)|_2^2`.

    Args:
        predicted, target (Tensor[n, 3, S, S]), mask (Tensor[n, 1, S, S])
    """
    return ((1 - mask) * (predicted - target).square()).mean()


def texture(predicted: Tensor, target: Tensor) -> Tensor:
    r"""Facial texture from identity (section 4.1.2): `|T - t|_2^2`, both (n, 3, S, S)."""
    return (predicted - target).square().mean()


def prior(logit: Tensor) -> Tensor:
    r"""Generator loss of the prior, `-log sigmoid(D(z))` (adversarial auto-encoder, [23]).

    Args:
        logit (Tensor[n]): of the discriminator at the code.
    """
    return F.softplus(-logit).mean()


def prior_discriminator(drawn: Tensor, coded: Tensor) -> Tensor:
    r"""`-log sigmoid(D(e)) - log(1 - sigmoid(D(z)))` for normal `e` and codes `z` ([23])."""
    return F.softplus(-drawn).mean() + F.softplus(coded).mean()
