"""Named configurations to start from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ntensor.faces.common.errors import ConfigurationError

from . import (
    Configuration,
    DataConfiguration,
    LossConfiguration,
    ModelConfiguration,
    TrainingConfiguration,
)


def paper() -> Configuration:
    """The sizes of the paper; 60 000 updates of 64 images."""
    return Configuration()


def tiny() -> Configuration:
    """Minutes on two processor cores: few filters of 3 x 3, 1 500 vertices, 8 000 samples.

    Filters are fewest where the maps are largest, and no decoder works on the full map: mask and
    background upsample too. The encoder learns its codes before the decoders begin, and the terms
    that tie the codes to the morphable model and to the multilinear streams weigh more than
    elsewhere.
    """
    return Configuration(
        model=ModelConfiguration(
            channels=(16, 32, 64),
            kernel_size=3,
            k_b=32,
            k_m=32,
            k_exp=12,
            k_id=30,
            bottleneck="tanh",
            unpooling=False,
            subpixel=True,
            thumbnail=True,
            geometric_expression=True,
            k_3d=0,
            exp_3dmm=0,
            id_3dmm=0,
        ),
        losses=LossConfiguration(
            verification=0.0,
            adversarial=0.0,
            reconstruction=60.0,
            colour=0.3,
            thumbnail=1.0,
            pose=2.0,
            expression=4.0,
            identity=2.0,
            independence=1.0,
            light=30.0,
            shape=2.0,
            frontal_image=20.0,
            frontal_normal=10.0,
            normal=12.0,
            albedo_smoothness=0.03,
        ),
        data=DataConfiguration(cache=8000, validation=128, vertices=1500),
        training=TrainingConfiguration(
            steps=6000,
            code_steps=3500,
            batch_size=16,
            learning_rate=2.5e-3,
            warmup=100,
            clip=2.0,
        ),
    )


def small() -> Configuration:
    """About two hours on one processor core, 6 GB: `tiny` with about twice the operations.

    With 16 000 pictures and half the updates it overfitted.
    """
    base = tiny()
    return Configuration(
        model=replace(base.model, channels=(24, 48, 96), k_b=64, k_m=64, k_id=48),
        losses=base.losses,
        data=replace(base.data, cache=36_000, validation=256),
        training=replace(
            base.training,
            steps=13_000,
            code_steps=4000,
            batch_size=32,
            learning_rate=2e-3,
            warmup=150,
        ),
    )


def robust() -> Configuration:
    """About an hour on two processor cores; transfers to pictures from other sources.

    For realistic pictures in pairs of one person, given by `data.source`. The sizes are about those
    of `small`, with more convolutions in the encoder, where they are cheapest, and cores with
    factored output modes, so that codes can be larger.
    """
    base = small()
    return Configuration(
        model=replace(
            base.model,
            depth=2,
            normalise_input=True,
            k_i=192,
            k_exp=15,
            k_id=60,
            core_rank=128,
            skips=True,
        ),
        losses=replace(base.losses, pairs=0.5, swap=60.0),
        data=replace(base.data, variation="wild", vertices=0, workers=1),
        training=replace(base.training, steps=7_500, code_steps=4500, augment=True),
    )


def tiny_robust() -> Configuration:
    """`robust` in ten minutes: the filters of `tiny` and half the updates, of half the samples."""
    base, small_sizes = robust(), tiny()
    return Configuration(
        model=replace(base.model, channels=small_sizes.model.channels, k_b=32, k_m=32, k_id=48),
        losses=base.losses,
        data=replace(base.data, cache=8000, validation=128),
        training=replace(
            base.training,
            steps=5000,
            code_steps=2500,
            batch_size=16,
            learning_rate=small_sizes.training.learning_rate,
            warmup=small_sizes.training.warmup,
        ),
    )


def proof_of_concept(pose: bool) -> Configuration:
    """The proof-of-concept network of section 4, without pose (4.1) or with it (4.2).

    Ten minutes on two processor cores: the filters of `tiny`, the codes of the paper.
    """
    base = tiny()
    return Configuration(
        model=replace(
            base.model,
            network="proof-of-concept",
            rotation="column" if pose else "off",
            k_exp=15,
            k_id=80,
        ),
        # With so few persons the network soon memorises their coefficients.
        losses=replace(base.losses, expression=1.0, identity=0.5),
        data=replace(base.data, cache=8000, variation="pose" if pose else "expression"),
        training=replace(base.training, steps=4500, code_steps=1500, batch_size=32),
    )


PRESETS: dict[str, Callable[[], Configuration]] = {
    "tiny": tiny,
    "small": small,
    "robust": robust,
    "tiny-robust": tiny_robust,
    "paper": paper,
    "poc-expression": lambda: proof_of_concept(pose=False),
    "poc-pose": lambda: proof_of_concept(pose=True),
}


def find_preset(name: str) -> Configuration:
    """The configuration of a preset.

    Raises:
        ConfigurationError: there is no such preset.

    Example:
        >>> from ntensor.faces.configuration.presets import find_preset
        >>> find_preset("paper").model.k_id
        80
    """
    if name not in PRESETS:
        raise ConfigurationError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}")
    return PRESETS[name]()
