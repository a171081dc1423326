"""One shard of a stored data set: its arrays, their checks, and the batch made from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ntensor.faces.reading import Expected, read_arrays
from ntensor.faces.rendering import harmonics

from . import scenes

Arrays = dict[str, Any]

# The targets of the losses; column k of a batch's `valid` says whether the sample has target k.
VALID = ("mask", "normal", "pose", "id_3dmm", "exp_3dmm", "shape", "light", "albedo", "frontal")
LABELS = ("identity", "expression", "pose_bin", "light_bin", "differs")
MAPS = ("image", "input", "mask", "normal", "albedo", "texture")
FRONTAL = ("frontal_image", "frontal_normal", "frontal_albedo", "frontal_mask")
# The label `differs` indexes these. Records 2k and 2k + 1 show one person and differ in everything
# else, or in one factor only.
DIFFERS = ("all", "expression", "pose", "light")
# Arrays without a default: a batch has them only if the file does.
_WITHOUT_REPLACEMENT = ("valid", "texture", "input")

_POSE_TOLERANCE = 1e-3
_NORMAL_TOLERANCE = 0.05
LARGEST = {"light": 1e3, "id_3dmm": 1e4, "exp_3dmm": 1e4, "shape": 1e7, "pose": 2.0}


def list_fields(size: int, id_3dmm: int, exp_3dmm: int, vertices: int) -> dict[str, Expected]:
    """Lists every array that a shard may hold.

    Args:
        size (int): pixels per side.
        id_3dmm, exp_3dmm (int): numbers of coefficients.
        vertices (int): number of vertices of the shape.

    Returns:
        dict: type and shape by name, without the leading number of records. Only `image` is
        required.
    """
    colour, single = (3, size, size), (1, size, size)
    fields = {
        name: Expected(
            "int8" if name.endswith("normal") else "uint8", single if "mask" in name else colour
        )
        for name in (*MAPS, *FRONTAL)
    }
    fields |= {
        "pose": Expected("float32", (3, 3)),
        "light": Expected("float32", (3, 9)),
        "id_3dmm": Expected("float32", (id_3dmm,)),
        "exp_3dmm": Expected("float32", (exp_3dmm,)),
        "shape": Expected("float32", (vertices, 3)),
        "valid": Expected("uint16", ()),
    }
    return fields | {name: Expected("int32", ()) for name in LABELS}


def get_input(batch: Mapping[str, Tensor]) -> Tensor:
    """The pictures (Tensor[n, 3, S, S]) that a network sees.

    This is `input`, the picture as a camera delivers it, if the batch has it, else the target
    `image`.
    """
    return batch["input"] if "input" in batch else batch["image"]


def encode(batch: Mapping[str, Tensor]) -> Arrays:
    """Converts a batch, see `Faces.batch`, to the arrays of a shard; other keys are dropped."""
    arrays: Arrays = {}
    for name, value in batch.items():
        value = value.detach().cpu()
        if name.endswith("normal"):
            arrays[name] = (value * 127).round().to(torch.int8).numpy()
        elif name in MAPS or name in FRONTAL:
            arrays[name] = (value * 255).round().to(torch.uint8).numpy()
        elif name == "shape":
            arrays[name] = value.unflatten(1, (-1, 3)).float().numpy()
        elif name in ("pose", "light", "id_3dmm", "exp_3dmm"):
            arrays[name] = value.float().numpy()
        elif name in LABELS:
            arrays[name] = value.to(torch.int32).numpy()
        elif name == "valid":
            bits = 2 ** np.arange(len(VALID))
            arrays[name] = (value.numpy() * bits).sum(1).astype(np.uint16)
    return arrays


def read_shard(path: Path, fields: Mapping[str, Expected], names: list[str], count: int) -> Arrays:
    """Reads the arrays of one file, with the types and shapes given by the set's `meta.json`.

    Raises:
        DamagedData: the file cannot be read, or an array is missing or has the wrong type or shape.
    """
    wanted = {name: Expected(fields[name].kinds, (count, *fields[name].shape)) for name in names}
    return read_arrays(path, wanted)


def find_faults(arrays: Arrays) -> dict[int, str]:
    """Finds the records that cannot be used.

    Checks the parts that a record claims to have:

    - numbers are finite and bounded;
    - the mask is not empty;
    - poses are rotations: `R^T R = I` to 1e-3, and the determinant is positive;
    - normals have unit length wherever the mask is not zero, to 0.05, since they are stored in 8
      bits.

    Returns:
        dict: the reason by record.
    """
    reasons: dict[int, str] = {}
    count = len(arrays["image"])
    valid = find_valid(arrays)

    def note(bad: Any, name: str, reason: str) -> None:
        column = VALID.index("frontal" if name.startswith("frontal") else name)
        for record in np.nonzero(bad & valid[:, column])[0]:
            reasons.setdefault(int(record), f"{name} {reason}")

    for name, largest in LARGEST.items():
        if name in arrays:
            flat = arrays[name].reshape(count, -1)
            note(~np.isfinite(flat).all(1), name, "has NaN or infinite numbers")
            with np.errstate(invalid="ignore"):
                note((np.abs(flat) > largest).any(1), name, f"has numbers beyond {largest:g}")
    if "pose" in arrays:
        pose = np.nan_to_num(arrays["pose"].astype(np.float64))
        off = np.abs(pose.transpose(0, 2, 1) @ pose - np.eye(3)).max((1, 2))
        note(off > _POSE_TOLERANCE, "pose", "is not a rotation: R^T R is not the identity")
        note(np.linalg.det(pose) < 0, "pose", "is a reflection: its determinant is -1")
    if "mask" in arrays:
        note(arrays["mask"].reshape(count, -1).max(1) == 0, "mask", "is empty")
    for normal, mask in (("normal", "mask"), ("frontal_normal", "frontal_mask")):
        if normal in arrays and mask in arrays:
            length = np.linalg.norm(arrays[normal].astype(np.float32) / 127, axis=1)
            wrong = (np.abs(length - 1) > _NORMAL_TOLERANCE) & (arrays[mask][:, 0] > 0)
            note(wrong.any((1, 2)), normal, "is not of unit length everywhere in the mask")
    return reasons


def find_valid(arrays: Arrays) -> Any:
    """Which parts each record has, bool (n, len(VALID)): arrays of the file whose bit is set."""
    count = len(arrays["image"])
    present = np.array(
        [("frontal_image" if name == "frontal" else name) in arrays for name in VALID]
    )
    if "valid" not in arrays:
        return np.broadcast_to(present, (count, len(VALID))).copy()
    bits = arrays["valid"][:, None] >> np.arange(len(VALID)) & 1
    return bits.astype(bool) & present


def decode(arrays: Arrays, fields: Mapping[str, Expected]) -> dict[str, Tensor]:
    """Converts records to a batch with the keys of `Faces.batch`.

    Missing arrays are zero, a missing pose is the identity, and a missing label is -1; `valid`
    marks them. Shading is computed from normals and light. Without frontal pictures, a near-frontal
    sample uses its own picture inside its mask.
    """
    count = len(arrays["image"])
    valid = torch.from_numpy(find_valid(arrays))
    batch: dict[str, Tensor] = {}
    for name, field in fields.items():
        if name in _WITHOUT_REPLACEMENT and name not in arrays:
            continue
        array = arrays.get(name)
        if array is None:
            array = np.zeros((count, *field.shape), field.kinds)
        batch[name] = _to_tensor(name, torch.from_numpy(np.ascontiguousarray(array)))
    for name in LABELS:
        if name not in arrays:
            batch[name] = torch.full((count,), -1)
    batch["pose"][~valid[:, VALID.index("pose")]] = torch.eye(3)
    batch["angles"] = scenes.rotation_to_angles(batch["pose"])
    near = batch["angles"][:, :2].abs().amax(1) < scenes.NEAR_FRONTAL_DEGREES
    batch["near_frontal"] = near & valid[:, VALID.index("pose")]
    batch["shading"] = harmonics.shading(batch["normal"], batch["light"]) * (batch["mask"] > 0)
    if "frontal_image" not in arrays:
        usable = batch["near_frontal"] & valid[:, VALID.index("mask")]
        chosen = usable[:, None, None, None]
        valid[:, VALID.index("frontal")] = usable
        batch["frontal_image"] = batch["image"] * batch["mask"] * chosen
        for name in ("normal", "albedo", "mask"):
            batch[f"frontal_{name}"] = batch[name] * chosen
    batch["valid"] = valid
    return batch


def _to_tensor(name: str, value: Tensor) -> Tensor:
    if name.endswith("normal"):
        # Bitwise equal to `functional.normalize`, whose norm over strided rows is far slower.
        value = value.float()
        length = torch.linalg.vector_norm(value.movedim(1, -1).contiguous(), dim=-1, keepdim=True)
        return value / length.movedim(-1, 1).clamp_min(1e-12)
    if name in MAPS or name in FRONTAL:
        return value.float() / 255
    if name == "shape":
        return value.flatten(1)
    return value.long() if name in LABELS else value
