"""The reader of untrusted files, fault by fault."""

import ast
import os
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ntensor.faces
from ntensor.faces import configuration as c
from ntensor.faces.common.errors import ConfigurationError, DamagedData, ImageError
from ntensor.faces.media import videos
from ntensor.faces.media.images import read_landmarks
from ntensor.faces.reading import (
    floats,
    integers,
    read_arrays,
    read_frames,
    read_json,
    read_picture,
    read_yaml,
    texts,
)

WANTED = {"a": floats("n", 3), "b": integers("n", most="n"), "c": texts(2)}
GOOD = {"a": np.ones((4, 3), np.float32), "b": np.arange(4), "c": np.array(["x", "y"])}


def only_reader(node):
    """What a call reads a file by; None: it reads none."""
    function = node.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    owner = ast.unparse(function.value) if isinstance(function, ast.Attribute) else ""
    if name in ("open", "ZipFile"):
        words = [a.value for a in node.args if isinstance(a, ast.Constant)]
        writes = any(isinstance(w, str) and w in ("w", "wb", "a", "ab", "x", "xb") for w in words)
        return None if writes or owner == "os" else f"{owner}.{name}"
    always = {
        *("read_text", "read_bytes", "load_file", "safe_open", "safe_load", "fromfile", "loadtxt"),
        *("genfromtxt", "memmap", "imread", "imiter", "imopen"),
    }
    loads = name == "load" and owner in ("np", "numpy", "json", "torch", "pickle", "yaml")
    if loads or (owner and name in always):
        return f"{owner}.{name}"
    return None


def test_no_other_module_opens_a_file():
    root = Path(ntensor.faces.__file__).parent
    found, own = [], 0
    for path in root.rglob("*.py"):
        tree = ast.parse(path.read_text())
        calls = [only_reader(node) for node in ast.walk(tree) if isinstance(node, ast.Call)]
        calls = [call for call in calls if call]
        if "reading" in path.relative_to(root).parts:
            own += len(calls)
        else:
            found += [f"{path.relative_to(root)}: {call}" for call in calls]
    assert found == [] and own >= 6


def test_arrays_come_back(tmp_path):
    path = tmp_path / "a.npz"
    for save in (np.savez, np.savez_compressed):
        save(path, **GOOD | {"a": np.asfortranarray(GOOD["a"] * np.arange(3)), "other": np.ones(9)})
        found = read_arrays(path, WANTED)
        assert found.keys() == GOOD.keys() and found["c"].tolist() == ["x", "y"]
        np.testing.assert_array_equal(found["a"], GOOD["a"] * np.arange(3))


def member(path, name, header, body=b"", method=zipfile.ZIP_DEFLATED):
    """Writes the good arrays with another member `name`, given by its header's text."""
    np.savez(path, **{key: array for key, array in GOOD.items() if key != name})
    text = header.encode()
    with zipfile.ZipFile(path, "a", method) as archive:
        archive.writestr(
            f"{name}.npy", b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text)) + text + body
        )


def encrypt(path):
    np.savez(path, **GOOD)
    whole = bytearray(path.read_bytes())
    whole[6] |= 1
    whole[whole.find(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(whole)


def save(**changed):
    return lambda path: np.savez(
        path, **{k: v for k, v in {**GOOD, **changed}.items() if v is not None}
    )


def npy(path):
    with path.open("wb") as file:
        np.save(file, GOOD["a"])


def header(text, body=b"", method=zipfile.ZIP_DEFLATED):
    return lambda path: member(path, "a", text, body, method)


SHAPE = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }"
ARCHIVES = {
    "npy": (npy, "not an .npz archive"),
    "object": (save(a=np.array([{}] * 4, dtype=object)), "a is not an array of plain numbers"),
    "missing": (save(a=None), "no array a"),
    "complex": (
        save(a=GOOD["a"] + 1j),
        r"a must be floating-point .* of shape \(4, 3\), got complex",
    ),
    "strings": (save(a=np.full((4, 3), "x")), "a must be floating-point"),
    "byte order": (save(a=GOOD["a"].astype(">f4")), "a must be .* got >f4"),
    "shape": (save(a=GOOD["a"].T), r"a must .* got float32 of shape \(3, 4\)"),
    "scalar": (save(a=np.float32(1)), r"a must .* got float32 of shape \(\)"),
    "extents differ": (save(b=np.arange(5)), r"b must be whole numbers of shape \(4,\)"),
    "NaN": (save(a=np.full((4, 3), np.nan, np.float32)), "a must be finite numbers .* got nan"),
    "infinite": (save(a=np.full((4, 3), np.inf, np.float32)), "a must be finite"),
    "too large": (save(a=np.full((4, 3), 1e9)), "a must .* got 1e[+]09"),
    "index": (save(b=np.arange(1, 5)), "b must be finite numbers from 0 to 3, got 1 to 4"),
    "text": (save(c=np.array(["x", "\x1b[2J"])), "c must be printable"),
    "encrypted": (encrypt, "a is encrypted"),
    "bzip2": (
        header(SHAPE % "1, 3", bytes(12), zipfile.ZIP_BZIP2),
        "a must be stored or deflated, got .* 12",
    ),
    "claims more": (
        header(SHAPE % "99999999999, 3"),
        "a holds 0 bytes, its shape needs 1199999999988",
    ),
    "negative": (header(SHAPE % "-1, 3"), "a is not an array of plain"),
    "open": (header("{'descr': '<f4', 'shape': ("), "a is not an array of plain"),
    "deep": (header("-" * 4000), "a is not an array of plain"),
    "long": (header("(" * 9000), "a has a header of 9000 bytes"),
    "fields": (
        header("{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (1, 3), }"),
        "a is no",
    ),
    "folder": (lambda path: path.mkdir(), "expected a file, got a folder"),
    "absent": (lambda path: None, "the file does not exist"),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_damaged_arrays(tmp_path, case):
    make, reason = ARCHIVES[case]
    make(tmp_path / "a.npz")
    with pytest.raises(DamagedData, match=rf"a\.npz: (cannot be read \()?{reason}"):
        read_arrays(tmp_path / "a.npz", WANTED)


def test_a_bomb_takes_no_memory(tmp_path):
    path = tmp_path / "a.npz"
    member(path, "a", SHAPE % "10000000, 3", bytes(120_000_000))
    assert path.stat().st_size < 200_000
    tracemalloc.start()
    try:
        with pytest.raises(DamagedData, match=r"a must be .* of shape \(4, 3\)"):
            read_arrays(path, WANTED, {"n": 4})
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_documents(tmp_path):
    path = tmp_path / "a.json"
    for content, reason in {
        b"[" * 100_000: "recursion limit",
        b"{": "cannot be read",
        b"\xff\xfe{}": "cannot be read",
        b'{"a": "1"}': r"a: .*valid integer, got '1'",
        b"[]": "got \\[\\]",
        b"null": "got None",
    }.items():
        path.write_bytes(content)
        with pytest.raises(DamagedData, match=reason):
            read_json(path, dict[str, int])
    path.write_bytes(b"1" * 16_000_001)
    with pytest.raises(DamagedData, match="at most 16000000 bytes, got more"):
        read_json(path, int)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a: &x [1]\nb: *x", "line 1: anchors and tags are not supported"),
        (b"a: !!python/name:os.system", "anchors and tags"),
        (b"[" * 50 + b"]" * 50, "at most 20 levels, got more"),
        (b"{" * 100_000, "at most 20 levels, got more"),
        (b"a: 2001-99-99", "cannot be read"),
        ("training: {}".encode("utf-16"), "cannot be read"),
        (b" " * 200_001, "at most 200000 bytes, got more"),
    ],
)
def test_yaml(tmp_path, content, reason):
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with pytest.raises(DamagedData, match=reason):
        read_yaml(path)
    with pytest.raises(ConfigurationError, match=reason):
        c.from_file(path)


def test_pipes_do_not_block(tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("POSIX pipes")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DamagedData, match="got a pipe or device"):
        read_json(tmp_path / "pipe", dict)


def huge_png(path, width, height):
    Image.new("L", (16, 16)).save(path)
    content = bytearray(path.read_bytes())
    struct.pack_into(">II", content, 16, width, height)
    struct.pack_into(">I", content, 29, zlib.crc32(content[12:29]))
    path.write_bytes(content)


def test_pictures_are_limited_before_they_are_decoded(tmp_path):
    huge_png(tmp_path / "a.png", 10_000, 7_000)
    tracemalloc.start()
    try:
        for read in (read_picture, lambda path: list(read_frames(path, 2))):
            with pytest.raises(ImageError, match="at most 64 million pixels, got 10000 x 7000"):
                read(tmp_path / "a.png")
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_what_runs_programs_or_names_files_is_no_picture(tmp_path):
    (tmp_path / "a.eps").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\nshowpage\n"
    )
    (tmp_path / "a.mp4").write_text("#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:1,\n/etc/hostname\n")
    for name in ("a.eps", "a.mp4"):
        with pytest.raises(ImageError, match="not a picture of a supported format"):
            list(read_frames(tmp_path / name, 1))


def test_later_frames_are_limited_too(tmp_path):
    path = tmp_path / "a.tif"
    small, large = Image.new("L", (16, 16)), Image.new("L", (300, 200))
    small.save(path, save_all=True, append_images=[large])
    assert len(list(read_frames(path, 2))) == 2
    with pytest.raises(ImageError, match="got 300 x 200"):
        list(read_frames(path, 2, most_pixels=1000))


def test_films_are_limited(tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    path = tmp_path / "a.mp4"
    videos.write_film(
        path, [torch.full((32, 48, 3), 40 * k, dtype=torch.uint8) for k in range(3)], 1, 8
    )
    assert [frame.shape for frame in read_frames(path, 2)] == [(3, 32, 48)] * 2
    with pytest.raises(ImageError, match="got 48 x 32"):
        list(read_frames(path, 2, most_pixels=1000))


def test_landmarks(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a.png": ' + "[" * 9000 + "]" * 9000 + "}")
    with pytest.raises(ImageError, match="recursion"):
        read_landmarks(path, "a.png")
    path.write_text('{"a.png": [[1, 2], [3, 4], [5, 6], [7, 8], [9, 1e30]]}')
    with pytest.raises(ImageError, match=r"landmarks must be numbers from -1e[+]06"):
        read_landmarks(path, "a.png")
