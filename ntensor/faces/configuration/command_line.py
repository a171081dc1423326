"""The command line of training: preset, file, single entries."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import Configuration, from_file
from .presets import PRESETS, find_preset


@dataclass(frozen=True)
class Command:
    """Trains a face model.

    Attributes:
        preset: the configuration to start from.
        config: a YAML or JSON file whose entries replace those of the preset.
        out: folder of the run; a run that stands there is continued.
        configuration: single entries, which replace those of preset and file.
    """

    preset: str = "tiny"
    config: Path | None = None
    out: Path = Path("runs/faces")


def read_command_line(arguments: Sequence[str] | None = None) -> tuple[Configuration, Path]:
    """The configuration and the folder that a command line names: `--preset`, `--config`, `--out`,
    then any entry, as `--training.steps 100`, `--backend reference` among them."""
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
    return configuration, command.out
