"""Reads arrays of `.npz` files; each header is checked before memory is allocated.

Only plain numbers and text as written by `numpy.savez` and `numpy.savez_compressed` are read:
members that are stored or deflated, with headers of one simple type. There is no pickle, no object,
no expression.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ntensor.faces.common.errors import DamagedData

from .files import open_regular, parsing

# Limits in bytes: one array, the directory of an archive, the header of an array.
MOST_BYTES = 2_000_000_000
_MOST_DIRECTORY = 1_000_000
_MOST_HEADER = 4096
# The most bytes that one deflated byte can stand for.
_INFLATION = 1032
_PART = 1 << 20
_KINDS = {"f": "floating-point numbers", "iu": "whole numbers", "U": "text"}
_HEADER = re.compile(
    rb"\{\s*'descr':\s*'([<>|=]?[a-zA-Z]\d{1,6})',\s*'fortran_order':\s*(True|False),"
    rb"\s*'shape':\s*\(((?:\d{1,18}(?:,\s*)?){0,8})\),?\s*\}\s*"
)


@dataclass(frozen=True)
class Expected:
    """The requirements on an array.

    Attributes:
        kinds: letters of numpy's kinds (`f`, `iu`, `U`), or the name of one type.
        shape: extents; a word stands for any extent, the same in all arrays of the file.
        least, most: limits on its numbers, which must be finite; a word: less than that extent.
        optional: it may be missing.
    """

    kinds: str
    shape: tuple[int | str, ...]
    least: float = -math.inf
    most: float | str = math.inf
    optional: bool = False

    def takes(self, dtype: Any) -> bool:
        """Whether an array of this type is accepted."""
        if self.kinds not in _KINDS:
            return bool(dtype == np.dtype(self.kinds))
        short = dtype.kind == "U" or dtype.itemsize <= 8
        return dtype.isnative and dtype.kind in self.kinds and short

    def describe(self, extents: Mapping[str, int]) -> str:
        """Type and shape in words."""
        shape = tuple(extents.get(str(k), k) for k in self.shape)
        inner = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
        return f"{_KINDS.get(self.kinds, self.kinds)} of shape ({inner})"


def floats(*shape: int | str, largest: float = 1e7, optional: bool = False) -> Expected:
    """Finite floating-point numbers, from `-largest` to `largest`."""
    return Expected("f", shape, -largest, largest, optional)


def integers(
    *shape: int | str, least: float = 0, most: float | str = math.inf, optional: bool = False
) -> Expected:
    """Whole numbers from `least` to `most`, or less than the extent `most`."""
    return Expected("iu", shape, least, most, optional)


def texts(*shape: int | str) -> Expected:
    """Printable text."""
    return Expected("U", shape)


def read_arrays(
    path: str | Path, wanted: Mapping[str, Expected], extents: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Reads the arrays of a file, by name.

    Args:
        path: of the `.npz`.
        wanted: the arrays to read; others in the file are ignored.
        extents: of the words in shapes, if they are already known.

    Raises:
        DamagedData: it is not such a file, or an array is missing, has the wrong type or shape, or
            has numbers out of range; the message names the array.
    """
    path, known = Path(path), dict(extents or {})
    with open_regular(path) as file, parsing(path):
        _check_directory(file)
        with zipfile.ZipFile(file) as archive:
            members = _list_members(archive)
            missing = [n for n, e in wanted.items() if n not in members and not e.optional]
            if missing:
                raise DamagedData(path, None, f"no array {', '.join(missing)}")
            size = path.stat().st_size
            arrays = {}
            for name, expected in wanted.items():
                if name in members:
                    try:
                        arrays[name] = _read(archive, members[name], name, expected, known, size)
                    except ValueError as error:
                        raise DamagedData(path, None, f"{name} {error}") from error
                    except Exception as error:
                        reason = f"{name}: {str(error) or type(error).__name__}"
                        raise ValueError(reason) from error
    for name, array in arrays.items():
        wrong = explain_range(array, wanted[name], known)
        if wrong:
            raise DamagedData(path, None, f"{name} {wrong}")
    return arrays


def explain_range(array: Any, expected: Expected, extents: Mapping[str, int]) -> str | None:
    """What is wrong with the values of an array, or None."""
    if array.dtype.kind == "U":
        words = array.ravel()
        codes = np.ascontiguousarray(words).view(np.uint32)
        printable = codes.max(initial=0) <= 0x10FFFF and all(str(w).isprintable() for w in words)
        return None if printable else "must be printable text"
    most = extents[expected.most] - 1 if isinstance(expected.most, str) else expected.most
    if not array.size or (expected.least == -math.inf and most == math.inf):
        return None
    # NaN is neither below nor above.
    least, largest = float(array.min()), float(array.max())
    if math.isfinite(least + largest) and expected.least <= least and largest <= most:
        return None
    return (
        f"must be finite numbers from {expected.least:g} to {most:g}, got {least:g} to {largest:g}"
    )


def _check_directory(file: BinaryIO) -> None:
    """Refuses files that are not archives, or whose directory alone would fill the memory."""
    length = file.seek(0, 2)
    file.seek(max(0, length - 65557))
    tail = file.read()
    file.seek(0)
    at = tail.rfind(b"PK\x05\x06")
    if file.read(2) != b"PK" or at < 0:
        raise ValueError("not an .npz archive")
    size = int.from_bytes(tail[at + 12 : at + 16], "little")
    if size > _MOST_DIRECTORY or tail[max(0, at - 20) : at].startswith(b"PK\x06\x07"):
        raise ValueError("the archive's directory is too large")


def _list_members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if name in members:
            raise ValueError(f"{name} is in the archive twice")
        members[name] = member
    return members


def _read(
    archive: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    name: str,
    expected: Expected,
    extents: dict[str, int],
    file_size: int,
) -> Any:
    if member.flag_bits & 1:
        raise ValueError("is encrypted")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(
            f"must be stored or deflated, got compression method {member.compress_type}"
        )
    with archive.open(member) as stream:
        dtype, fortran, shape, header = _read_header(stream)
        fits = len(shape) == len(expected.shape) and all(
            extent == (extents.setdefault(want, extent) if isinstance(want, str) else want)
            for extent, want in zip(shape, expected.shape, strict=False)
        )
        if not fits or not expected.takes(dtype):
            got = f"{dtype.name if dtype.isnative else dtype.str} of shape {shape}"
            raise ValueError(f"must be {expected.describe(extents)}, got {got}")
        size = math.prod(shape) * dtype.itemsize
        if size + header != member.file_size:
            raise ValueError(f"holds {member.file_size - header} bytes, its shape needs {size}")
        packed = member.compress_type == zipfile.ZIP_DEFLATED
        held = min(member.compress_size, file_size) * (_INFLATION if packed else 1)
        if size + header > held or size > MOST_BYTES:
            raise ValueError(f"needs {size} bytes, more than the file can hold or {MOST_BYTES}")
        array = np.empty(shape[::-1] if fortran else shape, dtype)
        memory: Any = array.reshape(-1).view(np.uint8)
        at = 0
        while at < size:
            part = stream.read(min(_PART, size - at))
            if not part:
                raise ValueError("is truncated")
            memory[at : at + len(part)] = np.frombuffer(part, np.uint8)
            at += len(part)
    return array.T if fortran else array


def _read_header(stream: Any) -> tuple[Any, bool, tuple[int, ...], int]:
    """Type, order and shape of an array, and the bytes before its numbers."""
    start = stream.read(8)
    if start[:6] != b"\x93NUMPY" or start[6:] not in (b"\x01\x00", b"\x02\x00", b"\x03\x00"):
        raise ValueError("is not an array")
    digits = 2 if start[6] == 1 else 4
    length = int.from_bytes(stream.read(digits), "little")
    if length > _MOST_HEADER:
        raise ValueError(f"has a header of {length} bytes")
    matched = _HEADER.fullmatch(stream.read(length))
    if matched is None:
        raise ValueError("is not an array of plain numbers or text")
    shape = tuple(int(extent) for extent in re.findall(rb"\d+", matched[3]))
    dtype = np.dtype(matched[1].decode("ascii"))
    if dtype.kind not in "biufcU" or not dtype.itemsize:
        raise ValueError(f"is of type {dtype}")
    return dtype, matched[2] == b"True", shape, 8 + digits + length
