"""The runs, faces and baselines that the figures are made from."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ntensor.faces.baselines import LandmarkFit, fit_landmarks
from ntensor.faces.baselines.landmark_fit import from_pixels
from ntensor.faces.common.errors import ConfigurationError
from ntensor.faces.evaluation import pictures
from ntensor.faces.evaluation.probes import measure_accuracy
from ntensor.faces.evaluation.references import MODES, Multilinear
from ntensor.faces.media.inputs import Face
from ntensor.faces.runs.opened import OpenedRun, Options

# Extents of the multilinear baseline's factors: light, expression, identity.
ALS_SIZES = (4, 6, 16)
# Expressions by row; those of targets and strong sources differ.
_OF_TARGETS = ("neutral", "happy", "sad", "anger", "surprise", "fear", "disgust")
_OF_SOURCES = ("surprise", "anger", "happy", "fear", "sad", "disgust")


class LeftOut(Exception):
    """A figure cannot be made; the message says what is missing."""


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        title (str): what it shows.
        columns (dict of Tensor[n, 3, h, w] or None): pictures by column title, one row per face.
        plot (matplotlib figure or None): a plot instead of columns.
        notes (tuple of str): what is missing, and remarks for the reader.
    """

    title: str
    columns: dict[str, Tensor] | None = None
    plot: Any = None
    notes: tuple[str, ...] = field(default_factory=tuple)


@dataclass(frozen=True)
class Runs:
    """Folders of other runs.

    Attributes:
        intrinsic: network "intrinsic", after [30]; for figures 11, 13 and 20.
        plain: network "plain", the adversarial auto-encoder; for figures 14 and 15.
        poc_expression: preset poc-expression; for figures 4, 5 and 6.
        poc_pose: preset poc-pose; for figure 7.
    """

    intrinsic: Path | None = None
    plain: Path | None = None
    poc_expression: Path | None = None
    poc_pose: Path | None = None


class Material:
    """The runs, faces of persons outside the training set, and the baselines.

    Args:
        run (Path): a run of the paper's network.
        runs (Runs): other runs.
        options (Options)
        rows (int): faces per figure.
        fitted (int): training pictures for the multilinear baseline.

    Raises:
        FacesError: a run cannot be read, or has another network.
    """

    def __init__(self, run: Path, runs: Runs, options: Options, rows: int, fitted: int) -> None:
        if rows < 2:
            raise ConfigurationError(f"rows must be at least 2, got {rows}")
        self.main = OpenedRun(run, options)
        self._check_network(self.main, "neuro-tensorial")
        self.rows, self.fitted = rows, fitted
        wanted = {
            "intrinsic": "intrinsic",
            "plain": "plain",
            "poc_expression": "proof-of-concept",
            "poc_pose": "proof-of-concept",
        }
        self.others: dict[str, OpenedRun | None] = {}
        for name, network in wanted.items():
            folder = getattr(runs, name)
            self.others[name] = None if folder is None else OpenedRun(folder, options)
            if folder is not None:
                self._check_network(self.others[name], network)

    def _check_network(self, opened: OpenedRun | None, network: str) -> None:
        if opened is not None and opened.model.configuration.network != network:
            raise ConfigurationError(
                f'{opened.run}: expected a run of network "{network}", got '
                f'"{opened.model.configuration.network}"'
            )

    def find_other(self, name: str) -> OpenedRun:
        """Returns another run.

        Raises:
            LeftOut: it was not given.
        """
        opened = self.others[name]
        if opened is None:
            raise LeftOut(f"needs --{name.replace('_', '-')}, a run that was not given")
        return opened

    def draw_faces(
        self,
        opened: OpenedRun,
        first: int = 0,
        turned: bool = True,
        lights: bool = False,
        strong: bool = False,
    ) -> list[Face]:
        """Draws test persons with basic expressions.

        Args:
            opened (OpenedRun): the run that they are drawn for.
            first (int): first person.
            turned (bool): with yaws other than 0, if the run's data have them.
            lights (bool): with the fixed lights, else the frontal light.
            strong (bool): with larger yaws, different expressions, and none that is neutral.
        """
        variation = opened.configuration.data.variation
        split, count = ("poc-test", 22) if opened.configuration.data.of_concept else ("test", 54)
        yaws: tuple[float, ...] = (-40.0, 20.0, 40.0, -20.0) if strong else (0.0, 20.0, -20.0, 10.0)
        if variation == "pose":
            yaws = tuple(20.0 * round(yaw / 20) for yaw in yaws)  # its bins
        turned = turned and variation != "expression"
        names = _OF_SOURCES if strong else _OF_TARGETS
        made = []
        for row in range(self.rows):
            yaw = yaws[row % len(yaws)] if turned else 0.0
            light = str((3 + 5 * (row + first)) % 16) if lights else "front"
            made.append(
                opened.inputs.generate(
                    split, str((first + row) % count), names[row % len(names)],
                    f"{yaw:g}", light,
                )
            )  # fmt: skip
        return made

    @functools.cached_property
    def training(self) -> pictures.Pictures:
        """Pictures of training persons, with all their variation."""
        needed = math.prod(ALS_SIZES)
        if self.fitted < needed:
            raise ConfigurationError(
                f"fitted must be at least {needed}, for the multilinear baseline, got {self.fitted}"
            )
        return pictures.draw_training(self.main.configuration, self.fitted)

    @functools.cached_property
    def multilinear(self) -> Multilinear:
        """The multilinear model after [37] of the unaligned training pictures."""
        return Multilinear(self.training, ALS_SIZES)

    @functools.cached_property
    def expression_mode(self) -> str:
        """The factor of `multilinear` that best predicts the expressions of the training labels."""
        labels = self.training.packed["expression"].numpy()
        right = {
            mode: measure_accuracy(z.numpy(), labels, folds=3).random
            for mode, z in zip(MODES, self.multilinear.model.factors, strict=True)
        }
        return max(right, key=right.__getitem__)

    def fit_landmarks(self, faces: list[Face]) -> LandmarkFit:
        """Fits the face model to the faces' true landmarks."""
        points = torch.stack([face.landmarks for face in faces if face.landmarks is not None])
        size = self.main.inputs.size
        return fit_landmarks(self.main.inputs.face_model, from_pixels(points + 0.5, size))


Maker = Callable[[Material], Figure]
