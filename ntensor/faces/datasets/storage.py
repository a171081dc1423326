"""Stored data sets of faces: a folder of shards, a `meta.json`, and a linear shape basis.

| file | content |
|---|---|
| `meta.json` | version, axes, order of the harmonics, sizes, arrays, shards and their counts, split, source |
| `shard_000.npz`, ... | arrays of up to `shard_size` records each, see `records.list_fields` |
| `basis.npz` (optional) | `mean` (V,3), `id` (k_a,V,3), `exp` (k_b,V,3), `triangles`, `landmarks68`: shapes are computed as mean + id and exp coefficients times modes, and not stored in shards |
| `statistics.npz` (optional) | `NAME_mean`, `NAME_std` (at least 1e-4) of `id_3dmm`, `exp_3dmm`, `shape` |

Only the array `image` is required. `input` is the picture as a camera delivers it; a network sees
it instead of its target, `image`. If pictures of one person are adjacent, `differs` says in which
factor they differ.

Colours have 8 bits. Normals have 8 bits with sign: 127 is 1; x right, y up, z to the camera.
Everything else is float32. Files are written atomically.
"""  # noqa: E501

from __future__ import annotations

import contextlib
import dataclasses
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ntensor.faces.common.errors import ConfigurationError, DamagedData
from ntensor.faces.morphable.face_model import FaceModel
from ntensor.faces.reading import Expected, floats, integers, read_arrays, read_json
from ntensor.faces.rendering import harmonics
from ntensor.faces.writing.files import LOCK, locked, remove_unfinished, replacing, write_text

from .records import LARGEST, Arrays, encode, find_faults, list_fields

FORMAT, VERSION = "ntensor faces", 1
AXES = "x right, y up, z to the camera"
WRITTEN = {"format": FORMAT, "version": VERSION, "axes": AXES, "harmonics": harmonics.ORDER}
META = "meta.json"
STATISTICS = ("id_3dmm", "exp_3dmm", "shape")
# Limits on the numbers in `meta.json`.
MOST = {"size": 2048, "id_3dmm": 100_000, "exp_3dmm": 100_000, "vertices": 10_000_000}
MOST_RECORDS = 50_000_000
# Standardising by a smaller deviation would amplify noise.
SMALLEST_DEVIATION = 1e-4


@dataclasses.dataclass
class Meta:
    """The content of `meta.json`.

    Attributes:
        size, id_3dmm, exp_3dmm, vertices (int): sizes, see `records.list_fields`.
        arrays (list of str): the arrays of every shard.
        shards (list of [file, count])
        split, source (str): descriptions for reports.
        extra (dict): additional entries of the writer.

    Raises:
        ValueError: an invalid size, array or shard.
    """

    size: int
    id_3dmm: int
    exp_3dmm: int
    vertices: int
    arrays: list[str]
    shards: list[tuple[str, int]]
    split: str
    source: str
    extra: dict[str, Any]

    def __post_init__(self) -> None:
        for name, most in MOST.items():
            least = 1 if name == "size" else 0
            if not least <= getattr(self, name) <= most:
                raise ValueError(
                    f"{name} must be a whole number from {least} to {most}, got "
                    f"{getattr(self, name)}"
                )
        unknown = set(self.arrays) - set(self.fields)
        if unknown or "image" not in self.arrays or len(set(self.arrays)) < len(self.arrays):
            raise ValueError(f"arrays must be of {', '.join(self.fields)} with image")
        for file, count in self.shards:
            if Path(file).name != file or count < 1:
                raise ValueError(f"a shard must be [file, count], got {[file, count]!r}")
        if self.count > MOST_RECORDS:
            raise ValueError(f"shards must have at most {MOST_RECORDS} records, got {self.count}")

    @property
    def count(self) -> int:
        """Records in all shards."""
        return sum(count for _, count in self.shards)

    @property
    def fields(self) -> dict[str, Expected]:
        """Types and shapes of all possible arrays."""
        return list_fields(self.size, self.id_3dmm, self.exp_3dmm, self.vertices)

    def write(self, folder: Path) -> None:
        """Replaces the folder's `meta.json`."""
        write_text(folder / META, json.dumps(WRITTEN | dataclasses.asdict(self), indent=1))


def read_meta(folder: str | Path) -> Meta:
    """Reads and checks `meta.json`.

    Raises:
        DamagedData: it is missing, not JSON or incomplete, or has another version, other axes or
            another order of the harmonics.
    """
    path = Path(folder) / META
    content = read_json(path, dict[str, Any])
    for name, value in WRITTEN.items():
        if content.get(name) != value:
            raise DamagedData(path, None, f"{name} must be {value!r}, got {content.get(name)!r}")
    meta = read_json(path, Meta)
    if not meta.shards:
        raise DamagedData(path, None, "shards must list at least one, got none")
    return meta


def _replace_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """As `numpy.savez_compressed`, in two thirds of its time; files grow by a fortieth."""
    with (
        replacing(path) as unfinished,
        zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file,
    ):
        for name, array in arrays.items():
            with file.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.asanyarray(array), allow_pickle=False)


class ShardWriter:
    """Writes a data set shard by shard, or continues the one in the folder.

    `meta.json` is replaced after each shard, so the folder is always a complete, smaller set, even
    if the process is killed. The writer locks the folder from its creation until `close`.

    Args:
        folder: created if necessary.
        face_model (FaceModel): if given, shapes are stored as its basis, not in the shards.
        shard_size (int): records per shard.
        split, source (str), extra (dict): for `meta.json`.

    Raises:
        ConfigurationError: an invalid argument, or the folder holds another set.
        OutputError: another process writes to the folder, or it is not writable.
        DamagedData: its `meta.json` is damaged.

    Example:
        >>> import tempfile
        >>> from ntensor.faces.datasets.generated import GeneratedFaces
        >>> from ntensor.faces.datasets.storage import ShardWriter, read_meta
        >>> faces = GeneratedFaces()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with ShardWriter(folder, faces.face_model) as writer:
        ...         writer.add(faces.batch(range(4)))
        ...     read_meta(folder).count
        4
    """

    def __init__(
        self,
        folder: str | Path,
        face_model: FaceModel | None = None,
        shard_size: int = 512,
        split: str = "",
        source: str = "",
        extra: dict[str, Any] | None = None,
    ) -> None:
        if shard_size < 1:
            raise ConfigurationError(f"ShardWriter: shard_size must be positive, got {shard_size}")
        self.folder = Path(folder)
        self.face_model = face_model
        self.shard_size = shard_size
        self.split, self.source, self.extra = split, source, extra or {}
        self._waiting: list[Arrays] = []
        with contextlib.ExitStack() as held:
            held.enter_context(locked(self.folder, self.folder / LOCK))
            self.meta = self._read_standing()
            remove_unfinished(self.folder)
            self._held = held.pop_all()

    @property
    def count(self) -> int:
        """Number of records on disk."""
        return self.meta.count if self.meta else 0

    def _read_standing(self) -> Meta | None:
        """The set already in the folder, which this writer must be able to continue."""
        if not (self.folder / META).exists():
            # A killed process leaves at most one shard that `meta.json` does not list.
            shards = sorted(self.folder.glob("shard_*.npz"))
            if len(shards) > 1:
                raise ConfigurationError(
                    f"{self.folder}: holds {len(shards)} shards without the {META} that describes "
                    "them; choose another --out"
                )
            return None
        meta = read_meta(self.folder)
        standing, wanted = self._notes(meta), self._notes()
        wrong = [
            f"{name} is {standing.get(name)!r} there, not {wanted.get(name)!r}"
            for name in dict.fromkeys([*wanted, *standing])
            if standing.get(name) != wanted.get(name)
        ]
        if wrong:
            raise ConfigurationError(
                f"{self.folder}: holds another data set: {'; '.join(wrong)}; choose another "
                "--out, or continue it with its own values"
            )
        return meta

    def _notes(self, meta: Meta | None = None) -> dict[str, Any]:
        origin = meta or self
        return {"split": origin.split, "source": origin.source, **origin.extra}

    def add(self, batch: Mapping[str, Tensor]) -> None:
        """Adds the samples of a batch, see `Faces.batch`; `image` is the only required key.

        Raises:
            DamagedData: a sample is faulty; nothing of the batch is written.
            ValueError: keys or shapes differ from those of the set.
            OSError: a shard cannot be written; earlier shards are unaffected.
        """
        if "image" not in batch:
            raise ValueError(f"add: a batch must have image, got {', '.join(batch)}")
        self.add_records(encode(batch))

    def add_records(self, arrays: Arrays) -> None:
        """As `add`, for records that `encode` has made."""
        if self.face_model is not None:
            arrays.pop("shape", None)
        faulty = find_faults(arrays)
        if faulty:
            index = min(faulty)
            raise DamagedData(self.folder / "(new batch)", index, faulty[index])
        if self.meta is None:
            self._begin(arrays)
        assert self.meta is not None
        for name in self.meta.arrays:
            wanted = ("n", *self.meta.fields[name].shape)
            got = ("n", *arrays[name].shape[1:]) if name in arrays else None
            if got != wanted:
                shapes = [
                    f"({', '.join(map(str, shape))})" if shape else "none"
                    for shape in (wanted, got)
                ]
                raise ValueError(f"add: {name} must have shape {shapes[0]}, got {shapes[1]}")
        self._waiting.append({name: arrays[name] for name in self.meta.arrays})
        while sum(len(part["image"]) for part in self._waiting) >= self.shard_size:
            self._write(self.shard_size)

    def _begin(self, arrays: Arrays) -> None:
        face = self.face_model
        vertices = arrays["shape"].shape[1] if "shape" in arrays else 0
        self.meta = Meta(
            arrays["image"].shape[2],
            arrays["id_3dmm"].shape[1] if "id_3dmm" in arrays else 0,
            arrays["exp_3dmm"].shape[1] if "exp_3dmm" in arrays else 0,
            face.shape_size // 3 if face is not None else vertices,
            sorted(arrays),
            [],
            self.split,
            self.source,
            self.extra,
        )
        if face is not None:
            _replace_arrays(self.folder / "basis.npz", make_basis(face))

    def _write(self, count: int) -> None:
        assert self.meta is not None
        joined = {
            name: np.concatenate([part[name] for part in self._waiting])
            for name in self.meta.arrays
        }
        file = f"shard_{len(self.meta.shards):03d}.npz"
        _replace_arrays(self.folder / file, {name: a[:count] for name, a in joined.items()})
        self.meta.shards.append((file, count))
        self.meta.write(self.folder)
        rest = {name: array[count:] for name, array in joined.items()}
        self._waiting = [rest] if len(rest["image"]) else []

    def close(self) -> None:
        """Writes the last, partial shard and unlocks the folder."""
        with self._held:
            if self._waiting:
                self._write(sum(len(part["image"]) for part in self._waiting))

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._held:
            if kind is None:
                self.close()


def write_statistics(folder: Path, statistics: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Writes means and standard deviations by name to `statistics.npz`."""
    arrays: Arrays = {}
    for name, (mean, deviation) in statistics.items():
        arrays |= {f"{name}_mean": mean.cpu().numpy(), f"{name}_std": deviation.cpu().numpy()}
    _replace_arrays(folder / "statistics.npz", arrays)


def make_basis(face: FaceModel) -> Arrays:
    """The arrays of `basis.npz`: the face model restricted to the vertices of its shape."""
    chosen = face.shape_vertices
    position = {int(vertex): k for k, vertex in enumerate(chosen.tolist())}
    landmarks = [position.get(int(vertex), -1) for vertex in face.landmarks68.tolist()]
    return {
        "mean": face.mean[chosen].cpu().numpy(),
        "id": face.identity_modes[:, chosen].cpu().numpy(),
        "exp": face.expression_modes[:, chosen].cpu().numpy(),
        "triangles": face.shape_triangles().cpu().numpy().astype(np.int32),
        "landmarks68": np.array(landmarks, np.int32),
    }


def read_basis(folder: Path, meta: Meta) -> FaceModel | None:
    """Reads `basis.npz` as a face model for shapes, without materials; None without the file.

    Raises:
        DamagedData: the file cannot be read or does not match `meta.json`.
    """
    path = folder / "basis.npz"
    if not path.exists():
        return None
    v = meta.vertices
    arrays = read_arrays(
        path,
        {
            "mean": floats(v, 3),
            "id": floats(meta.id_3dmm, v, 3),
            "exp": floats(meta.exp_3dmm, v, 3),
            "triangles": integers("T", 3, most=v - 1, optional=True),
            "landmarks68": integers(68, least=-1, most=v - 1, optional=True),
        },
    )
    triangles = arrays.get("triangles", np.zeros((0, 3), np.int32))
    landmarks = arrays.get("landmarks68", np.full(68, -1, np.int32))
    return FaceModel(
        source=meta.source,
        mean=torch.from_numpy(arrays["mean"]).float(),
        identity_modes=torch.from_numpy(arrays["id"]).float(),
        expression_modes=torch.from_numpy(arrays["exp"]).float(),
        expression_names=tuple(f"expression {k}" for k in range(meta.exp_3dmm)),
        triangles=torch.from_numpy(triangles.astype(np.int64)),
        parts=torch.zeros(v, dtype=torch.int64),
        part_names=("face",),
        landmarks68=torch.from_numpy(landmarks.astype(np.int64)),
        basic_names=("neutral",),
        basic_weights=torch.zeros(1, meta.exp_3dmm),
        materials=torch.zeros(v, 0),
        eye_direction=torch.zeros(v, 3),
        shape_vertices=torch.arange(v),
    )


def read_statistics(folder: Path, meta: Meta) -> dict[str, tuple[Tensor, Tensor]] | None:
    """Reads the means and standard deviations of `statistics.npz`; None without the file.

    Raises:
        DamagedData: the file cannot be read or does not match `meta.json`.
    """
    path = folder / "statistics.npz"
    if not path.exists():
        return None
    sizes = {"id_3dmm": meta.id_3dmm, "exp_3dmm": meta.exp_3dmm, "shape": 3 * meta.vertices}
    wanted = {}
    for name, size in sizes.items():
        wanted[f"{name}_mean"] = floats(size, largest=LARGEST[name])
        # Slightly less, since 1e-4 is rounded in the file.
        least = 0.999 * SMALLEST_DEVIATION
        wanted[f"{name}_std"] = Expected("f", (size,), least, LARGEST[name])
    arrays = read_arrays(path, wanted)

    def tensor(name: str) -> Tensor:
        return torch.from_numpy(arrays[name]).float()

    return {name: (tensor(f"{name}_mean"), tensor(f"{name}_std")) for name in STATISTICS}
