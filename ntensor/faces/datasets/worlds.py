"""Ranges of the variation of wild faces: one world for training, another for evaluation."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from ntensor.faces.rendering.degradation import Degradation
from ntensor.faces.rendering.patches import Patches, draw_patches
from ntensor.faces.rendering.props import Glasses, Hair
from ntensor.faces.rendering.skin import Skin, draw_skin
from ntensor.faces.rendering.wild import Lens

from . import scenes
from .scenes import Lamps

Range = tuple[float, float]
# Ranges of front, side, back, temple and thickness of `Hair`, and of the amplitude of its waves.
_STYLES: dict[str, tuple[Range, Range, Range, Range, Range, Range]] = {
    "cropped": ((46, 64), (4, 24), (-62, -40), (36, 56), (2, 6), (0, 0.5)),
    "short": ((42, 64), (-12, 16), (-66, -44), (36, 60), (8, 20), (0, 2.5)),
    "fringe": ((20, 40), (-34, 8), (-84, -50), (44, 66), (8, 18), (0, 2)),
    "medium": ((28, 62), (-90, -42), (-110, -70), (42, 62), (8, 20), (0, 3)),
    "long": ((34, 64), (-175, -105), (-190, -150), (46, 64), (7, 18), (0, 3)),
    "round": ((44, 62), (-34, 0), (-70, -40), (48, 66), (24, 48), (1, 4)),
    "receding": ((66, 88), (2, 20), (-62, -44), (18, 34), (3, 9), (0, 1)),
    "curls": ((36, 60), (-70, -8), (-90, -50), (46, 68), (16, 34), (5, 9)),
    "side": ((26, 50), (-50, 10), (-80, -50), (30, 50), (12, 26), (0, 2)),
}


@dataclasses.dataclass(frozen=True)
class World:
    """How faces, light, cameras and files vary.

    Attributes:
        skin (str): `tones`: as drawn by `draw_skin`; `hues`: random lightness, warmth and redness.
        mottle (Range): factor for the skin's mottling.
        patches (float): the `amount` of `draw_patches`.
        hair (tuple of str): styles of hair, or `none`, weighted by how often they are listed.
        glasses (float): share of persons.
        hat (float): share of pictures.
        azimuth (float): standard deviation of the key lamp's azimuth, degrees.
        elevation (Range): of the key lamp, degrees.
        hard (float): share of pictures with a hard lamp.
        hardness, gloss (Range): of the hard lamp.
        warmth (float): standard deviation of the lamps' colour between red and blue.
        distance (Range): of the camera, millimetres.
        zoom, shift (float): standard deviations of the face's relative size and of its position in
            millimetres.
        grey, margins (float): shares of pictures.
        blur, noise, quality, gamma (Range): of `Degradation`.
        seed (int): separates the draws of the worlds.
    """

    skin: str
    mottle: Range
    patches: float
    hair: tuple[str, ...]
    glasses: float
    hat: float
    azimuth: float
    elevation: Range
    hard: float
    hardness: Range
    gloss: Range
    warmth: float
    distance: Range
    zoom: float
    shift: float
    grey: float
    margins: float
    blur: Range
    noise: Range
    quality: Range
    gamma: Range
    seed: int


TRAINING = World(
    skin="tones",
    mottle=(0.8, 2.6),
    patches=1.0,
    hair=(
        "none",
        *("cropped", "short") * 2,
        "fringe",
        "medium",
        *("long",) * 2,
        "round",
        "receding",
    ),
    glasses=0.16,
    hat=0.05,
    azimuth=38.0,
    elevation=(-15, 60),
    hard=0.6,
    hardness=(0.1, 0.9),
    gloss=(0.0, 0.28),
    warmth=0.08,
    distance=(550, 2500),
    zoom=0.045,
    shift=3.0,
    grey=0.35,
    margins=0.15,
    blur=(0.5, 1.0),
    noise=(0.0, 0.035),
    quality=(35, 95),
    gamma=(0.75, 1.35),
    seed=0x717,
)

OTHER = World(
    skin="hues",
    mottle=(2.0, 4.0),
    patches=1.3,
    hair=("none", "curls", "curls", "side", "side", "receding"),
    glasses=0.25,
    hat=0.12,
    azimuth=62.0,
    elevation=(-30, 75),
    hard=0.9,
    hardness=(0.7, 1.0),
    gloss=(0.1, 0.4),
    warmth=0.14,
    distance=(350, 550),
    zoom=0.07,
    shift=5.0,
    grey=0.5,
    margins=0.35,
    blur=(0.4, 1.0),
    noise=(0.0, 0.05),
    quality=(25, 90),
    gamma=(0.6, 1.6),
    seed=0x07E,
)

WORLDS = {"training": TRAINING, "other": OTHER}


@dataclasses.dataclass(frozen=True)
class Person:
    """The constant appearance of a person, apart from the shape's coefficients.

    Attributes:
        skin (Skin): one row.
        patches (Patches)
        hair (Hair or None): the usual style; None: no hair.
        cropped (bool): whether the scalp is painted with short hair.
        glasses (Glasses or None): the usual glasses.
    """

    skin: Skin
    patches: Patches
    hair: Hair | None
    cropped: bool
    glasses: Glasses | None


@dataclasses.dataclass(frozen=True)
class Picture:
    """The parameters of one picture of a person.

    Attributes:
        expression (array[k_b]): coefficients.
        label (int): the basic expression, or -1.
        angles (array[3]): degrees.
        lamps (Lamps), light_bin (int)
        hardness, gloss, exponent (float): of `HardLight`.
        hair (Hair or None)
        hat (tuple or None): the hat's surface, and the reach of its brim.
        glasses (Glasses or None)
        collar (tuple): height, slope, colour.
        lens (Lens)
        backdrop (int): seed of the background.
        degradation (Degradation)
    """

    expression: Any
    label: int
    angles: Any
    lamps: Lamps
    light_bin: int
    hardness: float
    gloss: float
    exponent: float
    hair: Hair | None
    hat: tuple[Hair, float] | None
    glasses: Glasses | None
    collar: tuple[float, float, Any]
    lens: Lens
    backdrop: int
    degradation: Degradation


# The fields that differ in a pair, by the factor in which it differs.
FIELDS = {
    "expression": ("expression", "label"),
    "pose": ("angles",),
    "light": ("lamps", "light_bin", "hardness"),
}


def draw_person(world: World, identity: int) -> Person:
    """Draws the person with this index, who is the same in every picture of the world."""
    rng = np.random.default_rng([world.seed, identity])
    skin = draw_skin([identity])
    if world.skin == "hues":
        skin = dataclasses.replace(skin, **_draw_hues(rng))
    tint = torch.from_numpy(rng.normal(1, (0.03, 0.04, 0.05)).astype(np.float32))
    waves = skin.waves.clone()
    waves[..., 4] *= float(rng.uniform(*world.mottle))
    skin = dataclasses.replace(skin, skin=(skin.skin * tint).clamp(0.03, 0.97), waves=waves)
    colours = (skin.skin[0].numpy(), skin.lips[0].numpy(), skin.hair[0].numpy())
    patches = draw_patches(rng, *colours, world.patches)
    hair, style = _draw_hair(rng, world, colours[2])
    glasses = draw_glasses(rng) if rng.random() < world.glasses else None
    return Person(skin, patches, hair, style in ("cropped", "short", "receding"), glasses)


def _draw_hues(rng: np.random.Generator) -> dict[str, Any]:
    light = rng.uniform(0.2, 0.85)
    skin = light * np.array([1, 0.6 + 0.22 * light, 0.42 + 0.36 * light]) * rng.normal(1, 0.04, 3)
    lips = skin * np.array([rng.uniform(0.8, 1.05), rng.uniform(0.5, 0.75), rng.uniform(0.5, 0.8)])
    hair = rng.uniform(0.03, 0.5) * np.array([1, rng.uniform(0.6, 0.95), rng.uniform(0.35, 0.9)])
    colours = {"skin": skin, "lips": lips, "hair": hair, "brows": 0.85 * hair + 0.1 * skin}
    return {
        name: torch.from_numpy(np.clip(value, 0.02, 0.97).astype(np.float32))[None]
        for name, value in colours.items()
    }


def _draw_hair(rng: np.random.Generator, world: World, colour: Any) -> tuple[Hair | None, str]:
    style = str(rng.choice(world.hair))
    if style == "none":
        return None, style
    front, side, back, temple, thickness, waves = (
        float(rng.uniform(*limits)) for limits in _STYLES[style]
    )
    cycles = rng.uniform((2, 1, 0), (6, 4, 0), (3, 3)) * (2.2 if style == "curls" else 1)
    shape = np.concatenate([cycles[:, :2], rng.uniform(0, 6.3, (3, 1)), np.full((3, 1), waves)], 1)
    parting = float(rng.normal(0, 12 if style in ("side", "fringe", "long") else 4))
    streaks = float(rng.uniform(0.06, 0.3))
    tone = np.clip(colour * rng.normal(1, 0.12), 0.015, 0.95)
    return Hair(front, side, back, parting, temple, thickness, shape, tone, streaks), style


def draw_glasses(rng: np.random.Generator) -> Glasses:
    """Draws a pair of glasses."""
    dark = bool(rng.random() < 0.08)
    grey = rng.uniform(0.02, 0.25) if rng.random() < 0.75 else rng.uniform(0.3, 0.7)
    colour = np.clip(grey * rng.normal(1, 0.2, 3), 0.01, 0.9)
    return Glasses(
        rng.uniform(21, 28),
        rng.uniform(15, 23),
        rng.uniform(2, 6),
        rng.uniform(1.2, 4.5),
        colour,
        dark,
    )


def draw_picture(
    world: World, rng: np.random.Generator, face: Any, person: Person, number: int
) -> Picture:
    """Draws a picture of a person."""
    expression, label = scenes.draw_expression(rng, face)
    if rng.random() < 0.06 and "eyeBlink" in face.expression_names:
        expression[face.expression_names.index("eyeBlink")] = rng.uniform(0.8, 1)
    angles = scenes.draw_angles(rng)
    lamps = draw_lamps(world, rng)
    hard = rng.random() < world.hard
    hair = person.hair
    if rng.random() < 0.12:
        hair, _ = _draw_hair(rng, world, person.skin.hair[0].numpy())
    hat = _draw_hat(rng) if rng.random() < world.hat else None
    glasses = person.glasses
    if rng.random() < 0.2:
        glasses = draw_glasses(rng) if glasses is None and rng.random() < 0.2 else None
    collar = (
        rng.uniform(84, 140),
        rng.uniform(0.5, 2.4),
        rng.uniform(0.03, 0.9) * rng.uniform(0.5, 1, 3),
    )
    lens = Lens(
        float(np.exp(rng.uniform(*np.log(world.distance)))),
        float(np.clip(rng.normal(1, world.zoom), 0.8, 1.25)),
        (float(rng.normal(0, world.shift)), float(rng.normal(0, world.shift))),
    )
    return Picture(
        expression, label, angles, lamps, -1,
        float(rng.uniform(*world.hardness)) if hard else 0.0,
        float(rng.uniform(*world.gloss)), float(rng.uniform(6, 40)),
        hair, hat, glasses, collar, lens, number, draw_degradation(world, rng),
    )  # fmt: skip


def draw_lamps(world: World, rng: np.random.Generator) -> Lamps:
    """As `scenes.draw_lamps`, within the world's ranges."""
    drawn = scenes.draw_lamps(rng)
    azimuth = float(np.clip(rng.normal(0, world.azimuth), -95, 95))
    warmth = 1 + rng.normal(0, world.warmth) * np.array([1.0, 0.1, -1.0])
    return dataclasses.replace(
        drawn,
        azimuth=np.array([azimuth, drawn.azimuth[1]]),
        elevation=np.array([rng.uniform(*world.elevation), drawn.elevation[1]]),
        colour=drawn.colour * warmth,
        mean=float(rng.uniform(0.5, 1.0)),
    )


def _draw_hat(rng: np.random.Generator) -> tuple[Hair, float]:
    front, colour = rng.uniform(34, 52), rng.uniform(0.03, 0.85) * rng.uniform(0.4, 1, 3)
    brim = rng.uniform(30, 60) if rng.random() < 0.6 else 0.0
    side = front - rng.uniform(0, 22)
    waves = np.zeros((1, 4))
    hat = Hair(
        front, side, side - rng.uniform(0, 40), 0, 60, rng.uniform(18, 30), waves, colour, 0.02
    )
    return hat, brim


def draw_degradation(world: World, rng: np.random.Generator) -> Degradation:
    """Draws the degradation of a picture; its steps are left out at random."""
    grey = rng.random() < world.grey
    margins = (0, 0, 0, 0)
    if rng.random() < world.margins:
        sides = rng.random(4) < 0.5
        margins = tuple(int(m) for m in sides * rng.integers(1, 9, 4))  # type: ignore[assignment]
    blurred, noisy, compressed = rng.random(3) < (0.4, 0.5, 0.5)
    return Degradation(
        tuple(float(c) for c in rng.normal(1, 0.05, 3)),  # type: ignore[arg-type]
        float(np.exp(rng.normal(0, 0.15))),
        float(np.exp(rng.uniform(*np.log(world.gamma)))),
        0.0 if grey else float(rng.uniform(0.6, 1.2)),
        float(rng.uniform(*world.blur)) if blurred else 1.0,
        float(rng.uniform(*world.noise)) if noisy else 0.0,
        int(rng.integers(2**31)),
        int(rng.uniform(*world.quality)) if compressed else 0,
        margins,
        bool(rng.random() < 0.5),
    )
