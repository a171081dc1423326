"""A trained run and the input faces of a command."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import torch
from torch import Tensor

from ntensor.faces import editing
from ntensor.faces.common.errors import ConfigurationError, OutputError
from ntensor.faces.configuration.entries import Device, Within
from ntensor.faces.editing import Encoded
from ntensor.faces.media.inputs import Cropping, Face, Inputs, stack_pictures
from ntensor.faces.training.processes import choose_device
from ntensor.faces.training.runs import find_shipped, open_run
from ntensor.faces.training.samples import open_sources

# Number of training pictures for `leak`; its regression has ten unknowns per coordinate.
PICTURES = 256


@dataclasses.dataclass(frozen=True)
class Options(Cropping):
    """Options that all commands on faces share.

    Attributes:
        checkpoint: of the run.
        device: auto, cpu or cuda.
        face_model: an ICT face file or the word analytic, instead of the one that the run's
            configuration names.
        scale: enlargement of figures.
    """

    checkpoint: Literal["best", "last"] = "best"
    device: Device = "auto"
    face_model: str | None = None
    scale: Annotated[int, Within(1, 64)] = 2


class OpenedRun:
    """A run's network on a device, and the faces read for it.

    Args:
        run (Path or None): folder written by training, or a file of weights; None: those included
            in the package.
        options (Options)
        edits (str): keys of `editing.CODES` that the network must have codes for.

    Attributes:
        model, configuration, step, inputs, options

    Raises:
        FacesError: there is no such run, device or code.
    """

    def __init__(self, run: Path | None, options: Options, *edits: str) -> None:
        run = find_shipped() if run is None else run
        device = choose_device(options.device)
        trained = open_run(run, options.checkpoint)
        self.model, self.step, configuration = trained.model, trained.step, trained.configuration
        if options.face_model is not None:
            data = dataclasses.replace(configuration.data, face_model=options.face_model)
            configuration = dataclasses.replace(configuration, data=data)
        editing.require_codes(self.model, *edits)
        self.model.to(device)
        self.run, self.configuration, self.options = run, configuration, options
        self.device = device
        looking = self.model if options.place == "auto" else None
        self.inputs = Inputs(
            configuration, options.landmarks, options.box, looking, trained.surface
        )

    def read(self, words: Sequence[str]) -> list[Face]:
        """Reads the faces that these words name; see `inputs`."""
        if not words:
            raise ConfigurationError("expected at least one face, got none")
        return self.inputs.read(words)

    def encode(self, faces: Sequence[Face]) -> Encoded:
        """The codes of faces."""
        return editing.encode(self.model, stack_pictures(faces).to(self.device))

    def check_output(self, path: Path) -> Path:
        """Checks the path of a file to write, and returns it.

        Raises:
            OutputError: it is a picture or video that was read.
        """
        if path.resolve() in self.inputs.files:
            raise OutputError(f"{path}: is one of the input files; choose another --out")
        return path

    @property
    def separated(self) -> bool:
        """Whether training kept the identity's code independent of the pose."""
        return self.configuration.losses.independence > 0

    @functools.cached_property
    def leak(self) -> Tensor:
        """The slope of `fit_pose_leak` over `PICTURES` training pictures.

        Raises:
            FacesError: the training data cannot be read, or the network has no pose.
        """
        size = self.configuration.model.image_size
        training, _ = open_sources(self.configuration.data, size)
        count = min(PICTURES, training.size or PICTURES)
        collected: dict[str, list[Tensor]] = {"z_p": [], "z_id": []}
        editing.require_codes(self.model, "pose", "identity")
        for first in range(0, count, 32):
            batch = training[list(range(first, min(count, first + 32)))]
            codes = editing.encode(self.model, batch["image"].to(self.device)).codes
            for name, parts in collected.items():
                parts.append(codes[name])
        return editing.fit_pose_leak({name: torch.cat(parts) for name, parts in collected.items()})

    def to_colours(self, images: Tensor) -> Tensor:
        """Pictures (n, 3, S, S) as colours 0 to 1 on the CPU."""
        return images.detach().float().cpu().clamp(0, 1)


def pair_faces(
    first: list[Face], second: list[Face], name: str, other: str
) -> tuple[list[Face], list[Face]]:
    """Brings two lists of faces to the same length; a single face is repeated.

    Raises:
        ConfigurationError: their lengths do not match.
    """
    n = max(len(first), len(second))
    if not {len(first), len(second)} <= {1, n}:
        raise ConfigurationError(
            f"expected as many {name} as {other}, or one of either, got {len(first)} and "
            f"{len(second)}; the subcommand grid shows every pair"
        )
    return first * (n // len(first)), second * (n // len(second))


def to_cpu(output: dict[str, Tensor]) -> dict[str, Tensor]:
    """The outputs on the CPU in float32."""
    return {name: value.detach().float().cpu() for name, value in output.items()}
