"""Configuration of the reference face models: dataclasses and files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from ntensor.faces.common.errors import ConfigurationError

from .entries import (
    Count,
    DataExtent,
    Device,
    Extent,
    ImageSize,
    Positive,
    Rate,
    Seed,
    Weight,
    Within,
    Workers,
    check_entries,
)

Network = Literal["neuro-tensorial", "intrinsic", "plain", "proof-of-concept"]


@dataclass(frozen=True)
class ModelConfiguration:
    """Sizes and parts of a network.

    Attributes:
        network: `"neuro-tensorial"` is the paper's network. `"intrinsic"` is the network after its
            reference [30]: the same code without streams 1 and 3 and without the rotation; normals
            and albedo have separate codes. `"plain"` is an adversarial auto-encoder with one code
            (reference [23]). `"proof-of-concept"` is the network of section 4.
        image_size: `S`, a multiple of 8; pixels.
        channels: filters of the three convolutions of the encoder; decoders mirror them.
        depth: convolutions per stage of the encoder; those after the first are residual and work on
            the pooled map.
        kernel_size: of every convolution but a decoder's last one (3) and skip connections; odd.
        normalise_input: mean and contrast of each picture are normalised before the encoder, over
            all colours together, so that exposure matters less; `z_i` gets both as inputs.
        k_i: extent of the intermediate code `z_i`.
        k_b, k_m, k_l, k_exp, k_id: extents of the codes. `z_p` has 9.
        core_rank: the output mode of both cores is factored with this rank; 0: full cores, as in
            the paper.
        k_3d: coordinates of the facial shape, three times the number of vertices; 0: the data's.
        exp_3dmm, id_3dmm: coefficients of the morphable model; 0: the data's.
        rotation: layout of the rotation of section 3.4; `"off"` for a proof-of-concept network
            without pose, or for an ablation of the paper's network.
        unpooling: the decoders of mask and background use the encoder's pooling indices instead
            of upsampling.
        subpixel: decoders that upsample end at half the size, with four pixels per place.
        skips: decoders add linear maps of the picture and of the outputs of the encoder's stages,
            so that fine detail reaches them. Those of normals and albedo also learn to work
            without, since the picture's own maps do not show another pose or identity. Only for
            networks with these decoders.
        bottleneck: activation of `z_i`.
        thumbnail: a linear layer from `z_i` to the coarse colours of the image, so that the
            encoder learns them together with its codes; see `losses.thumbnail`.
        geometric_expression: `z_exp` learns from the morphable model alone (equations 10 and 12);
            gradients of images and normals stop there. In the paper they do not.
        accumulate_core_grad: as in `ntensor.nn.MultilinearProjection`; requires one process,
            float32 and no `compile`. None: used if possible.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    network: Network = "neuro-tensorial"
    image_size: ImageSize = 64
    channels: Annotated[tuple[int, int, int], Within(1, 4096)] = (96, 48, 24)
    depth: Annotated[int, Within(1, 16)] = 1
    kernel_size: Annotated[int, Within(1, 31)] = 5
    normalise_input: bool = False
    k_i: Extent = 128
    k_b: Extent = 128
    k_m: Extent = 128
    k_l: Extent = 9
    k_exp: Extent = 15
    k_id: Extent = 80
    core_rank: Annotated[int, Within(0, 65_536)] = 0
    k_3d: DataExtent = 3 * 9375
    exp_3dmm: DataExtent = 28
    id_3dmm: DataExtent = 157
    rotation: Literal["column", "row", "off"] = "column"
    unpooling: bool = True
    subpixel: bool = False
    skips: bool = False
    bottleneck: Literal["sigmoid", "tanh", "identity"] = "sigmoid"
    thumbnail: bool = False
    geometric_expression: bool = False
    accumulate_core_grad: bool | None = None

    # The extent of the codes of normals and albedo of the network "intrinsic".
    K_INTRINSIC: ClassVar[int] = 128

    @property
    def targets(self) -> dict[str, str]:
        """The vectors of the data that the network predicts, and the entry with their extent."""
        predicted = {"exp_3dmm": "exp_3dmm", "id_3dmm": "id_3dmm"}
        if self.network == "neuro-tensorial":
            return predicted | {"shape": "k_3d"}
        return predicted if self.network == "proof-of-concept" else {}

    def __post_init__(self) -> None:
        check_entries(self)
        if self.kernel_size % 2 == 0:
            raise ConfigurationError(f"kernel_size must be odd, got {self.kernel_size}")
        if self.k_exp * self.k_id % 3 and self.rotation != "off":
            raise ConfigurationError(
                f"the rotation needs 3 to divide k_exp k_id, got {self.k_exp} * {self.k_id}"
            )


@dataclass(frozen=True)
class LossConfiguration:
    """Weights of the terms of `ntensor.faces.training.losses`; a term of weight 0 is not computed.

    The paper gives no weights. Squared errors of pixels are means of about 0.005, so their weights
    are much larger than those of the standardised vectors, whose errors start at 1. The defaults
    were chosen on validation identities of generated faces.

    `pairs` and `swap` need data whose pictures 2k and 2k + 1 show one person: if either has a
    weight, the order of the samples keeps such pairs together. `independence` is defined in
    `ntensor.faces.training.independence`. If the weight of the adversary is 0, no discriminator is
    trained. Weights that are the same in every run are constants; `gamma` and `k_rate` belong to
    the balance of the adversary, `update_balance`.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    reconstruction: Weight = 30.0
    colour: Weight = 0.0
    thumbnail: Weight = 0.0
    adversarial: Weight = 1.0
    verification: Weight = 1.0
    pose: Weight = 1.0
    expression: Weight = 0.5
    identity: Weight = 0.5
    pairs: Weight = 0.0
    swap: Weight = 0.0
    independence: Weight = 0.0
    shape: Weight = 1.0
    frontal_image: Weight = 10.0
    frontal_normal: Weight = 5.0
    normal: Weight = 8.0
    albedo_smoothness: Weight = 0.2
    light: Weight = 3.0

    normal_unit: ClassVar[float] = 0.2
    normal_smoothness: ClassVar[float] = 0.02
    white_shading: ClassVar[float] = 1.0
    mask: ClassVar[float] = 4.0
    background: ClassVar[float] = 5.0
    texture: ClassVar[float] = 30.0
    prior: ClassVar[float] = 0.1
    gamma: ClassVar[float] = 0.7
    k_rate: ClassVar[float] = 0.001

    @property
    def of_pairs(self) -> bool:
        """Whether a term needs the pairs of the data to stay together."""
        return bool(self.pairs or self.swap)

    def __post_init__(self) -> None:
        check_entries(self)


@dataclass(frozen=True)
class DataConfiguration:
    """Where batches come from.

    Attributes:
        source: `"generated"`, or the folder of a data set in the format of
            `ntensor.faces.datasets.storage`.
        validation_source: the folder of a second data set with other identities; required with a
            folder as `source`.
        face_model: an ICT face file, or `"analytic"` for the built-in face. None: the analytic face
            if `vertices` is above 0, else the one that the variable `NTENSOR_FACE_MODEL` names, or
            the analytic one. Training records it in the run's configuration, and lets the variable
            override a preset's `vertices`.
        vertices: of the analytic face; 0: its default.
        variation: what varies in generated samples. all: everything; expression: expression and
            identity of frontal faces under one light (section 4.1); pose: these and one of seven
            poses (section 4.2); wild: people and cameras, realistically, see
            `ntensor.faces.datasets.wild`.
        cache: number of generated training samples that are kept and reused; 0: every sample is
            new.
        validation: validation samples, of identities that training never shows.
        seed: of the generated samples.
        workers: processes that read or render samples; each has its own cache.
        device: where generated faces are rendered.
        skip_damaged: skip a damaged record with a warning instead of stopping the run.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    source: str = "generated"
    validation_source: str | None = None
    face_model: str | None = None
    vertices: Annotated[int, Within(0, 1_000_000)] = 0
    variation: Literal["all", "expression", "pose", "wild"] = "all"
    cache: Count = 0
    validation: Positive = 256
    seed: Seed = 0
    workers: Workers = 0
    device: Device = "cpu"
    skip_damaged: bool = False

    @property
    def of_concept(self) -> bool:
        """Whether generated samples are of the proof of concept, with its persons and textures."""
        return self.variation in ("expression", "pose")

    def __post_init__(self) -> None:
        check_entries(self)


@dataclass(frozen=True)
class TrainingConfiguration:
    """Optimisation and the run.

    Attributes:
        steps: updates of the network.
        code_steps: number of initial updates that train only the encoder, on the targets of its
            codes: pose, coefficients, light. They need no decoder and cost a tenth of a full
            update, and the decoders then start from meaningful codes. A network without such codes
            ignores this.
        batch_size: samples per update, over all processes and all `accumulation` parts.
        accumulation: the number of parts that a batch is split into, processed in turn.
        learning_rate: the peak rate. It is reached linearly in `warmup` updates, again after the
            `code_steps`, and then falls along half a cosine to `final_rate` times the peak. The
            discriminator's rate does the same, with the peak `discriminator_rate`.
        clip: limit on the Euclidean norm of the network's gradient; 0: no limit.
        augment: every update randomly changes tone and colour of the network's inputs, adds noise,
            covers parts, and, while only codes are trained, moves and scales them; see
            `ntensor.faces.training.augmentation`.
        precision: `"bfloat16"` runs convolutions and matrix products under autocast.
        log_every, picture_every, validate_every, checkpoint_every: intervals in updates.
        keep: number of recent checkpoints that are kept besides the best one.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    steps: Positive = 60_000
    code_steps: Count = 0
    batch_size: Positive = 64
    accumulation: Positive = 1
    learning_rate: Rate = 2e-4
    warmup: Count = 200
    clip: Weight = 0.0
    augment: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    backend: Literal["native", "triton", "reference"] | None = None
    device: Device = "auto"
    seed: Seed = 0
    log_every: Positive = 20
    picture_every: Positive = 1000
    validate_every: Positive = 1000
    checkpoint_every: Positive = 1000
    keep: Positive = 2
    verification_weights: str | None = None

    # Share of the samples whose normals and albedo are decoded without skip connections.
    without_skips: ClassVar[float] = 0.5
    discriminator_rate: ClassVar[float] = 1e-4
    final_rate: ClassVar[float] = 0.02

    def __post_init__(self) -> None:
        check_entries(self)
        if self.batch_size % self.accumulation:
            raise ConfigurationError(
                f"accumulation ({self.accumulation}) must divide batch_size ({self.batch_size})"
            )


@dataclass(frozen=True)
class Configuration:
    """A whole run: network, losses, data, training."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    model: ModelConfiguration = field(default_factory=ModelConfiguration)
    losses: LossConfiguration = field(default_factory=LossConfiguration)
    data: DataConfiguration = field(default_factory=DataConfiguration)
    training: TrainingConfiguration = field(default_factory=TrainingConfiguration)

    def __post_init__(self) -> None:
        check_entries(self)


# Entries that configurations of earlier versions may have. They now have the same value in every
# run.
FIXED: dict[str, dict[str, Any]] = {
    "model": {"k_intrinsic": ModelConfiguration.K_INTRINSIC, "texture": True},
    "losses": {
        "mask_smoothness": 0.0,
        **{
            name: getattr(LossConfiguration, name)
            for name in (
                *("normal_unit", "normal_smoothness", "white_shading", "mask", "background"),
                *("texture", "prior", "gamma", "k_rate"),
            )
        },
    },
    "training": {
        "optimizer": "adam",
        "channels_last": True,
        "discriminator_rate": TrainingConfiguration.discriminator_rate,
        "final_rate": TrainingConfiguration.final_rate,
    },
}
