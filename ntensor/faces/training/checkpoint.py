"""Checkpoints: tensors as safetensors, the rest as JSON, a folder that appears whole or not at all.

A checkpoint is written into a folder of another name, flushed to the disk, and renamed. A process
that dies meanwhile leaves that folder, which no reader looks at and the next writer removes.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ntensor.faces import files
from ntensor.faces.errors import CheckpointError
from ntensor.faces.files import UNFINISHED, flush

PREFIX = "step-"
CONFIGURATION = "configuration.json"


def folder_of(run: Path, step: int) -> Path:
    """Where the checkpoint of `step` stands."""
    return run / "checkpoints" / f"{PREFIX}{step:08d}"


def saved_steps(run: Path) -> list[int]:
    """Steps of the whole checkpoints in a run's folder, oldest first."""
    names = [path.name for path in (run / "checkpoints").glob(f"{PREFIX}*")]
    return sorted(int(name.removeprefix(PREFIX)) for name in names)


def best(run: Path) -> tuple[int, float] | None:
    """Step and validation value of the best whole checkpoint, of equal ones the first.

    None where none has a finite value. What the checkpoints say is all that tells it, so that a
    process that dies at any moment leaves nothing that contradicts them.

    Raises:
        CheckpointError: one is damaged.
    """
    found = []
    for step in saved_steps(run):
        folder = folder_of(run, step)
        try:
            value = values_of(folder).get("validation")
        except CheckpointError:
            # Training removes old checkpoints while others read.
            if folder.exists():
                raise
            continue
        if isinstance(value, float) and math.isfinite(value):
            found.append((value, step))
    return min(found)[::-1] if found else None


def save(
    run: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], values: Mapping[str, Any]
) -> Path:
    """Writes the checkpoint of `step`; its folder.

    Args:
        run: folder of the run.
        step: updates done.
        tensors: file stems to named tensors; each stem becomes `<stem>.safetensors`.
        values: what `json` can write; becomes `state.json`.

    Raises:
        CheckpointError: the disk refuses. Checkpoints that stand stay whole.
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
            save_file({name: plain(tensor) for name, tensor in named.items()}, path)
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
        last = f"the last whole one is {folder_of(run, stays[-1])}" if stays else "there is none"
        raise CheckpointError(f"{target}: cannot be written ({error}); {last}") from error
    return target


def load(
    folder: Path, stems: tuple[str, ...] = ("model",)
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Tensors by file stem, and the values of `save`.

    Raises:
        CheckpointError: a file is missing, cut short or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = {stem: load_file(folder / f"{stem}.safetensors") for stem in stems}
    except (OSError, ValueError, SafetensorError) as error:
        raise _damaged(folder, error) from error
    return tensors, values_of(folder)


def values_of(folder: Path) -> dict[str, Any]:
    """The values of `save`.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        values = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        return dict(values)
    except (OSError, ValueError, TypeError) as error:
        raise _damaged(folder, error) from error


def _damaged(folder: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{folder}: not a whole checkpoint ({error}); remove it to go back to the one before"
    )


def prune(run: Path, keep: int) -> None:
    """Removes all checkpoints but the newest `keep` and the best."""
    files.remove_unfinished(run / "checkpoints")
    marked = best(run)
    for step in saved_steps(run)[:-keep]:
        if marked is None or step != marked[0]:
            # Renamed first: a process that dies while it removes leaves nothing that looks whole.
            old = folder_of(run, step)
            gone = old.with_name(f"{UNFINISHED}{old.name}")
            os.replace(old, gone)
            shutil.rmtree(gone)


def check_writable(run: Path, wanted_bytes: int) -> None:
    """Refuses a folder that cannot hold a run, before anything is computed.

    Raises:
        OutputError: no folder can be made there, or it cannot be written.
        CheckpointError: the disk has less than `wanted_bytes` left.
    """
    folder = run / "checkpoints"
    files.check_writable(folder)
    free = shutil.disk_usage(folder).free
    if free < wanted_bytes:
        raise CheckpointError(
            f"{run}: checkpoints need {wanted_bytes / 1e6:.0f} MB, the disk has {free / 1e6:.0f} MB"
        )


def plain(tensor: Tensor) -> Tensor:
    """On the processor, contiguous, with memory of its own."""
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def pack_optimizer(name: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Every tensor of an optimizer's state, by `name.parameter.entry`."""
    return {
        f"{name}.{parameter}.{entry}": torch.as_tensor(value)
        for parameter, entries in optimizer.state_dict()["state"].items()
        for entry, value in entries.items()
    }


def unpack_optimizer(
    name: str, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Puts the state of `pack_optimizer` back; hyper-parameters stay the optimizer's own.

    Raises:
        CheckpointError: an entry's shape is not its parameter's.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if not key.startswith(f"{name}."):
            continue
        index, entry = key.removeprefix(f"{name}.").split(".", 1)
        parameter = parameters[int(index)]
        kept = value
        if value.dim():
            if value.shape != parameter.shape:
                raise CheckpointError(
                    f"optimizer state {key}: wanted shape {tuple(parameter.shape)}, "
                    f"got {tuple(value.shape)}"
                )
            kept = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        state.setdefault(int(index), {})[entry] = kept
    whole = optimizer.state_dict()
    whole["state"] = state
    optimizer.load_state_dict(whole)
