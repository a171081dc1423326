"""The writer of sets: what it refuses, and what is there when it stops halfway."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from ntensor.faces.common.errors import DamagedData
from ntensor.faces.datasets.generated import GeneratedFaces
from ntensor.faces.datasets.storage import ShardWriter, read_meta
from ntensor.faces.datasets.stored import StoredFaces, check
from ntensor.faces.morphable.analytic_face import make_analytic_face

COUNT, SHARD = 22, 8


@pytest.fixture(scope="module")
def batch(generated):
    return generated.batch(range(COUNT))


def part(batch, rows):
    return {name: value[rows] for name, value in batch.items()}


def test_writer_refuses_damage_and_other_sets(tmp_path, generated, batch):
    writer = ShardWriter(tmp_path, generated.face_model, SHARD, "train")
    bad = {name: value.clone() for name, value in batch.items()}
    bad["light"][4] = float("nan")
    with pytest.raises(DamagedData, match="record 4: light has NaN"):
        writer.add(bad)
    with pytest.raises(ValueError, match="a batch must have image"):
        writer.add({"light": batch["light"]})
    writer.add(batch)
    with pytest.raises(ValueError, match=r"albedo must have shape \(n, 3, 16, 16\), got none"):
        writer.add({"image": batch["image"]})
    writer.close()
    with pytest.raises(ValueError, match="split is 'train' there, not 'test'"):
        ShardWriter(tmp_path, generated.face_model, SHARD, "test")


def test_a_begun_set_is_continued(tmp_path, generated, batch):
    for rows in (slice(0, 10), slice(10, COUNT)):
        with ShardWriter(tmp_path, generated.face_model, SHARD) as writer:
            writer.add(part(batch, rows))
    found = StoredFaces(tmp_path).batch(range(COUNT))
    assert torch.equal(found["id_3dmm"], batch["id_3dmm"])


def test_an_error_leaves_whole_shards_only(tmp_path, generated, batch):
    with pytest.raises(RuntimeError), ShardWriter(tmp_path, generated.face_model, SHARD) as writer:
        writer.add(part(batch, slice(0, 12)))
        raise RuntimeError
    assert read_meta(tmp_path).count == SHARD
    assert len(StoredFaces(tmp_path).batch(range(SHARD))["image"]) == SHARD


KILLED = """
import sys
import types
import zipfile
from ntensor.faces.datasets import storage
from ntensor.faces.morphable.analytic_face import make_analytic_face
from ntensor.faces.datasets.generated import GeneratedFaces

calls = []

def slow(path, *others, **named):
    calls.append(1)
    if len(calls) == 4:  # the basis, two shards, then this one
        path.write_bytes(b"PK half a shard")
        print("writing", flush=True)
        sys.stdin.read()
    return zipfile.ZipFile(path, *others, **named)

storage.zipfile = types.SimpleNamespace(ZipFile=slow, ZIP_DEFLATED=zipfile.ZIP_DEFLATED)
faces = GeneratedFaces(make_analytic_face(1000), size=16)
with storage.ShardWriter(sys.argv[1], faces.face_model, 4) as writer:
    writer.add(faces.batch(range(16)))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="POSIX signals")
def test_killed_in_the_middle_of_a_write(tmp_path):
    """What was finished is a whole set, the rest cannot be seen, and writing goes on."""
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout.readline() == b"writing\n"
    time.sleep(0.1)
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()
    assert sorted(p.name for p in tmp_path.glob("shard*")) == ["shard_000.npz", "shard_001.npz"]
    assert check(tmp_path)[1] == [] and read_meta(tmp_path).count == 8
    faces = GeneratedFaces(make_analytic_face(1000), size=16)
    with ShardWriter(tmp_path, faces.face_model, 4) as writer:
        writer.add(faces.batch(range(8, 16)))
    assert read_meta(tmp_path).count == 16 and check(tmp_path)[1] == []
    found = StoredFaces(tmp_path).batch(range(16))
    assert torch.equal(found["id_3dmm"], faces.draw(range(16)).id_3dmm)


def test_unwritable_folder(tmp_path, generated, batch):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        ShardWriter(tmp_path / "file" / "set")
