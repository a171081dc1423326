"""A loss term that keeps codes from revealing factors that they should not encode."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ntensor.faces.configuration import Configuration

from .losses import opponent

# Each code, and what it should not reveal.
SEPARATED = {"z_id": ("exp_3dmm", "pose"), "z_exp": ("pose", "colours")}


class Independence(nn.Module):
    r"""Squared correlations of a code with factors; not in the paper.

    .. math:: \frac{1}{k} \sum_{a, b} C_{ab}^2, \qquad
              C_{ab} \approx \mathrm{mean}_i \, \hat z_{ia} \hat f_{ib}

    where a hat means standardised by the running mean and standard deviation. `C` is also a running
    mean over batches, initially 0. A batch is too small to estimate correlations. Value and
    gradient are therefore those of `2 C . c - C . C` with the batch's own `c`, where `C` and the
    running moments are constants. All running means are buffers.

    Args:
        k (int): extent of the code.
        factors (int): total number of factors.

    Example:
        >>> import torch
        >>> from ntensor.faces.training.independence import Independence
        >>> independence, factors = Independence(2, 1), torch.randn(1000, 1)
        >>> for _ in range(500):
        ...     term = independence(torch.cat([factors, torch.randn(1000, 1)], 1), factors)
        >>> round(float(term), 1)  # one of two entries is the factor itself
        0.5
    """

    MOMENTUM = 0.02

    def __init__(self, k: int, factors: int) -> None:
        super().__init__()
        self.register_buffer("covariance", torch.zeros(k, factors))
        self.register_buffer("batches", torch.zeros(()))
        for name, size in (("code", k), ("factor", factors)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_variance", torch.zeros(size))

    def forward(self, code: Tensor, factors: Tensor) -> Tensor:
        """Tensor[]: the term for a batch of `code` (n, k) and `factors` (n, m).

        Updates the running means; in distributed training, over the batches of all processes.
        """
        batches = self.get_buffer("batches").add_(1)
        momentum = (1 / batches).clamp_min(self.MOMENTUM)
        z = self._standardise("code", code, momentum)
        f = self._standardise("factor", factors, momentum)
        batch = z.T @ f / len(z)
        covariance = self.get_buffer("covariance")
        covariance.lerp_(_average_over_processes(batch.detach()), self.MOMENTUM)
        kept = covariance.clone()
        return (2 * kept * batch - kept.square()).sum() / len(kept)

    def _standardise(self, name: str, x: Tensor, momentum: Tensor) -> Tensor:
        mean, variance = (self.get_buffer(f"{name}_{what}") for what in ("mean", "variance"))
        given = x.detach()
        mean.lerp_(_average_over_processes(given.mean(0)), momentum)
        variance.lerp_(_average_over_processes((given - mean).square().mean(0)), momentum)
        return (x - mean) * (variance + 1e-6).rsqrt()


def _average_over_processes(x: Tensor) -> Tensor:
    """The mean over the processes of distributed training."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(x)
        x /= torch.distributed.get_world_size()
    return x


class Separation(nn.Module):
    """The mean of `Independence` over the codes of `SEPARATED`.

    Args:
        configuration (Configuration): with the data's extents.
    """

    def __init__(self, configuration: Configuration) -> None:
        super().__init__()
        model = configuration.model
        sizes = {"z_id": model.k_id, "z_exp": model.k_exp}
        sizes |= {"exp_3dmm": model.exp_3dmm, "pose": 9, "colours": 6}
        self.parts = nn.ModuleDict(
            {
                code: Independence(sizes[code], sum(sizes[factor] for factor in factors))
                for code, factors in SEPARATED.items()
            }
        )

    def forward(self, output: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        """Tensor[]: the term.

        Args:
            output (mapping): the codes.
            batch (mapping): `exp_3dmm` (Tensor[n, k]), `pose` (Tensor[n, 3, 3]), `image`, `mask`.
        """
        terms = []
        # Correlations of few samples need full precision.
        with torch.autocast(batch["pose"].device.type, enabled=False):
            given = {**batch, "colours": measure_colours(batch["image"], batch["mask"])}
            for code, part in self.parts.items():
                factors = [given[factor].flatten(1) for factor in SEPARATED[code]]
                terms.append(part(output[code].float(), torch.cat(factors, 1)))
        return torch.stack(terms).mean()


def measure_colours(image: Tensor, mask: Tensor) -> Tensor:
    """Tensor[n, 6]: means of `losses.opponent` over the face and over the background.

    Args:
        image (Tensor[n, 3, S, S]), mask (Tensor[n, 1, S, S])
    """
    weights = torch.cat([mask, 1 - mask], 1).float()
    sums = torch.einsum("nchw,nphw->npc", opponent(image.float()), weights)
    return (sums / weights.sum((2, 3)).clamp_min(1).unsqueeze(2)).flatten(1)


def build_separation(configuration: Configuration) -> Separation | None:
    """The term, or None if its weight is 0 or the network does not have the codes."""
    has = configuration.model.network in ("neuro-tensorial", "proof-of-concept")
    return Separation(configuration) if has and configuration.losses.independence else None
