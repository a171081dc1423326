"""The only reader of untrusted files: no other module of `ntensor.faces` opens one.

The content of a file is checked before it is used: sizes before memory is allocated, names, types
and shapes before numbers, numbers before they are used. Nothing in a file is executed. A failed
check raises `DamagedData`, which names the file; for pictures and landmarks it is an `ImageError`
too.

| module | reads |
|---|---|
| `files` | bytes and text up to a size |
| `documents` | JSON and YAML up to a size and depth, checked against a type |
| `arrays` | `.npz`, by a table of the expected arrays |
| `tensors` | safetensors |
| `pictures` | pictures and videos up to a number of pixels |
"""

from .arrays import Expected, floats, integers, read_arrays, texts
from .documents import explain, parse_document, read_json, read_yaml
from .files import parsing, read_text
from .pictures import (
    FORMATS,
    compress_jpeg,
    is_picture,
    load_imageio,
    read_frames,
    read_picture,
)
from .tensors import check_tensors, read_tensors

__all__ = [
    "FORMATS",
    "Expected",
    "check_tensors",
    "compress_jpeg",
    "explain",
    "floats",
    "integers",
    "is_picture",
    "load_imageio",
    "parse_document",
    "parsing",
    "read_arrays",
    "read_frames",
    "read_json",
    "read_picture",
    "read_tensors",
    "read_text",
    "read_yaml",
    "texts",
]
