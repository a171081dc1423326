"""Trains the ablations and the baselines of an evaluation, one run after the other.

Examples:
    python -m ntensor.faces.sweep --preset tiny --seeds 0 1 2 --out runs/sweep
    python -m ntensor.faces.sweep --preset small --names full no-rotation --out runs/sweep
        --losses.adversarial 1 --losses.verification 1
        --training.verification-weights runs/verification.safetensors
    python -m ntensor.faces.sweep --preset tiny --steps 400 --seconds 3600 --dry-run

Names:
    full             the preset
    no-multilinear   without shape, frontal image and frontal normals in the loss (streams 1 and 3)
    no-adversary     without the adversarial loss
    no-verification  without the verification loss
    no-independence  without the term against correlations of codes
    no-pairs         without the contrastive loss on pictures of the same person
    no-swap          without the loss on codes swapped within a pair of pictures
    no-skips         without skip connections from the encoder
    no-normalisation without normalising the mean and contrast of the encoder's input
    no-rotation      the pose code does not rotate the feature
    plain            an adversarial auto-encoder with one code
    intrinsic        the network after [30]

Every run has a folder `OUT/NAME-sSEED`, and is trained by a command `python -m ntensor.faces.train`
that is printed. Existing runs are continued and finished ones skipped, so the same command resumes.
If a folder holds a run with other settings, nothing is trained. Ablations of terms that the preset
does not have are left out. Unknown options are passed to every run, before those of the ablation.
"""

from __future__ import annotations

from .common.launch import launch

if __name__ == "__main__":
    launch("ntensor.faces.sweep")

import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from .common.command import command
from .common.errors import ConfigurationError, FacesError
from .configuration import Configuration
from .configuration.command_line import read_command_line
from .configuration.entries import MOST_SEED, Count, Within, check_entries
from .training import checkpoint
from .training.preparation import check_standing

ABLATIONS: dict[str, tuple[str, ...]] = {
    "full": (),
    "no-multilinear": (
        *("--losses.shape", "0", "--losses.frontal-image", "0", "--losses.frontal-normal", "0"),
    ),
    "no-adversary": ("--losses.adversarial", "0"),
    "no-verification": ("--losses.verification", "0"),
    "no-independence": ("--losses.independence", "0"),
    "no-pairs": ("--losses.pairs", "0"),
    "no-swap": ("--losses.swap", "0"),
    "no-skips": ("--model.no-skips",),
    "no-normalisation": ("--model.no-normalise-input",),
    "no-rotation": ("--model.rotation", "off"),
    "plain": ("--model.network", "plain"),
    "intrinsic": ("--model.network", "intrinsic"),
}


@dataclass(frozen=True)
class Sweep:
    """The runs to train.

    Attributes:
        preset: the preset of every run.
        names: of the runs; default: all that differ.
        seeds: of training and data.
        steps: updates per run; 0: the preset's.
        seconds: time limit for starting runs; a started run is finished. 0: no limit.
        out: folder of the runs.
        dry_run: print the commands and train nothing.
    """

    preset: str = "tiny"
    names: tuple[str, ...] = ()
    seeds: Annotated[tuple[int, ...], Within(0, MOST_SEED)] = (0,)
    steps: Count = 0
    seconds: Annotated[float, Within(0)] = 0.0
    out: Path = Path("runs/sweep")
    dry_run: bool = False

    def __post_init__(self) -> None:
        check_entries(self)


@dataclass(frozen=True)
class Planned:
    """One run: its folder, its configuration, and the arguments of its command."""

    folder: Path
    configuration: Configuration
    words: tuple[str, ...]

    @property
    def finished(self) -> bool:
        """Whether its last update is saved."""
        return self.configuration.training.steps in checkpoint.saved_steps(self.folder)


def plan(sweep: Sweep, options: Sequence[str] = ()) -> tuple[list[Planned], list[str]]:
    """Plans the runs, seed by seed, and lists the ablations that change nothing.

    Args:
        sweep (Sweep)
        options (sequence of str): options of `python -m ntensor.faces.train` for every run.

    Raises:
        ConfigurationError: an unknown name or preset, or an invalid configuration.
    """
    unknown = sorted(set(sweep.names) - set(ABLATIONS))
    if unknown:
        raise ConfigurationError(
            f"names must be among {', '.join(ABLATIONS)}, got {', '.join(unknown)}"
        )
    if not sweep.seeds:
        raise ConfigurationError("seeds: expected at least one, got none")
    planned, left_out = [], []
    for seed in sweep.seeds:
        common = ["--preset", sweep.preset, *options]
        common += ["--training.steps", str(sweep.steps)] if sweep.steps else []
        common += ["--training.seed", str(seed), "--data.seed", str(seed)]
        full, _ = read_command_line(common)
        for name in sweep.names or ABLATIONS:
            folder = sweep.out / f"{name}-s{seed}"
            words = (*common, *ABLATIONS[name], "--out", str(folder))
            configuration, _ = read_command_line(words)
            if name != "full" and configuration == full:
                left_out += [name] if name not in left_out else []
                continue
            planned.append(Planned(folder, configuration, words))
    return planned, left_out


def run_to_its_end(command: Sequence[str]) -> int:
    """Runs a command and returns its exit status; if interrupted, gives it time to save."""
    with subprocess.Popen(command) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise


def train_all(sweep: Sweep, options: Sequence[str] = ()) -> list[Path]:
    """Trains the planned runs that are not finished; returns the folders of all finished runs.

    Raises:
        FacesError: a run fails, or its folder holds a run of another configuration.
    """
    begin = time.monotonic()
    planned, left_out = plan(sweep, options)
    for name in left_out:
        print(f"{name}: left out, since it is the same as full")
    for run in planned:
        check_standing(run.folder, run.configuration)
    for run in planned:
        if run.finished:
            print(f"{run.folder}: finished")
            continue
        command = [sys.executable, "-m", "ntensor.faces.train", *run.words]
        print("$ " + shlex.join(["python", *command[1:]]), flush=True)
        if sweep.dry_run:
            continue
        if sweep.seconds and time.monotonic() - begin > sweep.seconds:
            print(f"the limit of {sweep.seconds:g} seconds is reached; the same command continues")
            break
        status = run_to_its_end(command)
        if status or not run.finished:
            raise FacesError(
                f"{run.folder}: training ended with status {status} before its last update; the "
                "same command continues"
            )
    return [run.folder for run in planned if run.finished]


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    import tyro

    words = list(sys.argv[1:] if arguments is None else arguments)
    sweep, options = tyro.cli(
        Sweep,
        prog="python -m ntensor.faces.sweep",
        args=words,
        return_unknown_args=True,
        description=__doc__,
    )
    finished = train_all(sweep, options)
    named = " ".join(str(folder) for folder in finished)
    print(f"{sweep.out}: {len(finished)} finished runs")
    if finished:
        print(f"evaluate them with: python -m ntensor.faces.evaluate {named} --out REPORT")
