"""Generated sets: reproducible, split by person, complete grids."""

import pytest
import torch
from torch.utils.data import DataLoader

from ntensor.faces.datasets import scenes
from ntensor.faces.datasets.generated import POC_EXPRESSION, POC_POSE, GeneratedFaces
from ntensor.faces.datasets.grids import make_grid
from ntensor.faces.datasets.rendered import SPLITS
from ntensor.faces.morphable.analytic_face import make_analytic_face
from ntensor.faces.rendering import harmonics


@pytest.fixture(scope="module")
def face():
    return make_analytic_face(1500)


def same(a, b):
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different, different


def test_splits_share_no_person():
    sizes = {name: len(persons) for name, persons in SPLITS.items()}
    assert sizes == {
        "train": 2000, "validation": 100, "test": 54, "poc-train": 148, "poc-test": 22,
    }  # fmt: skip
    assert len(set().union(*SPLITS.values())) == sum(sizes.values())


@pytest.mark.parametrize("split", SPLITS)
def test_persons_are_of_the_split(face, split):
    drawn = GeneratedFaces(face, split).draw(range(60))
    assert set(drawn.identity.tolist()) <= set(SPLITS[split])
    assert len(drawn.identity.unique()) > 10


def test_a_sample_depends_on_seed_and_index_alone(face):
    together = GeneratedFaces(face, seed=4).batch([3, 900, 17])
    alone = GeneratedFaces(face, seed=4).batch([900])
    same({name: value[1:2] for name, value in together.items()}, alone)
    other = GeneratedFaces(face, seed=5).batch([900])
    assert (other["image"] - alone["image"]).abs().mean() > 0.02


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_neighbours_and_threads_change_no_bit(face, two_threads):
    faces = GeneratedFaces(face, seed=4)
    together = faces.batch(range(9))
    torch.set_num_threads(1)
    for indices in ([8], [4, 2], [0, 1, 3, 5, 6, 7, 8]):
        same({name: value[indices] for name, value in together.items()}, faces.batch(indices))
    same({name: value.flip(0) for name, value in together.items()}, faces.batch(range(8, -1, -1)))


def test_a_person_looks_alike_everywhere(face):
    drawn = GeneratedFaces(face, seed=1).draw(range(3000))
    person = int(drawn.identity[0])
    rows = (drawn.identity == person).nonzero()[:, 0]
    assert len(rows) > 1
    assert (drawn.id_3dmm[rows] == drawn.id_3dmm[0]).all()
    assert len(drawn.id_3dmm.unique(dim=0)) == len(drawn.identity.unique())


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_change_nothing(face, workers):
    faces = GeneratedFaces(face, batch_size=2, size=16, first_batch=3)
    stream = iter(DataLoader(faces, batch_size=None, num_workers=workers))
    for number in range(3, 6):
        same(next(stream), faces.batch([2 * number, 2 * number + 1]))
    del stream


def test_ranks_take_turns(face):
    for rank in range(2):
        faces = GeneratedFaces(face, batch_size=2, size=16, rank=rank, world_size=2)
        stream = iter(faces)
        same(next(stream), faces.batch([2 * rank, 2 * rank + 1]))
        same(next(stream), faces.batch([4 + 2 * rank, 5 + 2 * rank]))


def test_near_frontal_and_bins(face):
    batch = GeneratedFaces(face, size=8).batch(range(40))
    yaw, pitch = batch["angles"][:, 0], batch["angles"][:, 1]
    assert torch.equal(batch["near_frontal"], (yaw.abs() < 15) & (pitch.abs() < 15))
    assert 0.15 < batch["near_frontal"].float().mean() < 0.7
    nearest = torch.tensor(scenes.YAW_BINS)[batch["pose_bin"]]
    assert ((nearest - yaw).abs() <= 10.001).all()
    assert (batch["angles"].abs() <= torch.tensor([60.0, 25, 10])).all()
    assert set(batch["expression"].tolist()) <= {-1, *range(7)}


def test_proof_of_concept(face):
    """At most 20 expressions a person, one light, black background; poses only where wanted."""
    still = GeneratedFaces(face, "poc-test", variation=POC_EXPRESSION).draw(range(1500))
    person = still.identity == still.identity[0]
    assert 5 < len(still.exp_3dmm[person].unique(dim=0)) <= 20
    assert len(still.light.unique(dim=0)) == 1
    assert (still.angles == 0).all() and (still.background == 0).all()
    posed = GeneratedFaces(face, "poc-test", variation=POC_POSE).draw(range(100))
    assert set(posed.angles[:, 0].tolist()) == set(scenes.YAW_BINS)


def test_statistics_standardise(face):
    faces = GeneratedFaces(face, size=16, seed=9)
    drawn = faces.draw(range(400))
    values = {"id_3dmm": drawn.id_3dmm, "exp_3dmm": drawn.exp_3dmm}
    values["shape"] = face.shape(face.vertices(drawn.id_3dmm, drawn.exp_3dmm))
    for name, value in values.items():
        mean, deviation = faces.statistics[name]
        assert mean.shape == deviation.shape == (faces.sizes[name],)
        z = (value - mean) / deviation
        assert z.mean(0).abs().mean() < 0.12 and abs(float(z.std(0).mean()) - 1) < 0.1, name


def test_lights(face):
    """The 16 fixed lights differ and are exposed alike; drawn ones vary."""
    fixed = scenes.project_lamps([scenes.make_fixed_lamps(k) for k in range(16)])
    assert torch.cdist(fixed.flatten(1), fixed.flatten(1)).fill_diagonal_(9).min() > 0.1
    drawn = GeneratedFaces(face).draw(range(64)).light
    normals = torch.nn.functional.normalize(torch.tensor([[0.0, 0, 1]]), dim=1)
    front = harmonics.shading(normals.expand(64, 3), drawn)
    assert front.min() > 0.1 and front.max() < 2
    with pytest.raises(ValueError, match=r"index must be 0\.\.15, got 16"):
        scenes.make_fixed_lamps(16)


def test_grid_is_complete(face):
    faces = make_grid(
        [2100, 2101], ["happy", "sad", "fear"], [-40.0, (0.0, 10.0, 0.0)], [0, 7], face, 16
    )
    assert faces.shape == (2, 3, 2, 2) and len(faces) == 24
    batches = list(faces.batches(7))
    assert [len(batch["image"]) for batch in batches] == [7, 7, 7, 3]
    joined = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    labels = torch.stack(
        [joined[k] for k in ("identity", "expression", "pose_bin", "light_bin")], 1
    )
    assert len(labels.unique(dim=0)) == 24
    names = [face.basic_names[k] for k in joined["expression"].unique().tolist()]
    assert sorted(names) == ["fear", "happy", "sad"]
    same(faces[5], {name: value[5] for name, value in joined.items()})
    # Same person, expression and light, other pose: the frontal picture is the same.
    assert torch.equal(joined["frontal_image"][0], joined["frontal_image"][2])
    assert not torch.equal(joined["image"][0], joined["image"][2])


def test_errors(face):
    for call, message in (
        (lambda: GeneratedFaces(face, "dev"), "split must be one of train.*got 'dev'"),
        (lambda: GeneratedFaces(face, batch_size=0), "batch_size must be positive, got 0"),
        (lambda: make_grid("dev", face_model=face), "a split must be one of"),
        (lambda: make_grid([0], ["bored"], face_model=face), "must be among .*got bored"),
        (lambda: make_grid([], face_model=face), "every list must have at least one entry"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(IndexError, match=r"index must be 0\.\."):
        make_grid([0], face_model=face)[10**6]
