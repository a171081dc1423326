"""Measures, probes, and the evaluation, verification and picture commands on tiny networks."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import tyro

from batches import RandomSamples, batch_of, small_configuration
from ntensor.faces import checkpoint, pictures, verification
from ntensor.faces.configuration import DataConfiguration, fitted, to_json
from ntensor.faces.errors import CheckpointError, FacesError
from ntensor.faces.evaluate import command
from ntensor.faces.evaluation import AngularError, SquaredError, accuracy, angular_degrees
from ntensor.faces.evaluation.run import Evaluation, evaluate, report
from ntensor.faces.model import build
from ntensor.faces.presets import tiny


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
    assert accuracy(telling, labels).random > 0.95
    assert accuracy(random.normal(size=(120, 3)), labels).random < 0.6
    assert accuracy(telling, labels).chance == pytest.approx(1 / 3)
    assert accuracy(telling, np.where(labels == 2, -1, labels)).classes == 2


def test_grouped_folds_see_through_duplicates():
    # Each group has a label and a place of its own: a near duplicate tells, another group does not.
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), 10)
    labels = random.integers(0, 2, 30)[groups]
    features = np.eye(30)[groups] + 0.01 * random.normal(size=(300, 30))
    probe = accuracy(features, labels, groups)
    assert probe.random > 0.95 and probe.grouped < 0.75


def test_accuracy_needs_classes():
    with pytest.raises(ValueError, match="at least 2 classes"):
        accuracy(np.zeros((4, 1)), np.zeros(4, int))


@pytest.fixture
def run(tmp_path):
    base = tiny()
    model = dataclasses.replace(
        base.model, image_size=16, channels=(4, 4, 4), k_i=8, k_b=4, k_m=4, k_exp=3, k_id=4
    )
    data = dataclasses.replace(base.data, vertices=1000)
    configuration = dataclasses.replace(base, model=model, data=data)
    sizes = {"k_3d": 3000, "exp_3dmm": 16, "id_3dmm": 30, "image_size": 16}
    configuration = fitted(configuration, sizes)
    (tmp_path / "configuration.json").write_text(to_json(configuration))
    weights = build(configuration.model).state_dict()
    checkpoint.save(tmp_path, 3, {"model": weights}, {"step": 3})
    return tmp_path


def test_evaluation_of_an_untrained_network(run):
    settings = Evaluation(identities=3, lights=(0, 15), fitted=40, folds=3)
    found = evaluate(run, settings)
    assert found["samples"] == 3 * 6 * 7 * 2 and found["step"] == 3
    assert found["faces"].startswith("analytic face")
    angle, colour = found["angular_error"], found["squared_error"]
    assert angle["mean face"]["mean"] < angle["constant"]["mean"]
    assert angle["mean face"]["mean"] < angle["network"]["mean"]
    assert colour["mean image"]["image"] < colour["network"]["image"]
    accuracies = found["accuracy"]
    assert {"z_p", "z_exp", "z_id", "z_l", "pixels, 9 components"} <= set(accuracies)
    assert set(accuracies["z_p"]) == {"identity", "expression", "pose", "light"}
    assert accuracies["z_p"]["expression"]["chance"] == pytest.approx(1 / 6)
    json.dumps(found)
    text = report(found)
    for words in ("mean image", "mean face", "z_exp", "chance", "unseen identities"):
        assert words in text


def test_evaluation_command(run, capsys):
    tyro.cli(command, args=[str(run), "--identities", "2", "--fitted", "30", "--folds", "2"])
    assert "mean face" in capsys.readouterr().out
    assert json.loads((run / "evaluation.json").read_text())["samples"] == 2 * 6 * 7 * 2
    with pytest.raises(SystemExit, match=r"error: .*got no checkpoint"):
        tyro.cli(command, args=[str(run / "elsewhere")])


def test_a_run_without_checkpoints(tmp_path):
    with pytest.raises(CheckpointError, match="got no checkpoint"):
        evaluate(tmp_path, Evaluation())


def test_damaged_checkpoint_is_named(run):
    path = checkpoint.folder_of(run, 3) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"step-00000003: not a whole checkpoint"):
        evaluate(run, Evaluation())


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
    picture = pictures.grid({"a": first, "b": 1 - first})
    top = pictures.HEADER + 4 + pictures.MARGIN
    assert picture[pictures.HEADER, 0].tolist() == [0, 0, 0]
    assert picture[top, 0].tolist() == [255, 0, 0]
    assert picture[top, 4 + pictures.MARGIN].tolist() == [0, 255, 255]
    pictures.save_grid(tmp_path / "a" / "grid.png", {"a": first}, scale=3)
    assert (tmp_path / "a" / "grid.png").stat().st_size > 0


def test_columns_of_a_network():
    batch = batch_of(2)
    shown = pictures.columns(batch, build(small_configuration().model)(batch["image"]))
    assert list(shown)[:3] == ["input", "reconstr.", "normals"]
    assert "true tex." not in shown
    assert all(value.shape == (2, 3, 16, 16) for value in shown.values())
    assert all(value.min() >= 0 and value.max() <= 1 for value in shown.values())
