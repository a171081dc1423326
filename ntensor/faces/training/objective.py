"""The objective of a network: weighted terms of `losses`, and the adversary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ntensor.faces.configuration import Configuration, LossConfiguration
from ntensor.faces.datasets.records import get_input
from ntensor.faces.networks import CodeDiscriminator, Discriminator
from ntensor.faces.networks.statistics import Statistics
from ntensor.faces.networks.swaps import Swaps, find_swaps

from . import losses
from .independence import Separation

Batch = Mapping[str, Tensor]


def compute_terms(
    output: Mapping[str, Tensor], batch: Batch, weights: LossConfiguration, statistics: Statistics
) -> dict[str, Tensor]:
    """Computes every term that has a weight, an output and a target.

    The terms are unweighted, by the name of their weight.

    Args:
        output (mapping): of a model's `forward`.
        batch (mapping): the targets, at least `image`.
        weights (LossConfiguration)
        statistics (Statistics): of the model.
    """
    out = {name: value.float() for name, value in output.items()}
    batch = complete(batch, out, statistics)
    values: dict[str, Tensor] = {}

    def add(term: str, needs: str, function: Any, *arguments: str) -> None:
        given = all(name in batch for name in arguments)
        if getattr(weights, term) and needs in out and given:
            values[term] = function(out[needs], *(batch[name] for name in arguments))

    add("reconstruction", "image", losses.reconstruction, "image")
    add("colour", "image", losses.colour, "image")
    add("thumbnail", "thumbnail", losses.thumbnail, "image")
    add("pairs", "z_id", losses.pairs, "identity")
    add("pose", "z_p", losses.pose, "pose")
    for term, vector in (
        ("expression", "exp_3dmm"),
        ("identity", "id_3dmm"),
        ("shape", "shape"),
    ):
        if getattr(weights, term) and vector in out and vector in batch:
            target = statistics.standardise(vector, batch[vector])
            values[term] = getattr(losses, term)(out[vector], target)
    add("frontal_image", "frontal_image", losses.frontal_image, "frontal_image", "near_frontal")
    add("frontal_normal", "frontal_normal", losses.frontal_normal, "frontal_normal", "near_frontal")
    add("normal", "normal", losses.normal, "normal", "mask")
    add("normal_unit", "normal", losses.normal_unit, "mask")
    add("normal_smoothness", "normal", losses.normal_smoothness, "mask")
    add("albedo_smoothness", "albedo", losses.albedo_smoothness, "mask")
    add("white_shading", "shading", losses.white_shading, "mask")
    add("light", "light", losses.light, "light")
    add("mask", "mask", losses.mask, "mask")
    add("background", "background", losses.background, "image", "mask")
    add("texture", "texture", losses.texture, "texture")
    return values


def complete(
    batch: Batch, output: Mapping[str, Tensor], statistics: Statistics
) -> dict[str, Tensor]:
    """Replaces the missing targets of samples by the network's own output.

    `valid_NAME` (n,) marks the samples that have the target NAME; without it, all have. A sample
    without a target thus contributes nothing to its terms.
    """
    whole = dict(batch)
    own = {"pose": "z_p", "mask": "mask", "normal": "normal", "light": "light"}
    own |= {name: name for name in ("exp_3dmm", "id_3dmm", "shape")}
    for name, source in own.items():
        has = batch.get(f"valid_{name}")
        if has is None or source not in output:
            continue
        filling = output[source].detach()
        if name in statistics.sizes:
            filling = statistics.restore(name, filling)
        target = batch[name]
        has = has.view(-1, *[1] * (target.dim() - 1))
        whole[name] = torch.where(has, target, filling.view_as(target))
    return whole


def compare_swapped(
    output: Mapping[str, Tensor], batch: Batch, swaps: Swaps, statistics: Statistics
) -> Tensor:
    """`losses.swap` of the pictures decoded with a code of another."""
    out = {name: value.float() for name, value in output.items()}
    whole = complete(batch, out, statistics)
    image, normal, mask = (whole[name][swaps.others] for name in ("image", "normal", "mask"))
    made = out["swapped_face"], out["swapped_normal"]
    return losses.swap(*made, image, normal, mask, len(batch["image"]))


def add_up(values: Mapping[str, Tensor], weights: LossConfiguration) -> Tensor:
    """The weighted sum of terms."""
    return torch.stack([getattr(weights, name) * term for name, term in values.items()]).sum()


class ImageAdversary(nn.Module):
    """The adversary of eq. 8: an auto-encoder of images, balanced by `k_t`.

    Attributes:
        network (Discriminator)
        k (Tensor[]): `k_t`, initially 0.
    """

    def __init__(self, configuration: Configuration) -> None:
        super().__init__()
        model = configuration.model
        self.weights = configuration.losses
        self.network = Discriminator(model.image_size, model.channels, model.kernel_size, model.k_i)
        self.register_buffer("k", torch.zeros(()))

    def generator_terms(self, output: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`adversarial`, with gradients for the output only."""
        image = output["image"].float()
        return {"adversarial": losses.adversarial(image, self.network(image).float())}

    def objective(
        self, network: nn.Module, output: Mapping[str, Tensor], batch: Batch, generator: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The discriminator's objective through `network`, and the two errors in it."""
        images = torch.cat([batch["image"], output["image"].detach().float()])
        real, fake = (
            losses.adversarial(image, autoencoded)
            for image, autoencoded in zip(
                images.chunk(2), network(images).float().chunk(2), strict=True
            )
        )
        parts = {"real": real.detach(), "fake": fake.detach()}
        return losses.discriminator(real, fake, self.get_buffer("k")), parts

    def update(self, parts: Mapping[str, Tensor]) -> dict[str, float]:
        """Updates `k_t` by the errors of a step, means over all processes; returns what to log."""
        k, measure = losses.update_balance(
            self.get_buffer("k"),
            parts["real"],
            parts["fake"],
            self.weights.gamma,
            self.weights.k_rate,
        )
        self.get_buffer("k").copy_(k)
        return {"k": float(k), "measure": float(measure)}


class CodeAdversary(nn.Module):
    """The adversary of an adversarial auto-encoder [23]: separates codes from normal vectors."""

    def __init__(self, configuration: Configuration) -> None:
        super().__init__()
        self.network = CodeDiscriminator(configuration.model.k_i)

    def generator_terms(self, output: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`prior`, with gradients for the output only."""
        return {"prior": losses.prior(self.network(output["z_0"].float()))}

    def objective(
        self, network: nn.Module, output: Mapping[str, Tensor], batch: Batch, generator: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The discriminator's objective through `network`."""
        coded = output["z_0"].detach().float()
        drawn = torch.randn(coded.shape, generator=generator).to(coded)
        of_drawn, of_coded = network(torch.cat([drawn, coded])).chunk(2)
        objective = losses.prior_discriminator(of_drawn, of_coded)
        return objective, {"prior_discriminator": objective.detach()}

    def update(self, parts: Mapping[str, Tensor]) -> dict[str, float]:
        """There is no state to update; returns what to log."""
        return {name: float(part) for name, part in parts.items()}


Adversary = ImageAdversary | CodeAdversary


def build_adversary(configuration: Configuration) -> Adversary | None:
    """The adversary, or None if its weight is 0."""
    if configuration.model.network == "plain":
        return CodeAdversary(configuration) if configuration.losses.prior else None
    return ImageAdversary(configuration) if configuration.losses.adversarial else None


class TrainingStep(nn.Module):
    """Forward pass of one update: from a batch to the weighted sum of the terms.

    Only the sum carries gradients out of `forward`, so distributed training detects which
    parameters are used. `parameters()` does not include the adversary and the verification network.

    Args:
        model (Module)
        weights (LossConfiguration)
        adversary (Adversary or None)
        verification (Module or None): frozen; maps images (n, 3, S, S) to embeddings.
        separation (Separation or None): a term of the codes.
        skips_rows (bool): compute stream 3 only for near-frontal samples, the only ones that eq. 13
            and 14 use. The number of rows then varies between batches.
    """

    def __init__(
        self,
        model: nn.Module,
        weights: LossConfiguration,
        adversary: Adversary | None = None,
        verification: nn.Module | None = None,
        separation: Separation | None = None,
        skips_rows: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.separation = separation
        self.skips_rows = skips_rows
        self.weights = weights
        self.swaps_codes = bool(weights.swap) and getattr(model, "multilinear", False)
        self.others = (adversary, verification)

    def forward(
        self, batch: Batch, codes_only: bool = False, fits: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """The sum; every term and the outputs, both without gradients.

        Args:
            batch (mapping): as in `compute_terms`.
            codes_only (bool): only the terms that need no decoder; the network must have some.
            fits (Tensor[n] or None): bool, the rows decoded with skip connections; None: all.
        """
        adversary, verification = (None, None) if codes_only else self.others
        # For every batch, so that the first update refuses data without pairs.
        swaps = find_swaps(batch) if self.swaps_codes else None
        if codes_only:
            codes, _ = self.model.encode(get_input(batch))  # type: ignore[operator]
            output = {**codes, **self.model.regress(codes)}  # type: ignore[operator]
        else:
            given: dict[str, Any] = {}
            if self.skips_rows:
                given["frontal"] = batch["near_frontal"]
            if fits is not None:
                given["fits"] = fits
            if swaps is not None:
                given["swaps"] = swaps
            output = self.model(get_input(batch), **given)
        statistics: Any = self.model.statistics
        values = compute_terms(output, batch, self.weights, statistics)
        if swaps is not None and not codes_only:
            values["swap"] = compare_swapped(output, batch, swaps, statistics)
        if self.separation is not None:
            whole = complete(batch, output, statistics)
            values["independence"] = self.separation(output, whole)
        if adversary is not None:
            values |= adversary.generator_terms(output)
        if verification is not None:
            with torch.no_grad():
                target = verification(batch["image"])
            embedding = verification(output["image"].float())
            values["verification"] = losses.verification(embedding.float(), target.float())
        detached = {name: term.detach() for name, term in values.items()}
        kept = {name: value.detach() for name, value in output.items()}
        return add_up(values, self.weights), detached, kept
