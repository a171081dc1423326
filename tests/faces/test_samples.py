"""Sources of batches: drawn faces, kept ones, and sets on the disk."""

import itertools

import pytest
import torch

from ntensor.faces.common.errors import ConfigurationError, FacesError
from ntensor.faces.configuration import DataConfiguration
from ntensor.faces.datasets.generated import GeneratedFaces
from ntensor.faces.datasets.storage import ShardWriter
from ntensor.faces.training.samples import Cached, open_sources, open_stored, read_sizes
from ntensor.faces.training.sampling import draw_order

DRAWN = DataConfiguration(vertices=1500, validation=6)


def assert_batches_equal(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_generated_samples():
    training, validation = open_sources(DRAWN, 32)
    assert training.size is None and validation.size == 6
    sizes = read_sizes(training)
    assert sizes == {"image_size": 32, "k_3d": 4500, "id_3dmm": 30, "exp_3dmm": 16}
    batch = training[[5, 900_000]]
    assert batch["image"].shape == (2, 3, 32, 32) and batch["shape"].shape == (2, 4500)
    assert set(batch["identity"].tolist()) <= set(range(2000))
    assert all(identity >= 2000 for identity in validation[[0, 1, 2]]["identity"].tolist())


def test_kept_samples_are_the_same_again():
    training, _ = open_sources(DataConfiguration(vertices=1500, cache=8), 32)
    assert isinstance(training, Cached)
    fresh, _ = open_sources(DataConfiguration(vertices=1500, cache=8), 32)
    first = training[[3, 1, 4]]
    assert_batches_equal(first, training[[3, 1, 4]])
    assert_batches_equal(first, {k: v.flip(0) for k, v in fresh[[4, 1, 3]].items()})
    exact = open_sources(DRAWN, 32)[0][[3, 1, 4]]
    for name in ("image", "normal", "mask"):
        assert (exact[name] - first[name]).abs().max() <= 0.5 / 127 + 1e-6


@pytest.mark.parametrize("variation", ["all", "expression"])
def test_a_kept_sample_depends_on_its_index_alone(variation):
    configuration = DataConfiguration(vertices=1000, cache=8, variation=variation)
    first, second = (open_sources(configuration, 32)[0] for _ in range(2))
    together = first[list(range(8))]
    for indices in ([5], [7, 0, 5], [1, 2, 3, 4, 6]):
        assert_batches_equal({k: v[indices] for k, v in together.items()}, second[indices])


class Neighbourly:
    """Samples that tell how many were asked for with them, as pictures of a GPU may."""

    blocks, size, sizes, statistics = (), 9, {}, {}

    def __getitem__(self, indices):
        return {"pose": torch.full((len(indices), 1), 1.0 * len(indices))}


def test_the_cache_asks_for_each_sample_alone():
    assert Cached(Neighbourly())[[3, 1, 4]]["pose"].eq(1).all()


def test_proof_of_concept_has_neutral_textures():
    training, _ = open_sources(DataConfiguration(vertices=1500, variation="expression"), 32)
    batch = training[list(range(60))]
    assert torch.equal(batch["pose"], torch.eye(3).expand(60, 3, 3))
    names = batch["identity"].tolist()
    pairs = [(i, j) for i in range(60) for j in range(i) if names[i] == names[j]]
    assert pairs
    for i, j in pairs:
        torch.testing.assert_close(batch["texture"][i], batch["texture"][j])
    moved = [i for i, j in pairs if (batch["albedo"][i] - batch["albedo"][j]).abs().max() > 0.05]
    assert moved


@pytest.fixture
def folder(tmp_path):
    faces = GeneratedFaces(size=16)
    with ShardWriter(tmp_path, faces.face_model, shard_size=4) as writer:
        writer.add({k: v for k, v in faces.batch(range(10)).items() if k != "valid"})
    return tmp_path


def test_stored_samples(folder):
    configuration = DataConfiguration(source=str(folder), validation_source=str(folder))
    training, _ = open_sources(configuration, 16)
    assert training.size == 10 and list(training.blocks) == [4, 4, 2]
    batch = training[[9, 0]]
    assert batch["image"].shape == (2, 3, 16, 16) and batch["shape"].shape[0] == 2
    assert not [name for name in batch if name.startswith("valid_")]


def test_damaged_set_stops_with_its_name(folder):
    shard = folder / "shard_001.npz"
    shard.write_bytes(shard.read_bytes()[:-200])
    with pytest.raises(FacesError, match=r"shard_001\.npz"):
        open_stored(str(folder), skip_damaged=False)[[5]]
    with pytest.warns(UserWarning, match=r"shard_001\.npz"):
        assert len(open_stored(str(folder), skip_damaged=True)[[0, 5]]["image"]) == 1


def test_wrong_sources():
    with pytest.raises(ConfigurationError, match='must be "generated" or the folder'):
        open_sources(DataConfiguration(source="nowhere"), 16)


def test_a_folder_needs_a_validation_folder(folder):
    with pytest.raises(ConfigurationError, match=r"needs data\.validation-source, a data set"):
        open_sources(DataConfiguration(source=str(folder)), 16)


def test_blocks_stay_together():
    found = draw_order(3, 9, 0, [4, 2, 3]).tolist()
    assert sorted(found) == list(range(9)) and found != list(range(9))
    block = [0] * 4 + [1] * 2 + [2] * 3
    changes = sum(block[a] != block[b] for a, b in itertools.pairwise(found))
    assert changes == 2


def test_validation_draws_no_statistics(monkeypatch):
    """Those of training are the model's; they take as long as hundreds of faces."""
    configuration = DataConfiguration(vertices=1000, cache=4, validation=2)
    training, validation = open_sources(configuration, 16)
    asked = []
    drawn = GeneratedFaces.statistics.func
    monkeypatch.setattr(GeneratedFaces.statistics, "func", lambda f: asked.append(f) or drawn(f))
    validation[[0, 1]]
    assert not asked
    assert torch.equal(*(s.statistics["shape"][0] for s in (training, validation)))
    assert len(asked) == 2
