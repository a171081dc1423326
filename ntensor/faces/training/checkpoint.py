"""Checkpoints: folders of safetensors and JSON files, written atomically.

A checkpoint is written to a folder of another name, flushed to disk and renamed. A process that is
killed while writing leaves that folder behind; no reader opens it, and the next writer removes it.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ntensor.faces.common.errors import CheckpointError, DamagedData
from ntensor.faces.reading import check_tensors, read_json, read_tensors
from ntensor.faces.writing import files
from ntensor.faces.writing.files import UNFINISHED, flush

PREFIX = "step-"
CONFIGURATION = "configuration.json"

# The state of an optimizer, per parameter.
_ENTRIES: dict[type[torch.optim.Optimizer], tuple[str, ...]] = {
    torch.optim.Adam: ("step", "exp_avg", "exp_avg_sq"),
}
_NOT_NEGATIVE = ("step", "exp_avg_sq")


def folder_of(run: Path, step: int) -> Path:
    """The folder of the checkpoint of `step`."""
    return run / "checkpoints" / f"{PREFIX}{step:08d}"


def saved_steps(run: Path) -> list[int]:
    """Steps of the complete checkpoints in a run's folder, oldest first."""
    folders = [path for path in (run / "checkpoints").glob(f"{PREFIX}*") if path.is_dir()]
    numbers = [path.name.removeprefix(PREFIX) for path in folders]
    # Folders with other names are ignored.
    steps = {int(number): number for number in numbers if re.fullmatch("[0-9]{8,18}", number)}
    return sorted(step for step, number in steps.items() if number == f"{step:08d}")


def best(run: Path) -> tuple[int, float] | None:
    """Step and validation value of the best complete checkpoint, the earliest among equals.

    None if no checkpoint has a finite value. Only the checkpoints themselves are read, so no
    killed process can leave anything that contradicts them.

    Raises:
        CheckpointError: a checkpoint is damaged.
    """
    scored = []
    for step in saved_steps(run):
        folder = folder_of(run, step)
        try:
            value: float | None = read_values(folder).get("validation")
        except CheckpointError:
            # Training may remove old checkpoints at the same time.
            if folder.exists():
                raise
            continue
        if value is not None and math.isfinite(value):
            scored.append((value, step))
    return min(scored)[::-1] if scored else None


def save(
    run: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], values: Mapping[str, Any]
) -> Path:
    """Writes the checkpoint of `step` and returns its folder.

    Args:
        run: folder of the run.
        step: updates done.
        tensors: named tensors by file stem; each stem becomes `<stem>.safetensors`.
        values: JSON-serialisable values for `state.json`.

    Raises:
        CheckpointError: it cannot be written. Existing checkpoints are unaffected.
    """
    from safetensors.torch import save_file

    target = folder_of(run, step)
    if target.exists():
        return target
    unfinished = target.with_name(f"{UNFINISHED}{target.name}")
    try:
        files.remove_unfinished(target.parent)
        unfinished.mkdir(parents=True)
        for stem, named in tensors.items():
            path = unfinished / f"{stem}.safetensors"
            save_file({name: detach_copy(tensor) for name, tensor in named.items()}, path)
            flush(path)
        state = unfinished / "state.json"
        state.write_text(json.dumps(dict(values), indent=2) + "\n", encoding="utf-8")
        flush(state)
        flush(unfinished)
        os.replace(unfinished, target)
        flush(target.parent)
    except Exception as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        if not isinstance(error, OSError) and "SafetensorError" not in type(error).__name__:
            raise
        stays = saved_steps(run)
        last = f"the last complete one is {folder_of(run, stays[-1])}" if stays else "there is none"
        raise CheckpointError(f"{target}: cannot be written ({error}); {last}") from error
    return target


def load(
    folder: Path, stems: tuple[str, ...] = ("model",)
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Reads a checkpoint: tensors by file stem, and the values of `save`.

    Raises:
        CheckpointError: a file is missing, truncated or damaged.
    """
    try:
        values = read_values(folder)
        tensors = {stem: read_tensors(folder / f"{stem}.safetensors")[0] for stem in stems}
    except DamagedData as error:
        raise _explain_damage(folder, error) from error
    return tensors, values


def read_values(folder: Path) -> dict[str, Any]:
    """Reads the values of `save`.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    path = folder / "state.json"
    try:
        values = read_json(path, dict[str, Any])
        step, value = values.get("step"), values.get("validation")
        if type(step) is not int or folder.name != f"{PREFIX}{step:08d}":
            raise DamagedData(path, None, f"step must be the folder's, got {step!r}")
        if not isinstance(value, float | None):
            raise DamagedData(path, None, f"validation must be a number or null, got {value!r}")
    except DamagedData as error:
        raise _explain_damage(folder, error) from error
    return values


def _explain_damage(folder: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{folder}: not a complete checkpoint ({error}); remove it to go back to the previous one"
    )


def prune(run: Path, keep: int, every: int) -> None:
    """Removes all checkpoints except the newest `keep` and the best.

    A checkpoint saved by a stop between two multiples of `every` is removed once there is a newer
    one, so a stopped run keeps the same checkpoints as an uninterrupted one.
    """
    files.remove_unfinished(run / "checkpoints")
    marked = best(run)
    steps = saved_steps(run)
    kept = [step for step in steps if step % every == 0 or step == steps[-1]][-keep:]
    for step in steps:
        if step not in kept and (marked is None or step != marked[0]):
            # Renamed first: a killed process leaves nothing that looks like a complete checkpoint.
            old = folder_of(run, step)
            gone = old.with_name(f"{UNFINISHED}{old.name}")
            os.replace(old, gone)
            shutil.rmtree(gone)


def check_writable(run: Path, wanted_bytes: int) -> None:
    """Refuses a folder that cannot hold a run, before anything is computed.

    Raises:
        OutputError: the folder cannot be created or is not writable.
        CheckpointError: the disk has less than `wanted_bytes` left.
    """
    folder = run / "checkpoints"
    files.check_writable(folder)
    free = shutil.disk_usage(folder).free
    if free < wanted_bytes:
        raise CheckpointError(
            f"{run}: checkpoints need {wanted_bytes / 1e6:.0f} MB, the disk has {free / 1e6:.0f} MB"
        )


def detach_copy(tensor: Tensor) -> Tensor:
    """A contiguous copy on the CPU."""
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def pack_optimizer(name: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Every tensor of an optimizer's state, by `name.parameter.entry`."""
    return {
        f"{name}.{parameter}.{entry}": torch.as_tensor(value)
        for parameter, entries in optimizer.state_dict()["state"].items()
        for entry, value in entries.items()
    }


def unpack_optimizer(
    name: str,
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
    stepped: bool = True,
) -> None:
    """Restores the state saved by `pack_optimizer`; the optimizer keeps its hyper-parameters.

    Args:
        name, optimizer: as for `pack_optimizer`.
        tensors: the result of `pack_optimizer`.
        stepped: whether the optimizer had made a step; it has no state before the first.

    Raises:
        CheckpointError: an entry is missing or unknown, or does not have its parameter's type and
            shape.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    mine = {key: value for key, value in tensors.items() if key.startswith(f"{name}.")}
    state: dict[int, dict[str, Tensor]] = {}
    wanted: dict[str, Tensor] = {}
    for key, value in mine.items():
        _, number, entry = (*key.split("."), "", "")[:3]
        if not number.isdecimal() or int(number) >= len(parameters):
            raise CheckpointError(f"{key}: expected one of {len(parameters)} parameters")
        parameter = parameters[int(number)]
        for other in _ENTRIES[type(optimizer)]:
            wanted[f"{name}.{int(number)}.{other}"] = (
                torch.zeros((), device="meta") if other == "step" else parameter
            )
        kept = value
        if value.dim() and value.shape == parameter.shape:
            kept = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        state.setdefault(int(number), {})[entry] = kept
    try:
        check_tensors(mine, wanted)
    except ValueError as error:
        raise CheckpointError(f"optimizer state: {error}") from error
    squares = [value for key, value in mine.items() if key.endswith(_NOT_NEGATIVE)]
    if (stepped and not mine) or any(float(value.min()) < 0 for value in squares):
        raise CheckpointError(f"{name}: expected its state, without negative squares, got another")
    whole = optimizer.state_dict()
    whole["state"] = state
    optimizer.load_state_dict(whole)
