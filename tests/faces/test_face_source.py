"""Which face model a run is made with: the settings, a preset and `NTENSOR_FACE_MODEL`."""

import dataclasses
import json

import pytest

from ntensor.faces import configuration as c
from ntensor.faces import train, verification
from ntensor.faces.common.errors import ConfigurationError
from ntensor.faces.configuration import presets
from ntensor.faces.configuration.command_line import read_command_line
from ntensor.faces.configuration.face_source import VARIABLE
from ntensor.faces.media.inputs import Inputs
from ntensor.faces.morphable.face_models import find_face_model
from ntensor.faces.training.runs import load_run
from small_files import write_ict
from small_runs import ANALYTIC, TRAINING, write_run

# Those of `TRAINING` but for the face.
WORDS = [word for word in TRAINING if word not in ANALYTIC]


@pytest.fixture
def faces(tmp_path, monkeypatch):
    """A face model that the environment names."""
    path = tmp_path / "faces.npz"
    write_ict(path, modes=80, expressions=[f"shape{k}" for k in range(8)])
    monkeypatch.setenv(VARIABLE, str(path))
    return str(path)


def refused(*words):
    with pytest.raises(SystemExit) as raised:
        train.main([str(word) for word in words])
    return str(raised.value)


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_preset_takes_the_face_that_the_environment_names(name, faces, monkeypatch, tmp_path):
    found, _ = read_command_line(["--preset", name])
    assert (found.data.face_model, found.data.vertices) == (faces, 0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, "faces.npz")
    assert read_command_line(["--preset", name])[0] == found
    monkeypatch.setenv(VARIABLE, "absent.npz")
    with pytest.raises(ConfigurationError, match=f"{VARIABLE} names absent.npz, which is not"):
        read_command_line(["--preset", name])
    for value in ("", "analytic"):
        monkeypatch.setenv(VARIABLE, value)
        data = read_command_line(["--preset", name])[0].data
        preset = presets.find_preset(name).data
        wanted = None if preset.vertices else "analytic"
        assert data == dataclasses.replace(preset, face_model=wanted)


def test_chosen_vertices_and_a_file_contradict_each_other(faces, tmp_path, capsys):
    file = tmp_path / "a.yaml"
    file.write_text("data: {vertices: 1000}")
    sentence = f"vertices is 1000, which is for the analytic face, but {VARIABLE} names {faces}"
    for words in (["--data.vertices", "1000"], ["--data.vertices=1000"], ["--config", str(file)]):
        with pytest.raises(ConfigurationError, match=sentence):
            read_command_line(words)
    with pytest.raises(ConfigurationError, match=r"but data\.face_model names other\.npz"):
        read_command_line(["--data.face-model", "other.npz", "--data.vertices", "1000"])
    with pytest.raises(SystemExit, match=sentence):
        verification.main(["--out", str(tmp_path / "w"), "--data.vertices", "1000"])
    data = read_command_line(ANALYTIC)[0].data
    assert (data.face_model, data.vertices) == (None, 1000)
    data = read_command_line(["--data.face-model", "other.npz"])[0].data
    assert (data.face_model, data.vertices) == ("other.npz", 0)
    data = read_command_line(["--data.source", str(tmp_path)])[0].data
    assert (data.face_model, data.vertices) == (None, 1500)


def test_a_run_keeps_the_face_that_it_was_begun_with(faces, tmp_path, monkeypatch):
    run = tmp_path / "run"
    train.main([*WORDS, "--out", str(run)])
    kept = json.loads((run / "configuration.json").read_text())
    assert (kept["data"]["face_model"], kept["data"]["vertices"]) == (faces, 0)
    assert kept["model"]["id_3dmm"] == 80
    for other in ("", str(tmp_path / "absent.npz")):
        monkeypatch.setenv(VARIABLE, other)
        assert Inputs(load_run(run)[1]).face_model.source.startswith("ICT")
    monkeypatch.delenv(VARIABLE)
    message = refused(*WORDS, "--out", run)
    assert f"data.face_model is '{faces}' there, not None" in message
    train.main(["--config", str(run / "configuration.json"), "--out", str(run)])


def test_an_analytic_run_keeps_its_face(faces, tmp_path):
    run = write_run(tmp_path / "run")
    assert Inputs(load_run(run)[1]).face_model.source == "analytic face, 1000 vertices"
    kept = run / "configuration.json"
    assert read_command_line(["--config", str(kept)])[0].data == c.from_file(kept).data
    message = refused("--preset", "tiny", "--out", run)
    assert f"data.face_model is None there, not '{faces}'" in message
    assert "data.vertices is 1000 there, not 0" in message


def test_runs_of_earlier_versions_continue(faces):
    new, _ = read_command_line(["--preset", "paper"])
    noted = {(faces, 0): [], (faces, 1500): [], (None, 0): [], ("analytic", 0): ["face_model"]}
    noted[None, 1500] = ["face_model", "vertices"]
    for (face_model, vertices), wrong in noted.items():
        data = dataclasses.replace(new.data, face_model=face_model, vertices=vertices)
        found = c.find_differences(dataclasses.replace(new, data=data), new)
        assert [phrase.split()[0] for phrase in found] == [f"data.{name}" for name in wrong]
    old = c.DataConfiguration(face_model="analytic", vertices=1000)
    assert find_face_model(old).source == "analytic face, 6000 vertices"
    assert find_face_model(c.DataConfiguration()).source.startswith("ICT")
