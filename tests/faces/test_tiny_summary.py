"""`benchmarks/faces_tiny.py`: means, spreads and refusals on made-up runs."""

import dataclasses
import json

import pytest

import faces_tiny
from ntensor.faces.configuration import to_json
from ntensor.faces.configuration.presets import tiny


def run_of(folder, seed, error, steps=None, rotation="column"):
    base = tiny()
    training = dataclasses.replace(base.training, seed=seed, steps=steps or base.training.steps)
    model = dataclasses.replace(base.model, rotation=rotation)
    folder.mkdir()
    (folder / "configuration.json").write_text(
        to_json(dataclasses.replace(base, training=training, model=model))
    )
    evaluation = {
        "faces": "analytic face",
        "squared_error": {"network": {"image": error}},
        "accuracy": {"z_p": {"pose": {"random": 0.9, "grouped": None}}},
    }
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    (folder / "pictures").mkdir()
    for step in (5, 10):
        (folder / "pictures" / f"step-{step:08d}.png").write_bytes(bytes([step]))
    return str(folder)


def test_means_and_spreads(tmp_path, capsys):
    runs = [run_of(tmp_path / str(seed), seed, error) for seed, error in ((0, 1.0), (1, 2.0))]
    runs.append(run_of(tmp_path / "row", 0, 5.0, rotation="row"))
    faces_tiny.main([*runs, "--out", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out" / "faces_tiny.json").read_text())
    error = found["column"]["squared_error"]["network"]["image"]
    assert found["column"]["seeds"] == [0, 1] and error["values"] == [1.0, 2.0]
    assert error["mean"] == 1.5 and error["std"] == pytest.approx(0.5**0.5)
    assert found["column"]["accuracy"]["z_p"]["pose"]["grouped"] is None
    assert found["row"]["squared_error"]["network"]["image"]["std"] is None
    assert (tmp_path / "out" / "faces_tiny.png").read_bytes() == bytes([10])
    assert "1.5000 +- 0.7071" in capsys.readouterr().out


def test_runs_of_other_settings_are_refused(tmp_path):
    runs = [run_of(tmp_path / "a", 0, 1.0), run_of(tmp_path / "b", 1, 1.0, steps=7)]
    with pytest.raises(SystemExit, match=r"the runs differ in training\.steps"):
        faces_tiny.main([*runs, "--out", str(tmp_path)])


def test_a_run_without_evaluation_is_named(tmp_path):
    run = run_of(tmp_path / "a", 0, 1.0)
    (tmp_path / "a" / "evaluation.json").unlink()
    with pytest.raises(SystemExit, match=r"evaluation\.json: wanted what python -m"):
        faces_tiny.main([run, "--out", str(tmp_path)])
