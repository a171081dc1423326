"""A trained network as one small file: half precision, large layers as products of two factors.

It is a safetensors file. For each tensor of the network's `state_dict` it holds

- either the tensor itself, in half precision if it is floating-point with two or more dimensions;
- or `NAME.basis` (k_x, r), an orthogonal basis of the layer's outputs, and `NAME.core` (r, ...),
  such that the tensor is `basis @ core`. `ntensor.faces.weights` computes them.

The optional `surface.triangles` and `surface.landmarks68` belong to the network's shape, whose mean
is among the network's statistics. With them, faces can be aligned, drawn and written without the
face model of the training. The metadata entry `ntensor` describes the network as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from ntensor.faces.common.errors import DamagedData
from ntensor.faces.configuration import Configuration
from ntensor.faces.configuration.entries import Count, Word, check_entry
from ntensor.faces.configuration.files import from_mapping
from ntensor.faces.morphable.face_model import FaceModel, make_rigid_face
from ntensor.faces.networks.model import Model, build
from ntensor.faces.reading import check_tensors, parse_document, read_tensors
from ntensor.faces.writing.files import replacing

SUFFIX = ".safetensors"
BASIS, CORE = ".basis", ".core"
NOTE = "ntensor"
FLOATS = (torch.float16, torch.bfloat16, torch.float32)
# Limit on the bytes of all factored tensors, multiplied out.
MOST_BYTES = 2_000_000_000
_SURFACE = ("surface.triangles", "surface.landmarks68")
# Printed to the user.
_PRINTABLE = Word(r"[ -~]{1,200}", "up to 200 printable characters")


@dataclass(frozen=True)
class Note:
    """The file's description of its network.

    Attributes:
        format: version of the file format.
        step: number of updates.
        faces: a description of the face model that it was trained with.
        configuration: of the run, without paths.
    """

    format: Literal[1]
    step: int
    faces: str
    configuration: dict[str, Any]

    def __post_init__(self) -> None:
        check_entry("step", self.step, Count)
        check_entry("faces", self.faces, Annotated[str, _PRINTABLE])


@dataclass(frozen=True)
class Trained:
    """A trained network.

    Attributes:
        model, configuration
        step: number of updates.
        surface: mean, triangles and landmarks of its shape; None: those of the face model in the
            configuration.
    """

    model: Model
    configuration: Configuration
    step: int
    surface: FaceModel | None = None


def write_packed(
    path: Path,
    tensors: Mapping[str, Tensor],
    configuration: Configuration,
    step: int,
    faces: str,
    surface: FaceModel | None,
) -> None:
    """Writes the file atomically.

    Args:
        path: of the file.
        tensors: of the network, some as factors; see the module.
        configuration, step, faces: see `Note`.
        surface: of the network's shape.

    Raises:
        OutputError: it cannot be written.
    """
    content = serialise(tensors, configuration, step, faces, surface)
    with replacing(path) as unfinished:
        unfinished.write_bytes(content)


def serialise(
    tensors: Mapping[str, Tensor],
    configuration: Configuration,
    step: int,
    faces: str,
    surface: FaceModel | None,
) -> bytes:
    """Serialises the content of the file; see `write_packed`."""
    from safetensors.torch import save

    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    note = json.dumps(asdict(Note(1, step, faces, asdict(configuration))))
    return save(kept | list_surface(surface), {NOTE: note})


def list_surface(surface: FaceModel | None) -> dict[str, Tensor]:
    """The tensors of a surface, as stored in files."""
    if surface is None:
        return {}
    tensors = (surface.triangles, surface.landmarks68)
    return {n: t.to(torch.int32).contiguous() for n, t in zip(_SURFACE, tensors, strict=True)}


def read_packed(path: Path) -> Trained:
    """Reads the network of a file, in float32.

    Raises:
        ValueError: the file is missing, damaged, or of another kind.
    """
    tensors, notes = read_tensors(path)
    if NOTE not in notes:
        raise DamagedData(path, None, f"the note {NOTE} is missing")
    note = parse_document(notes[NOTE], Note, path)
    configuration = from_mapping(note.configuration, str(path))
    # On "meta", since sizes in a damaged configuration could request too much memory.
    with torch.device("meta"):
        model = build(configuration.model)
    whole = {name: value for name, value in tensors.items() if name not in _SURFACE}
    restored = restore_tensors(whole, model.state_dict())
    surface = {name: value for name, value in tensors.items() if name in _SURFACE}
    model.load_state_dict(restored, assign=True)
    found = read_surface(surface, model, note.faces)
    return Trained(model.eval(), configuration, note.step, found)


def restore_tensors(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Restores the network's tensors; factored ones are multiplied out.

    Args:
        given: the tensors of the file.
        wanted: the tensors of the network, with arbitrary values.

    Raises:
        ValueError: wrong names, types or shapes, or numbers that are not finite.
    """
    expected: dict[str, Tensor] = {}
    factored = [name for name in wanted if f"{name}{BASIS}" in given]
    for name, tensor in wanted.items():
        if name in factored:
            basis = given[f"{name}{BASIS}"]
            rank = basis.shape[-1] if basis.dim() else 0
            expected[f"{name}{BASIS}"] = tensor.new_empty(len(tensor), rank)
            expected[f"{name}{CORE}"] = tensor.new_empty(rank, *tensor.shape[1:])
        else:
            expected[name] = tensor
    check_tensors(given, {name: _like(given.get(name), t) for name, t in expected.items()})
    size = sum(4 * wanted[name].numel() for name in factored)
    if size > MOST_BYTES:
        raise ValueError(f"expected factors of at most {MOST_BYTES} bytes, got {size}")
    restored = {}
    for name, tensor in wanted.items():
        if name in factored:
            basis, core = (given[f"{name}{part}"].float() for part in (BASIS, CORE))
            restored[name] = (basis @ core.flatten(1)).view(tensor.shape)
            if not bool(restored[name].isfinite().all()):
                raise ValueError(f"{name}: the product of its factors is not finite")
        else:
            restored[name] = given[name].to(tensor.dtype)
    return restored


def _like(given: Tensor | None, wanted: Tensor) -> Tensor:
    """`wanted` on "meta", in the precision of the given tensor."""
    known = given is not None and wanted.dtype == torch.float32 and given.dtype in FLOATS
    dtype = given.dtype if given is not None and known else wanted.dtype
    return torch.empty(wanted.shape, dtype=dtype, device="meta")


def read_surface(given: Mapping[str, Tensor], model: Model, source: str) -> FaceModel | None:
    """Reads the surface of a network's shape; None if there is none.

    Args:
        given: as returned by `list_surface`.
        model: its statistics hold the mean.
        source: a description of the face model.

    Raises:
        ValueError: it does not fit the network.
    """
    if not given:
        return None
    extent = model.statistics.sizes.get("shape", 0)
    triangles = given.get("surface.triangles")
    count = len(triangles) if triangles is not None and triangles.dim() else 0
    wanted = (torch.empty(count, 3), torch.empty(68))
    check_tensors(given, {n: t.int() for n, t in zip(_SURFACE, wanted, strict=True)})
    if extent % 3 or not extent:
        raise ValueError(f"a surface needs a shape of vertices, got {extent} coordinates")
    for name, least in zip(_SURFACE, (0, -1), strict=True):
        value = given[name]
        if value.numel() and not (least <= int(value.min()) and int(value.max()) < extent // 3):
            raise ValueError(
                f"{name} must be {least} to {extent // 3 - 1}, got {int(value.min())} to "
                f"{int(value.max())}"
            )
    mean = model.statistics.get_buffer("shape_mean").view(-1, 3)
    return make_rigid_face(source, mean, *(given[name].long() for name in _SURFACE))
