"""The face model file made from ICT-FaceKit (MIT licence, USC Institute for Creative Technologies).

The file is not part of this package. It is an `.npz` with the mean, 100 identity modes and 28
expressions of "ICT Face Model Light", and material weights. Make it from a checkout of ICT-FaceKit:

    python -m ntensor.faces.morphable.ict_face CHECKOUT --out ict_faces.npz
"""

from __future__ import annotations

from ntensor.faces.common.launch import launch

if __name__ == "__main__":
    launch("ntensor.faces.morphable.ict_face")

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ntensor.faces.common import extras
from ntensor.faces.common.command import command
from ntensor.faces.common.errors import ConfigurationError, DamagedData
from ntensor.faces.reading import Expected, floats, integers, read_arrays, texts
from ntensor.faces.writing.files import check_writable, replacing

from .analytic_face import beard_weight, blush_weight
from .face_model import MATERIALS, FaceModel
from .ict_convert import BASIC, PARTS, convert

IDENTITY_MODES = 80

# Millimetres.
_FARTHEST = 1e6
_PAINT = Expected("uint8", ("V",))
_ARRAYS = {
    "mean": floats("V", 3),
    "triangles": integers("T", 3, most="V"),
    "part": integers("V", most="P"),
    "part_names": texts("P"),
    "landmarks68": integers(68, most="V"),
    "id_q": integers("K", 3, "V", least=-math.inf),
    "id_step": floats(),
    "expr_q": integers("E", 3, "V", least=-math.inf),
    "expr_step": floats(),
    "expr_names": texts("E"),
    "basic_names": texts("B"),
    "basic_weights": floats("B", "E", largest=2),
    "face_count": integers(least=1),
    "narrow_face_count": integers(least=1),
    "shape9375": integers("S", most="V"),
    "eye_dir": floats("V", 3),
    "eye_gaze_front": floats(2, 3),
    **dict.fromkeys(("paint_lips", "paint_brows", "paint_lash", "paint_scalp", "ao"), _PAINT),
}


def load_ict_face(
    path: str | Path, identity_modes: int = IDENTITY_MODES, shape: str = "shape9375"
) -> FaceModel:
    """Reads the face model file.

    Args:
        path: the `.npz`.
        identity_modes (int): number of modes to use, of 100; 80 leave an error of 0.42 mm (rms).
        shape (str): the vertices of the network's shape: `shape9375` (the paper's count), `face`
            (9409), `narrow` (6706) or `all`.

    Returns:
        FaceModel

    Raises:
        DamagedData: not a valid face model file.
        ConfigurationError: an invalid argument.
    """
    path = Path(path)
    arrays = read_arrays(path, _ARRAYS)
    available = arrays["id_q"].shape[0]
    if not 1 <= identity_modes <= available:
        raise ConfigurationError(
            f"load_ict_face: identity_modes must be 1..{available}, got {identity_modes}"
        )
    names = tuple(str(name) for name in arrays["part_names"])
    basic = tuple(str(name) for name in arrays["basic_names"])
    for array, got, wanted in (
        ("part_names", names, tuple(name for name, _, _ in PARTS)),
        ("basic_names", basic, tuple(BASIC)),
    ):
        if got != wanted:
            raise DamagedData(path, None, f"{array} must be {', '.join(wanted)}")
    identity = arrays["id_q"][:identity_modes].transpose(0, 2, 1) * arrays["id_step"]
    expression = arrays["expr_q"].transpose(0, 2, 1) * arrays["expr_step"]
    face = FaceModel(
        source=f"ICT face model, {arrays['mean'].shape[0]} vertices, {identity_modes} modes",
        mean=_to_float(arrays["mean"]),
        identity_modes=_to_float(identity),
        expression_modes=_to_float(expression),
        expression_names=tuple(str(name) for name in arrays["expr_names"]),
        triangles=_to_index(arrays["triangles"]),
        parts=_to_index(arrays["part"]),
        part_names=names,
        landmarks68=_to_index(arrays["landmarks68"]),
        basic_names=basic,
        basic_weights=_to_float(arrays["basic_weights"]),
        materials=_make_materials(arrays, names),
        eye_direction=_find_eye_direction(arrays, names),
        shape_vertices=_choose_shape_vertices(path, arrays, shape),
    )
    for field in dataclasses.fields(face):
        value = getattr(face, field.name)
        if isinstance(value, Tensor) and not bool((value.abs() <= _FARTHEST).all()):
            raise DamagedData(path, None, f"{field.name} has numbers beyond {_FARTHEST:g}")
    return face


def _to_float(array: Any) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def _to_index(array: Any) -> Tensor:
    return torch.from_numpy(np.asarray(array).astype(np.int64))


def _make_materials(arrays: dict[str, Any], names: tuple[str, ...]) -> Tensor:
    part = arrays["part"]
    position = arrays["mean"]
    is_skin = np.isin(part, [names.index("face"), names.index("head_neck")])
    inner = ("mouth_socket", "gums_tongue", "eye_socket_left", "eye_socket_right")
    columns = {
        "lips": arrays["paint_lips"] / 255,
        "brows": arrays["paint_brows"] / 255,
        "lash": arrays["paint_lash"] / 255,
        "scalp": arrays["paint_scalp"] / 255,
        "beard": beard_weight(position) * is_skin,
        "blush": blush_weight(position) * is_skin,
        "teeth": np.isin(part, [names.index("teeth_upper"), names.index("teeth_lower")]),
        "mouth": np.isin(part, [names.index(name) for name in inner]),
        "open_sky": arrays["ao"] / 255,
    }
    return _to_float(np.stack([columns[name] for name in MATERIALS], 1))


def _find_eye_direction(arrays: dict[str, Any], names: tuple[str, ...]) -> Tensor:
    direction = np.zeros_like(arrays["eye_dir"])
    for side, name in enumerate(("eyeball_left", "eyeball_right")):
        chosen = arrays["part"] == names.index(name)
        direction[chosen] = (
            arrays["eye_dir"][chosen] @ _find_gaze_axes(arrays["eye_gaze_front"][side]).T
        )
    return _to_float(direction)


def _find_gaze_axes(gaze: Any) -> Any:
    """The rotation (3, 3) that maps `gaze` to +z and keeps x horizontal."""
    # A gaze of length 0, or straight up, gives NaN.
    with np.errstate(invalid="ignore", divide="ignore"):
        z = gaze / np.linalg.norm(gaze)
        x = np.cross([0.0, 1.0, 0.0], z)
        x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z])


def _choose_shape_vertices(path: Path, arrays: dict[str, Any], shape: str) -> Tensor:
    counts = {
        "face": int(arrays["face_count"]),
        "narrow": int(arrays["narrow_face_count"]),
        "all": arrays["mean"].shape[0],
    }
    if shape == "shape9375":
        return _to_index(arrays["shape9375"])
    if shape not in counts:
        wanted = ", ".join(["shape9375", *counts])
        raise ConfigurationError(f"load_ict_face: shape must be one of {wanted}, got {shape!r}")
    if counts[shape] > counts["all"]:
        raise DamagedData(path, None, f"{shape} has {counts[shape]} of {counts['all']} vertices")
    return torch.arange(counts[shape])


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """The command that makes the face model file from a checkout of ICT-FaceKit."""

    def make(checkout: Path, /, *, out: Path) -> None:
        """Makes a face model file; keep ICT-FaceKit's licence with it.

        Args:
            checkout: the folder of ICT-FaceKit.
            out: the .npz to write.
        """
        check_writable(out.parent)
        arrays = convert(checkout)
        with replacing(out) as unfinished:
            np.savez_compressed(unfinished, **arrays)
        print(f"{out}: {load_ict_face(out, len(arrays['id_q'])).source}")

    tyro = extras.load("tyro")
    tyro.cli(make, prog="python -m ntensor.faces.morphable.ict_face", args=arguments)
