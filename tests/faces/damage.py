"""Damages to files, drawn at random: of their bytes, and of what stands in them."""

import io
import json
import math
import struct
import warnings
import zipfile
import zlib

import numpy as np
import torch
import yaml

VALUES = (
    *(None, True, False),
    *(0, 1, -1, 3),
    2**31,
    2**63,
    -(10**30),
    10**400,
    0.5,
    1e-300,
    1e300,
    math.nan,
    math.inf,
    -math.inf,
    "",
    "x",
    "1",
    "nan",
    "\0",
    "../x",
    "é" * 5,
    [],
    {},
    [[]],
    [1, 2],
    {"a": 1},
    [None],
    "cuda",
    "meta",
    "y" * 10_000,
)
DTYPES = (
    "int8",
    "uint8",
    "int32",
    "int64",
    "uint64",
    "float16",
    "float32",
    "float64",
    "complex64",
    "bool",
    "U3",
    "S2",
    ">f4",
    ">i4",
    "longdouble",
    "datetime64[s]",
    "object",
)
NUMBERS = (0, -1, 1, 127, 255, 1e4, 1e9, -1e30, 1e38, math.nan, math.inf, -math.inf, 1e-30)


def damage(path, rng):
    """Damages the file at `path`; says how."""
    kinds = {
        ".npz": _archive,
        ".json": _document,
        ".yaml": _document,
        ".safetensors": _tensors,
        ".txt": _text,
        ".pts": _text,
        ".csv": _text,
        ".obj": _text,
        ".png": _picture,
    }
    special = kinds.get(path.suffix)
    if special is None or rng.random() < 0.3:
        return _bytes(path, rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return special(path, rng)


def _bytes(path, rng):
    content = bytearray(path.read_bytes())
    place = rng.randrange(len(content)) if content else 0
    kind = rng.choice(
        [
            "flip",
            "flip",
            "many",
            "cut",
            "empty",
            "grow",
            "zeros",
            "noise",
            "swap",
            "folder",
            "gone",
            "number",
        ]
    )
    if kind == "flip" and content:
        content[place] ^= 1 << rng.randrange(8)
    elif kind == "many" and content:
        for _ in range(rng.randrange(2, 30)):
            content[rng.randrange(len(content))] = rng.randrange(256)
    elif kind == "cut":
        del content[place:]
    elif kind == "empty":
        content.clear()
    elif kind == "grow":
        content += rng.randbytes(rng.choice([1, 100, 100_000]))
    elif kind == "zeros":
        content[place : place + 64] = bytes(64)
    elif kind == "noise":
        content = bytearray(rng.randbytes(rng.choice([1, 50, 5000])))
    elif kind == "swap":
        content = bytearray(_other(rng))
    elif kind == "number" and len(content) > place + 4:
        content[place : place + 4] = struct.pack("<I", rng.choice([0, 1, 2**31, 2**32 - 1]))
    elif kind in ("folder", "gone"):
        path.unlink()
        if kind == "folder":
            path.mkdir()
        return kind
    path.write_bytes(content)
    return f"{kind} at {place}"


def _other(rng):
    """A good file of another kind."""
    stream = io.BytesIO()
    kind = rng.randrange(5)
    if kind == 0:
        np.save(stream, np.zeros((3, 3), np.float32))
    elif kind == 1:
        np.savez(stream, other=np.zeros(3))
    elif kind == 2:
        np.save(stream, np.array([{}], dtype=object), allow_pickle=True)
    elif kind == 3:
        return b"[" * 100_000
    else:
        return json.dumps(VALUES[7]).encode()
    return stream.getvalue()


def _document(path, rng):
    content = yaml.safe_load(path.read_text())
    kind = rng.randrange(10)
    if kind == 0:
        text = rng.choice(
            [
                "[" * 50_000,
                '{"a":' * 5000,
                "&a [*a]",
                "a: &a [x]\nb: [*a,*a]",
                "- - " * 200,
                "!!python/name:os.system",
                "? [1]\n: 2",
                "x: 2001-99-99",
                "",
                "~",
                "1",
            ]
        )
        path.write_text(text)
        return f"text {text[:30]!r}"
    if kind == 1:
        path.write_bytes(json.dumps(content).encode("utf-16" if rng.random() < 0.5 else "utf-32"))
        return "other encoding"
    if kind == 2:
        whole = rng.choice(VALUES)
        path.write_text(json.dumps(whole))
        return f"whole is {str(whole)[:30]!r}"
    said = []
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        said.append(_change_node(content, rng))
    path.write_text(json.dumps(content) if path.suffix == ".json" else yaml.safe_dump(content))
    return "; ".join(said)


def _change_node(content, rng):
    """Replaces, removes or renames one entry somewhere inside."""
    node, place = content, ""
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return "nothing"
        key = rng.choice(keys)
        place += f".{key}"
        if isinstance(node[key], dict | list) and rng.random() < 0.8:
            node = node[key]
            continue
        kind = rng.randrange(6)
        if kind == 0:
            del node[key]
            return f"removed {place}"
        if kind == 1 and isinstance(node, dict):
            node[f"{key}x"] = node.pop(key)
            return f"renamed {place}"
        if kind == 2:
            nested = []
            for _ in range(rng.choice([5, 30, 300])):
                nested = [nested]
            node[key] = nested
            return f"nested {place}"
        node[key] = rng.choice(VALUES)
        return f"{place} = {str(node[key])[:30]!r}"


def _text(path, rng):
    lines = path.read_text().splitlines()
    place = rng.randrange(len(lines))
    words = lines[place].replace(",", " , ").split()
    kind = rng.randrange(6)
    new = rng.choice(
        ["nan", "inf", "1e400", "-1", "", "x", "9" * 5000, '"', "1/2/3", "\0", "1e30", "0"]
    )
    if kind < 3 and words:
        words[rng.randrange(len(words))] = new
        lines[place] = " ".join(words)
    elif kind == 3:
        lines.pop(place)
    elif kind == 4:
        lines.insert(place, rng.choice([new, lines[place], " ".join(words[:-1])]))
    else:
        path.write_bytes("\n".join(lines).encode(rng.choice(["utf-16", "utf-8-sig", "utf-32"])))
        return "other encoding"
    path.write_text("\n".join(lines))
    return f"line {place}: {lines[place][:30] if place < len(lines) else ''!r}"


def _picture(path, rng):
    """Another width, height, depth or colour in the header of a PNG, whose checksum is right."""
    content = bytearray(path.read_bytes())
    place, form = rng.choice([(16, ">I"), (20, ">I"), (24, "B"), (25, "B"), (28, "B")])
    value = rng.choice(
        [0, 1, 3, 7, 2**14, 10**5, 2**31 - 1, 2**32 - 1] if form == ">I" else range(20)
    )
    struct.pack_into(form, content, place, value)
    struct.pack_into(">I", content, 29, zlib.crc32(content[12:29]))
    path.write_bytes(content)
    return f"header at {place}: {value}"


def changed_array(array, rng):
    """An array of another type, shape or content; and what was done."""
    kind = rng.randrange(4)
    if kind == 0:
        dtype = rng.choice(DTYPES)
        try:
            return array.astype(dtype), f"type {dtype}"
        except (ValueError, TypeError):
            return np.zeros(array.shape, "float64"), "type float64"
    if kind == 1:
        shapes = [
            array[None],
            array.ravel(),
            array.T,
            array[..., None],
            array[:0] if array.ndim else array,
            array[:-1] if array.ndim else array,
            np.concatenate([array, array]) if array.ndim else array,
            np.zeros((), array.dtype),
            np.zeros((0,), array.dtype),
        ]
        found = rng.choice(shapes)
        return found, f"shape {found.shape}"
    found = array.copy()
    with np.errstate(all="ignore"):
        value = rng.choice(NUMBERS)
        try:
            value = np.array(value).astype(found.dtype)
        except (ValueError, OverflowError, TypeError):
            value = np.zeros((), found.dtype)
    if kind == 2 and found.size:
        found.reshape(-1)[rng.randrange(found.size)] = value
    else:
        found[...] = value
    return found, f"{'one' if kind == 2 else 'all'} {value}"


def _archive(path, rng):
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    name = rng.choice(list(arrays))
    kind = rng.randrange(8)
    said = ""
    if kind == 0:
        del arrays[name]
        said = "removed"
    elif kind == 1:
        arrays[name + "x"] = arrays.pop(name)
        said = "renamed"
    elif kind < 6:
        arrays[name], said = changed_array(arrays[name], rng)
    np.savez_compressed(path, **arrays)
    if kind >= 6:
        said = _rewrite_member(path, name, rng)
    return f"{name}: {said}"


def _rewrite_member(path, name, rng):
    """Another header, packing or flag of one member."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    content = members[f"{name}.npy"]
    kind = rng.choice(["bzip2", "lzma", "encrypted", "twice", "header", "shape", "bomb"])
    if kind in ("header", "shape", "bomb"):
        length = struct.unpack("<H", content[8:10])[0]
        header = content[10 : 10 + length].decode()
        new = {
            "header": rng.choice(["(" * 9000, "{", "-" * 9000, "{'descr': [('a', '<f4')]}", "\0"]),
            "shape": header[: header.index("(")]
            + rng.choice(
                [
                    "(1000000000000,), }",
                    "(-1,), }",
                    "(9999999999, 9999999999), }",
                    "(, ), }",
                    "((1,),), }",
                ]
            ),
            "bomb": header[: header.index("(")] + "(300000000,), }",
        }[kind].encode()
        body = content[10 + length :] if kind != "bomb" else bytes(30_000_000)
        content = content[:6] + b"\x02\x00" + struct.pack("<I", len(new)) + new + body
    members[f"{name}.npy"] = content
    method = {"bzip2": zipfile.ZIP_BZIP2, "lzma": zipfile.ZIP_LZMA}.get(kind, zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(path, "w", method) as archive:
        for member, data in members.items():
            archive.writestr(member, data)
        if kind == "twice":
            archive.writestr(f"{name}.npy", content)
    if kind == "encrypted":
        whole = bytearray(path.read_bytes())
        for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            at = whole.find(mark)
            while at >= 0:
                whole[at + offset] |= 1
                at = whole.find(mark, at + 4)
        path.write_bytes(whole)
    return kind


def _tensors(path, rng):
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(path, "pt") as file:
        notes = dict(file.metadata() or {})
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    name = rng.choice(sorted(tensors))
    kind = rng.randrange(7)
    said = ""
    if kind == 0:
        del tensors[name]
        said = "removed"
    elif kind == 1:
        new = rng.choice(
            [
                name + "x",
                "optimizer.abc.step",
                "optimizer.99999.exp_avg",
                "rival..",
                "x",
                "optimizer.-1.step",
            ]
        )
        tensors[new] = tensors.pop(name)
        said = f"renamed {new}"
    elif kind == 2 and notes:
        notes = {key: json.dumps(rng.choice(VALUES)) for key in notes}
        said = f"notes {str(notes)[:60]}"
    elif kind == 3:
        dtype = rng.choice([torch.int32, torch.float64, torch.bfloat16, torch.bool, torch.uint8])
        tensors[name] = tensors[name].to(dtype)
        said = f"type {dtype}"
    elif kind == 4:
        array = tensors[name]
        tensors[name] = rng.choice([array[None], array.flatten(), array.flatten()[:0], array.sum()])
        said = f"shape {tuple(tensors[name].shape)}"
    else:
        value = rng.choice(NUMBERS)
        flat = tensors[name].view(-1)
        if flat.is_floating_point() and len(flat):
            flat[rng.randrange(len(flat))] = value
        said = f"one {value}"
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, notes or None)
    return f"{name}: {said}"
