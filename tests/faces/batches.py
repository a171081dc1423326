"""Random batches with every key of a face data set, and a small configuration for them."""

import dataclasses

import torch

from ntensor.faces.configuration import Configuration
from ntensor.faces.configuration.presets import tiny

VERTICES, IDENTITY_MODES, EXPRESSION_MODES = 20, 7, 5


def batch_of(n, size=16, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.rand(shape, generator=generator)

    R, _ = torch.linalg.qr(torch.randn(n, 3, 3, generator=generator))
    R = R * torch.linalg.det(R).view(n, 1, 1)
    mask = (draw(n, 1, size, size) > 0.3).float()
    normal = torch.nn.functional.normalize(draw(n, 3, size, size) - 0.5, dim=1) * mask
    return {
        "image": draw(n, 3, size, size),
        "mask": mask,
        "normal": normal,
        "albedo": draw(n, 3, size, size),
        "shading": draw(n, 3, size, size),
        "light": draw(n, 3, 9),
        "pose": R,
        "id_3dmm": draw(n, IDENTITY_MODES),
        "exp_3dmm": draw(n, EXPRESSION_MODES),
        "shape": draw(n, 3 * VERTICES),
        "texture": draw(n, 3, size, size),
        "frontal_image": draw(n, 3, size, size),
        "frontal_normal": normal.flip(0),
        "frontal_mask": mask.flip(0),
        "near_frontal": torch.arange(n) % 2 == 0,
        "identity": torch.arange(n) % 3,
        "expression": torch.arange(n) % 2,
        "pose_bin": torch.zeros(n, dtype=torch.int64),
        "light_bin": torch.full((n,), -1),
    }


def pairs_of(n, size=16, seed=0):
    """`batch_of`, in pairs of one person that differ in everything, expression, pose, light, ...;
    shown otherwise than it is to be reconstructed."""
    batch = batch_of(n, size, seed)
    person = torch.arange(n) // 2
    noise = torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed + 1))
    return {**batch, "identity": person, "differs": person % 4, "input": noise}


class RandomSamples:
    """Samples by index, each drawn from its own seed; `poison` makes one update's images NaN."""

    blocks = ()

    def __init__(self, size=None, image_size=16, seed=0, poison=None):
        self.size, self.image_size, self.seed, self.poison = size, image_size, seed, poison
        ones = {"exp_3dmm": EXPRESSION_MODES, "id_3dmm": IDENTITY_MODES, "shape": 3 * VERTICES}
        self.statistics = {
            name: (torch.full((k,), 0.5), torch.full((k,), 0.3)) for name, k in ones.items()
        }

    def __getitem__(self, indices):
        samples = [batch_of(1, self.image_size, 1000 * self.seed + i) for i in indices]
        batch = {name: torch.cat([s[name] for s in samples]) for name in samples[0]}
        if self.poison is not None and self.poison in indices:
            batch["light"][:] = torch.nan
        return batch


class RandomPairs(RandomSamples):
    """Endless pairs of pictures, see `pairs_of`."""

    def __getitem__(self, indices):
        pairs = [pairs_of(2, self.image_size, 1000 * self.seed + i - i % 2) for i in indices]
        rows = zip(pairs, indices, strict=True)
        whole = [{name: value[i % 2] for name, value in pair.items()} for pair, i in rows]
        number = torch.tensor(indices) // 2
        batch = {name: torch.stack([row[name] for row in whole]) for name in whole[0]}
        return {**batch, "identity": number, "differs": number % 4}


def small_configuration(**sections):
    """`tiny` with 16 pixels, 4 filters and few updates; entries of sections are replaced."""
    base = tiny()
    model = dataclasses.replace(
        base.model,
        image_size=16,
        channels=(4, 4, 4),
        k_i=8,
        k_b=4,
        k_m=4,
        k_exp=3,
        k_id=4,
        k_3d=3 * VERTICES,
        exp_3dmm=EXPRESSION_MODES,
        id_3dmm=IDENTITY_MODES,
    )
    training = dataclasses.replace(
        base.training,
        steps=4,
        code_steps=0,
        batch_size=4,
        warmup=2,
        log_every=1,
        picture_every=1000,
        validate_every=1000,
        checkpoint_every=1000,
    )
    whole = {"model": model, "losses": base.losses, "data": base.data, "training": training}
    for section, entries in sections.items():
        whole[section] = dataclasses.replace(whole[section], **entries)
    return Configuration(**whole)


def small_robust(model=None, losses=None, **training):
    """`small_configuration` with all that `robust` adds."""
    parts = {"depth": 2, "normalise_input": True, "skips": True, "core_rank": 3, **(model or {})}
    weights = {"pairs": 0.5, "swap": 2.0, **(losses or {})}
    return small_configuration(model=parts, losses=weights, training=training)
