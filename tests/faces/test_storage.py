"""Sets on the disk: what is written comes back; damage is named, refused or skipped."""

import json
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ntensor.faces.common.errors import DamagedData
from ntensor.faces.datasets.records import VALID, get_input
from ntensor.faces.datasets.storage import META, ShardWriter, write_statistics
from ntensor.faces.datasets.stored import StoredFaces, check

COUNT, SHARD = 22, 8


@pytest.fixture(scope="module")
def batch(generated):
    return generated.batch(range(COUNT))


@pytest.fixture
def folder(tmp_path, generated, batch):
    with ShardWriter(tmp_path / "set", generated.face_model, SHARD, "train", "test") as writer:
        writer.add(batch)
    write_statistics(writer.folder, generated.statistics)
    return writer.folder


def rewrite(folder, change, shard=0):
    """Changes the arrays of one shard."""
    path = folder / f"shard_{shard:03d}.npz"
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    change(arrays)
    np.savez_compressed(path, **arrays)
    return path


def test_what_is_written_comes_back(folder, batch):
    faces = StoredFaces(folder)
    assert faces.count == COUNT and [n for _, n in faces.meta.shards] == [8, 8, 6]
    found = faces.batch(range(COUNT))
    tolerance = {"normal": 0.008, "frontal_normal": 0.008, "shape": 1e-2, "angles": 2e-3}
    tolerance |= {"shading": 0.05}
    for name, value in batch.items():
        if name == "background":
            continue
        assert found[name].dtype == value.dtype and found[name].shape == value.shape, name
        atol = tolerance.get(name, 1 / 509 if value.dim() == 4 else 1e-5)
        torch.testing.assert_close(found[name], value, atol=atol, rtol=0, msg=name)
    scattered = [20, 3, 9, 3]
    again = faces.batch(scattered)
    for name in found:
        torch.testing.assert_close(again[name], found[name][scattered])


def test_degraded_pictures_and_what_pairs_differ_in_come_back(tmp_path, batch, folder):
    """`input` and `differs` are optional: without them a batch has no `input`, and -1."""
    drawn = {**batch, "input": batch["image"].flip(1), "differs": torch.arange(COUNT) // 2 % 4}
    with ShardWriter(tmp_path / "wild", shard_size=SHARD) as writer:
        writer.add(drawn)
    found = StoredFaces(writer.folder).batch(range(COUNT))
    torch.testing.assert_close(found["input"], drawn["input"], atol=1 / 509, rtol=0)
    assert torch.equal(found["differs"], drawn["differs"]) and found["differs"].dtype == torch.int64
    assert torch.equal(get_input(found), found["input"])
    without = StoredFaces(folder).batch(range(COUNT))
    assert "input" not in without and (without["differs"] == -1).all()
    assert torch.equal(get_input(without), without["image"])


def test_interface_is_the_generated_set_s(folder, generated):
    faces = StoredFaces(folder)
    assert faces.sizes == generated.sizes
    for name, pair in generated.statistics.items():
        for ours, wanted in zip(faces.statistics[name], pair, strict=True):
            torch.testing.assert_close(ours, wanted)
    assert faces.face_model.shape_size == generated.face_model.shape_size
    assert torch.equal(faces.face_model.landmarks68, generated.face_model.landmarks68)


def test_statistics_are_measured_where_there_are_none(folder, batch):
    (folder / "statistics.npz").unlink()
    mean, deviation = StoredFaces(folder).statistics["id_3dmm"]
    torch.testing.assert_close(mean, batch["id_3dmm"].mean(0), atol=1e-5, rtol=0)
    wanted = batch["id_3dmm"].std(0, correction=0)
    torch.testing.assert_close(deviation, wanted, atol=1e-4, rtol=0)


def test_every_record_once_a_pass(folder, batch):
    order = []
    for found in StoredFaces(folder, batch_size=5, passes=1):
        order.append(found["id_3dmm"])
    rows = torch.cat(order)
    assert rows.shape == batch["id_3dmm"].shape
    distance = torch.cdist(batch["id_3dmm"], rows)
    assert (distance.amin(1) < 1e-5).all()
    assert not torch.equal(rows, batch["id_3dmm"])
    still = torch.cat([b["id_3dmm"] for b in StoredFaces(folder, shuffle=False, passes=1)])
    assert torch.equal(still, batch["id_3dmm"])


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_and_ranks_share_the_records(folder, batch, workers):
    rows = []
    for rank in range(2):
        faces = StoredFaces(folder, batch_size=3, passes=1, rank=rank, world_size=2)
        loader = DataLoader(faces, batch_size=None, num_workers=workers)
        rows += [found["image"].flatten(1) for found in loader]
    rows = torch.cat(rows)
    assert len(rows) == COUNT
    wanted = (batch["image"] * 255).round().flatten(1) / 255
    assert (torch.cdist(wanted, rows).amin(1) < 1e-3).all()


def test_resumes_where_it_stopped(folder):
    def ids(first, count):
        stream = iter(StoredFaces(folder, batch_size=4, seed=3, first_batch=first))
        return [next(stream)["id_3dmm"] for _ in range(count)]

    for ours, wanted in zip(ids(7, 4), ids(0, 11)[7:], strict=True):
        assert torch.equal(ours, wanted)


def test_larger_than_the_cache_streams(folder, monkeypatch):
    """One shard at a time is held, and each is read once a pass."""
    import ntensor.faces.datasets.stored as stored

    read = []
    original = stored.read_shard
    monkeypatch.setattr(
        stored, "read_shard", lambda path, *a: read.append(path) or original(path, *a)
    )
    faces = StoredFaces(folder, batch_size=4, cache=1, passes=1)
    for _ in faces:
        assert len(faces._cache) == 1
    assert len(read) == 3


def test_minimal_set(tmp_path, batch):
    """Photographs alone: what is missing is zero or unknown, and `valid` says so."""
    with ShardWriter(tmp_path) as writer:
        writer.add({"image": batch["image"]})
    found = StoredFaces(tmp_path).batch([0, 1])
    assert not found["valid"].any()
    assert torch.equal(found["pose"], torch.eye(3).expand(2, 3, 3))
    assert (found["identity"] == -1).all() and not found["near_frontal"].any()
    assert found["id_3dmm"].shape == (2, 0) and found["normal"].abs().max() == 0
    assert check(tmp_path)[1] == []


def test_frontal_pictures_come_from_near_frontal_samples(tmp_path, batch):
    kept = {k: v for k, v in batch.items() if not k.startswith("frontal") and k != "valid"}
    with ShardWriter(tmp_path) as writer:
        writer.add(kept)
    found = StoredFaces(tmp_path).batch(range(COUNT))
    near = found["near_frontal"]
    assert torch.equal(near, batch["near_frontal"]) and near.any() and not near.all()
    assert torch.equal(found["valid"][:, VALID.index("frontal")], near)
    assert torch.equal(found["frontal_image"][near], (found["image"] * found["mask"])[near])
    assert found["frontal_image"][~near].abs().max() == 0
    # Without a basis the shapes lie in the shards.
    torch.testing.assert_close(found["shape"], batch["shape"])


def test_bits_switch_parts_off(folder, batch):
    """A record that says it has no pose is not blamed for its pose."""

    def change(arrays):
        arrays["pose"][3] = 7
        arrays["valid"][3] &= ~np.uint16(1 << VALID.index("pose"))

    rewrite(folder, change)
    found = StoredFaces(folder).batch([2, 3])
    assert found["valid"][:, VALID.index("pose")].tolist() == [True, False]
    assert torch.equal(found["pose"][1], torch.eye(3))


DAMAGE = {
    "pose scaled": (lambda a: a["pose"].__setitem__(5, 1.1 * a["pose"][5]), "is not a rotation"),
    "pose reflected": (lambda a: a["pose"].__setitem__(5, -a["pose"][5]), "is a reflection"),
    "light NaN": (lambda a: a["light"].__setitem__((5, 1, 2), np.nan), "light has NaN"),
    "expression inf": (lambda a: a["exp_3dmm"].__setitem__((5, 0), np.inf), "exp_3dmm has NaN"),
    "identity huge": (lambda a: a["id_3dmm"].__setitem__((5, 0), 1e9), "numbers beyond 10000"),
    "normals short": (lambda a: a["normal"].__setitem__(5, a["normal"][5] // 2), "unit length"),
    "mask empty": (lambda a: a["mask"].__setitem__(5, 0), "mask is empty"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_record(folder, damage):
    change, reason = DAMAGE[damage]
    path = rewrite(folder, change)
    with pytest.raises(DamagedData, match=reason) as caught:
        StoredFaces(folder).batch([4, 5, 6])
    assert (caught.value.file, caught.value.index) == (path, 5)
    assert f"{path}, record 5" in str(caught.value)
    assert len(StoredFaces(folder).batch([4, 6])["image"]) == 2
    with pytest.warns(UserWarning, match=f"skipped .*record 5: .*{reason}"):
        kept = StoredFaces(folder, on_damage="skip").batch([4, 5, 6])
    assert len(kept["image"]) == 2
    _, damages, figures = check(folder)
    assert [(d.file, d.index) for d in damages] == [(path, 5)] and figures["records"] == COUNT - 1


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def array_gone(path):
    rewrite(path.parent, lambda a: a.pop("pose"), 1)


def array_short(path):
    rewrite(path.parent, lambda a: a.update(light=a["light"][:, :2]), 1)


def other_type(path):
    rewrite(path.parent, lambda a: a.update(image=a["image"].astype(np.float32)), 1)


FILES = {
    truncate: "cannot be read",
    flip: "cannot be read",
    array_gone: "no array pose",
    array_short: r"light must be float32 of shape \(8, 3, 9\), got float32 of shape \(8, 2, 9\)",
    other_type: "image must be uint8 .* got float32",
    lambda path: path.unlink(): "the file does not exist",
}


@pytest.mark.parametrize(("damage", "reason"), FILES.items())
def test_damaged_file(folder, damage, reason):
    path = folder / "shard_001.npz"
    damage(path)
    with pytest.raises(DamagedData, match=reason) as caught:
        StoredFaces(folder).batch([9])
    assert (caught.value.file, caught.value.index) == (path, None)
    with pytest.raises(DamagedData):
        list(StoredFaces(folder, passes=1))
    with warnings.catch_warnings(record=True) as caught_warnings:
        warnings.simplefilter("always")
        kept = sum(len(b["image"]) for b in StoredFaces(folder, on_damage="skip", passes=1))
    assert kept == COUNT - 8 and any("shard_001.npz" in str(w.message) for w in caught_warnings)
    assert [(d.file, d.index) for d in check(folder)[1]] == [(path, None)]


def test_nothing_but_damage_stops(folder):
    for path in folder.glob("shard_*"):
        truncate(path)
    with pytest.warns(UserWarning), pytest.raises(DamagedData, match="every record"):
        list(StoredFaces(folder, on_damage="skip"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 2}, "version must be 1, got 2"),
        ({"harmonics": "1,z,x,y"}, "harmonics must be '1,y,z,x,"),
        ({"axes": "y down"}, "axes must be"),
        ({"shards": [["../shard_000.npz", 8]]}, r"a shard must be \[file, count\]"),
        ({"shards": [["shard_000.npz", "8"]]}, r"shards\.0\.1: .* valid integer, got '8'"),
        ({"size": 0}, "size must be a whole number"),
        ({"arrays": ["image", "colour"]}, "arrays must be of"),
        ({"vertices": None}, "vertices: .* valid integer, got None"),
    ],
)
def test_wrong_meta(folder, change, reason):
    path = folder / META
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DamagedData, match=reason) as caught:
        StoredFaces(folder)
    assert caught.value.file == path


def test_unreadable_meta_and_basis(folder):
    (folder / "basis.npz").write_bytes(b"PK")
    with pytest.raises(DamagedData, match=r"basis.npz: cannot be read"):
        StoredFaces(folder)
    (folder / META).write_text("{")
    with pytest.raises(DamagedData, match=r"meta.json: cannot be read"):
        StoredFaces(folder)
    (folder / META).unlink()
    with pytest.raises(DamagedData, match=r"meta.json: the file does not exist"):
        StoredFaces(folder)


def test_wrong_arguments(folder):
    with pytest.raises(ValueError, match="on_damage must be refuse or skip, got 'ignore'"):
        StoredFaces(folder, on_damage="ignore")
    with pytest.raises(ValueError, match="batch_size must be positive, got 0"):
        StoredFaces(folder, batch_size=0)
    with pytest.raises(IndexError, match=r"index must be 0\.\.21, got 22"):
        StoredFaces(folder).batch([22])
    with pytest.raises(ValueError, match="shard_size must be positive, got 0"):
        ShardWriter(folder, shard_size=0)
