"""Configurations: presets, files, command line."""

import dataclasses
import json

import pytest

from ntensor.faces import configuration as c
from ntensor.faces.common.errors import ConfigurationError
from ntensor.faces.configuration import presets
from ntensor.faces.configuration.command_line import read_command_line
from ntensor.faces.train import main
from small_runs import TRAINING


@pytest.mark.parametrize("name", presets.PRESETS)
def test_presets_survive_a_file(name, tmp_path):
    path = tmp_path / "configuration.json"
    path.write_text(c.to_json(presets.find_preset(name)))
    assert c.from_file(path) == presets.find_preset(name)


def test_paper_preset_has_the_sizes_of_the_paper():
    model = presets.find_preset("paper").model
    sizes = (model.k_i, model.k_b, model.k_m, model.k_l, model.k_exp, model.k_id, model.k_3d)
    assert sizes == (128, 128, 128, 9, 15, 80, 28125)
    assert (model.exp_3dmm, model.id_3dmm, model.image_size) == (28, 157, 64)
    assert model.channels == (96, 48, 24) and model.kernel_size == 5


def test_a_file_replaces_what_it_names(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("training:\n  steps: 7\nlosses: {shape: 0.5}\n")
    found = c.from_file(path, presets.tiny())
    assert found.training.steps == 7 and found.losses.shape == 0.5
    wanted = dataclasses.replace(presets.tiny().training, steps=7)
    assert found.training == wanted and found.model == presets.tiny().model


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("training: {stepz: 7}", r"training\.stepz: .*"),
        ("training: {steps: many}", r"training\.steps: .*integer"),
        ("trainings: {steps: 7}", r"trainings: .*"),
        ("training: {steps: 0}", "training: steps must be a whole number, at least 1, .*, got 0"),
        ("- 1", "expected a mapping of sections, got list"),
        ("a: [", r"a\.yaml"),
    ],
)
def test_wrong_files(tmp_path, text, reason):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=reason):
        c.from_file(path, presets.tiny())


def written_before():
    """The preset paper as files had it before entries became constants, and others came."""
    fixed = {
        "model": {"k_intrinsic": 128, "texture": True},
        "losses": {
            "normal_unit": 0.2,
            "normal_smoothness": 0.02,
            "white_shading": 1.0,
            "mask": 4.0,
            "mask_smoothness": 0.0,
            "background": 5.0,
            "texture": 30.0,
            "prior": 0.1,
            "gamma": 0.7,
            "k_rate": 0.001,
        },
        "training": {
            "optimizer": "adam",
            "channels_last": True,
            "discriminator_rate": 1e-4,
            "final_rate": 0.02,
        },
    }
    later = {"depth", "normalise_input", "core_rank", "skips", "pairs", "swap", "augment"}
    whole = {
        section: {name: value for name, value in entries.items() if name not in later}
        for section, entries in dataclasses.asdict(c.Configuration()).items()
    }
    return {section: entries | fixed.get(section, {}) for section, entries in whole.items()}


def test_a_file_of_an_earlier_version_is_read(tmp_path):
    path = tmp_path / "configuration.json"
    path.write_text(json.dumps(written_before()))
    assert c.from_file(path) == c.Configuration()
    assert sum(map(len, written_before().values())) == 80


@pytest.mark.parametrize(
    ("entry", "value", "fixed"),
    [
        ("model.k_intrinsic", 64, "128"),
        ("losses.mask_smoothness", 0.1, r"0\.0"),
        ("losses.gamma", "much", r"0\.7"),
        ("training.optimizer", "rmsprop", "'adam'"),
        ("training.channels_last", False, "True"),
    ],
)
def test_another_value_of_a_constant_is_refused(tmp_path, entry, value, fixed):
    values = written_before()
    section, name = entry.split(".")
    values[section][name] = value
    path = tmp_path / "configuration.json"
    path.write_text(json.dumps(values))
    with pytest.raises(
        ConfigurationError,
        match=rf"configuration\.json: {entry} must be {fixed}, which .*, got {value!r}$",
    ):
        c.from_file(path)


def test_missing_file():
    with pytest.raises(ConfigurationError, match=r"nowhere\.yaml"):
        c.from_file("nowhere.yaml")


def test_command_line(tmp_path, monkeypatch):
    monkeypatch.delenv("NTENSOR_FACE_MODEL", raising=False)
    path = tmp_path / "a.yaml"
    path.write_text("training: {steps: 7, batch_size: 4}")
    words = ["--preset", "small", "--config", str(path), "--out", "somewhere"]
    words += ["--training.batch-size", "8", "--backend", "reference", "--model.rotation", "row"]
    found, out = read_command_line(words)
    assert str(out) == "somewhere" and found.data == presets.small().data
    assert found.training.steps == 7 and found.training.batch_size == 8
    assert found.training.backend == "reference" and found.model.rotation == "row"


def test_command_line_refuses_an_unknown_entry(capsys):
    with pytest.raises(SystemExit):
        read_command_line(["--training.stepz", "3"])
    assert "stepz" in "".join(capsys.readouterr())


def test_help_shows_every_entry(capsys):
    with pytest.raises(SystemExit):
        read_command_line(["--preset", "tiny", "--help"])
    text = capsys.readouterr().out
    for words in ("--preset", "--training.steps", "--model.rotation", "--losses.shape"):
        assert words in text


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"image_size": 20}, "multiple of 8, got 20"),
        ({"kernel_size": 4}, "must be odd, got 4"),
        ({"k_exp": 5, "k_id": 7}, r"3 to divide k_exp k_id, got 5 \* 7"),
    ],
)
def test_impossible_models(entries, reason):
    with pytest.raises(ConfigurationError, match=reason):
        c.ModelConfiguration(**entries)


def test_sizes_of_the_data():
    sizes = {"k_3d": 12, "exp_3dmm": 3, "id_3dmm": 4, "image_size": 64}
    model = c.fit_to_data(presets.tiny(), sizes).model
    assert (model.k_3d, model.exp_3dmm, model.id_3dmm) == (12, 3, 4)
    with pytest.raises(
        ConfigurationError, match=r"k_3d is 28125, the data has 12 \(--model.k-3d 0"
    ):
        c.fit_to_data(presets.paper(), sizes)


def test_training_command(tmp_path, capsys):
    main([*TRAINING, "--out", str(tmp_path)])
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "configuration.json").read_text())
    assert printed["model"]["k_3d"] == 3000
    assert (tmp_path / "checkpoints" / "step-00000002" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--preset", "huge"], "preset must be one of tiny, small, robust, tiny-robust, paper"),
        (["--preset", "paper"], "model.exp_3dmm is 28.*[(]--model.exp-3dmm 0 uses"),
        (["--preset", "paper"], "model.id_3dmm is 157.*[(]--model.id-3dmm 0 uses"),
        (["--preset", "paper"], "--data.vertices 9375 gives the analytic face as many"),
        (["--preset", "paper"], "needs training.verification-weights .* --losses.verification 0"),
        (["--preset", "tiny", "--data.vertices", "5"], "vertices must be at least"),
        (["--preset", "tiny", "--device", "cuda:7"], "torch finds no GPU"),
    ],
)
def test_training_command_explains(tmp_path, monkeypatch, words, reason):
    monkeypatch.delenv("NTENSOR_FACE_MODEL", raising=False)
    with pytest.raises(SystemExit, match=f"error: .*{reason}"):
        main([*words, "--out", str(tmp_path)])
