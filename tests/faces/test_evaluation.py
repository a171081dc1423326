"""Measures and probes on values made by hand, verification, and pictures of outputs."""

import numpy as np
import pytest
import torch

from batches import RandomSamples, batch_of, small_configuration
from ntensor.faces import verification
from ntensor.faces.common.errors import CheckpointError, ConfigurationError, FacesError
from ntensor.faces.configuration import DataConfiguration
from ntensor.faces.evaluation import transfer
from ntensor.faces.evaluation.measures import AngularError, SquaredError, angular_degrees
from ntensor.faces.evaluation.probes import measure_accuracy
from ntensor.faces.evaluation.svm import cross_validate, fit_machines
from ntensor.faces.morphable.analytic_face import make_analytic_face
from ntensor.faces.networks.model import build
from ntensor.faces.writing import grids


def test_angles():
    x, y, z = torch.eye(3).view(3, 1, 3, 1, 1)
    assert angular_degrees(z, z).item() == 0
    assert angular_degrees(5 * (x + z), z).item() == pytest.approx(45, abs=1e-3)
    assert angular_degrees(-y, y).item() == pytest.approx(180)
    assert angular_degrees(0 * y, y).item() == pytest.approx(90)


def test_angular_error_counts_the_face_only():
    error = AngularError()
    found = torch.zeros(2, 3, 1, 2)
    found[:, 2] = 1
    target = found.clone()
    target[0, :, 0, 0] = torch.tensor([1.0, 0.0, 0.0])
    mask = torch.tensor([[1.0, 1.0], [1.0, 0.0]]).view(2, 1, 1, 2)
    error.add(found, target, mask)
    result = error.result()
    assert result["mean"] == pytest.approx(22.5)
    assert result["std"] == pytest.approx(np.std([45, 0], ddof=1))
    assert result["below_40"] == pytest.approx(2 / 3)


def test_squared_error():
    error = SquaredError()
    mask = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    target = torch.zeros(1, 3, 1, 2)
    found = torch.tensor([0.5, 7.0]).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    error.add(found, target, mask)
    assert error.result() == {"image": pytest.approx(0.625), "face": pytest.approx(0.25)}


def test_accuracy_of_a_code_that_tells_and_one_that_does_not():
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 40)
    telling = np.eye(3)[labels] + 0.1 * random.normal(size=(120, 3))
    assert measure_accuracy(telling, labels).random > 0.95
    assert measure_accuracy(random.normal(size=(120, 3)), labels).random < 0.6
    assert measure_accuracy(telling, labels).chance == pytest.approx(1 / 3)
    assert measure_accuracy(telling, np.where(labels == 2, -1, labels)).classes == 2


def test_accuracy_by_the_nearest_sample():
    # No line parts these classes, neighbours do.
    x = np.array([[0.0], [0.1], [1.0], [1.1], [2.0], [2.1], [3.0], [3.1]])
    labels = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    groups = np.array([0, 1, 0, 1, 0, 1, 0, 1])
    assert measure_accuracy(x, labels, groups, classifier="neighbour").grouped == 1
    assert measure_accuracy(x, labels, groups).grouped < 1


def test_grouped_folds_see_through_duplicates():
    # Each group has a label and a place of its own: a near duplicate tells, another group does not.
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), 10)
    labels = random.integers(0, 2, 30)[groups]
    features = np.eye(30)[groups] + 0.01 * random.normal(size=(300, 30))
    probe = measure_accuracy(features, labels, groups)
    assert probe.random > 0.95 and probe.grouped < 0.75


def test_machines_are_those_of_scikit_learn():
    from sklearn.svm import LinearSVC

    random = np.random.default_rng(0)
    labels = np.arange(120) % 4
    x = random.normal(size=(4, 6))[labels] + random.normal(size=(120, 6))
    x = (x - x.mean(0)) / x.std(0)
    wanted = LinearSVC(dual=False, tol=1e-8, C=0.5).fit(x, labels)
    targets = 2 * np.eye(4)[labels] - 1
    points, signs = torch.from_numpy(x), torch.from_numpy(targets)
    found = fit_machines(points, signs, torch.ones(120, 1), penalty=0.5, tolerance=1e-8)
    np.testing.assert_allclose(found[:-1].T, wanted.coef_, atol=1e-5)
    np.testing.assert_allclose(found[-1], wanted.intercept_, atol=1e-5)
    # What a machine does not see does not count.
    half = torch.zeros(120, 1, dtype=torch.double)
    half[:60] = 1
    seen = fit_machines(points, signs, half, tolerance=1e-8)
    alone = fit_machines(points[:60], signs[:60], torch.ones(60, 1), tolerance=1e-8)
    torch.testing.assert_close(seen, alone, atol=1e-5, rtol=0)


def test_cross_validation_tests_what_was_left_out():
    # The left-out sample of class 1 lies among those of class 0.
    x = torch.tensor([[-1.0], [-1.2], [-0.9], [1.0], [1.1], [-1.1]])
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    mean, each = cross_validate(x, labels, torch.tensor([0, 0, 0, 0, 0, 1]))
    assert each[1] == 0 and mean == sum(each) / 2


def test_accuracy_needs_classes():
    with pytest.raises(ValueError, match="at least 2 classes"):
        measure_accuracy(np.zeros((4, 1)), np.zeros(4, int))


def test_verification_network_learns_identities(tmp_path):
    class Coloured(RandomSamples):
        """Images whose colour is the identity."""

        def __getitem__(self, indices):
            batch = batch_of(len(indices))
            batch["identity"] = torch.tensor([10 * (i % 3) for i in indices])
            level = batch["identity"].float().view(-1, 1, 1, 1) / 30
            batch["image"] = level + 0.05 * batch["image"]
            return batch

    settings = verification.VerificationConfiguration(
        width=0.1, embedding=8, input_size=16, steps=60, batch_size=12, learning_rate=3e-3
    )
    device = torch.device("cpu")
    network, right = verification.fit(settings, Coloured(12), device)
    assert right > 0.4
    area = verification.area_under_curve(network, Coloured(12), device)
    assert area > 0.9
    path = tmp_path / "verification.safetensors"
    verification.save(network, path)
    image = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(verification.load(path)(image), network(image))
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(CheckpointError, match="not the weights of a LightCNN"):
        verification.load(path)


def test_verification_needs_identities_and_an_end():
    settings = verification.VerificationConfiguration(data=DataConfiguration())
    with pytest.raises(FacesError, match="cache must be above 0"):
        verification.fit(settings, RandomSamples(), torch.device("cpu"))


def test_grid_shows_values_at_their_places(tmp_path):
    first = torch.zeros(2, 3, 4, 4)
    first[1, 0] = 1
    picture = grids.draw_grid({"a": first, "b": 1 - first})
    top = grids.HEADER + 4 + grids.MARGIN
    assert picture[grids.HEADER, 0].tolist() == [0, 0, 0]
    assert picture[top, 0].tolist() == [255, 0, 0]
    assert picture[top, 4 + grids.MARGIN].tolist() == [0, 255, 255]
    grids.save_grid(tmp_path / "a" / "grid.png", {"a": first}, scale=3)
    assert (tmp_path / "a" / "grid.png").stat().st_size > 0


@pytest.mark.parametrize("title", ["mask", "no-multilinear", "a title that no font makes small"])
def test_titles_fit_their_column(title):
    text, font = grids.fit_title(title, 64)
    assert font.getlength(text) <= 64 and title.startswith(text)
    assert (text == title) == (len(title) < 20)


def test_columns_of_a_network():
    batch = batch_of(2)
    shown = grids.make_columns(batch, build(small_configuration().model)(batch["image"]))
    assert list(shown)[:3] == ["input", "reconstr.", "normals"]
    assert "true tex." not in shown
    assert all(value.shape == (2, 3, 16, 16) for value in shown.values())
    assert all(value.min() >= 0 and value.max() <= 1 for value in shown.values())


def test_landmarks_of_another_face_are_refused():
    face = make_analytic_face(1000)
    shape = face.mean[face.shape_vertices][None]
    assert transfer.select_landmarks(face, shape).shape == (1, 68, 3)
    with pytest.raises(ConfigurationError, match=r"expected shapes of its .* got 10: the run"):
        transfer.select_landmarks(face, shape[:, :10])
