"""The command line of training: preset, file, single entries."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ntensor.faces.reading import read_yaml

from . import Configuration, from_file, settle_face_model
from .presets import PRESETS, find_preset


@dataclass(frozen=True)
class Command:
    """Trains a face model.

    Attributes:
        preset: the configuration to start from.
        config: a YAML or JSON file; its entries override the preset.
        out: folder of the run; an existing run is continued.
        configuration: single entries, which override preset and file.
    """

    preset: str = "tiny"
    config: Path | None = None
    out: Path = Path("runs/faces")


def read_command_line(arguments: Sequence[str] | None = None) -> tuple[Configuration, Path]:
    """The configuration and the folder given by `--preset`, `--config` and `--out`, and by options
    for single entries, such as `--training.steps 100` or `--backend reference`.

    Raises:
        ConfigurationError: an invalid preset, file or entry; see `settle_face_model`.
    """
    import tyro

    words = list(sys.argv[1:] if arguments is None else arguments)
    helping = any(word in ("-h", "--help") for word in words)
    known = [word for word in words if word not in ("-h", "--help")]
    command, rest = tyro.cli(
        Command,
        prog="python -m ntensor.faces.train",
        args=known,
        return_unknown_args=True,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    base = find_preset(command.preset)
    if command.config is not None:
        base = from_file(command.config, base)
    shorter = {"--backend": "--training.backend", "--device": "--training.device"}
    rest = [shorter.get(word, word) for word in rest]
    configuration = tyro.cli(
        Configuration,
        prog="python -m ntensor.faces.train",
        default=base,
        args=[*rest, *(["--help"] if helping else [])],
        description="Options: --preset {" + ",".join(PRESETS) + "}, --config FILE, --out FOLDER, "
        "and every entry of the configuration:",
    )
    return _settle(configuration, command.config, rest), command.out


def _settle(
    configuration: Configuration, config: Path | None, words: Sequence[str]
) -> Configuration:
    """Settles the configuration's face model by what the user specified; see `face_source`."""
    file: dict[str, Any] = {} if config is None else read_yaml(config).get("data", {})
    options = {word.split("=")[0] for word in words}
    named = "face_model" in file
    chosen = "--data.vertices" in options or ("vertices" in file and not named)
    return replace(configuration, data=settle_face_model(configuration.data, chosen, named))
