"""The sweep over ablations: its plan, its runs, and that it resumes."""

import subprocess

import pytest

from ntensor.faces import sweep, train
from ntensor.faces.common.errors import ConfigurationError
from small_runs import ANALYTIC

TINY = [
    *("--model.image-size", "16", "--model.channels", "4", "4", "4", "--model.k-i", "8"),
    *(*ANALYTIC, "--data.cache", "8", "--data.validation", "4"),
    *("--training.batch-size", "4"),
]


def test_plan():
    planned, left_out = sweep.plan(sweep.Sweep(seeds=(0, 3)))
    robust = ["no-pairs", "no-swap", "no-skips", "no-normalisation"]
    assert left_out == ["no-adversary", "no-verification", *robust]
    names = [run.folder.name for run in planned]
    assert names[:3] == ["full-s0", "no-multilinear-s0", "no-independence-s0"]
    assert names[-1] == "intrinsic-s3" and len(names) == 2 * 6
    by_name = {run.folder.name: run.configuration for run in planned}
    assert by_name["no-multilinear-s0"].losses.shape == 0
    assert by_name["no-rotation-s3"].model.rotation == "off"
    assert by_name["plain-s3"].model.network == "plain"
    assert by_name["full-s3"].training.seed == by_name["full-s3"].data.seed == 3
    assert by_name["full-s0"].losses.shape > 0


def test_ablations_of_robust():
    planned, left_out = sweep.plan(sweep.Sweep(preset="robust"))
    assert left_out == ["no-adversary", "no-verification"]
    by_name = {run.folder.name: run.configuration for run in planned}
    assert by_name["full-s0"].model.skips and not by_name["no-skips-s0"].model.skips
    assert not by_name["no-normalisation-s0"].model.normalise_input
    assert by_name["no-pairs-s0"].losses.pairs == by_name["no-swap-s0"].losses.swap == 0
    assert by_name["no-pairs-s0"].losses.swap > 0


def test_options_go_to_every_run():
    planned, left_out = sweep.plan(sweep.Sweep(steps=7), ["--losses.adversarial", "0.5"])
    weights = {run.folder.name: run.configuration.losses.adversarial for run in planned}
    assert weights["full-s0"] == 0.5 and weights["no-adversary-s0"] == 0
    assert left_out[0] == "no-verification" and "no-adversary" not in left_out
    assert all(run.configuration.training.steps == 7 for run in planned)


def test_unknown_names():
    with pytest.raises(ConfigurationError, match=r"names must be among full, .*got most"):
        sweep.plan(sweep.Sweep(names=("most",)))


def test_sweep_trains_and_resumes(tmp_path, capfd, monkeypatch):
    def run(command, check):
        assert command[1:3] == ["-m", "ntensor.faces.train"]
        train.main(command[3:])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    arguments = ["--names", "full", "no-rotation", "--steps", "2", "--out", str(tmp_path), *TINY]
    sweep.main([*arguments, "--dry-run"])
    assert not list(tmp_path.iterdir())
    sweep.main(arguments)
    shown = capfd.readouterr().out
    assert "$ python -m ntensor.faces.train --preset tiny" in shown
    assert f"{tmp_path}: 2 finished runs" in shown
    assert {path.name for path in tmp_path.iterdir()} == {"full-s0", "no-rotation-s0"}
    sweep.main(arguments)
    again = capfd.readouterr().out
    assert "$ python" not in again and again.count(": finished") == 2


def test_a_failing_run_is_named(tmp_path, capfd):
    with pytest.raises(SystemExit, match=r"full-s0: training ended with status 1"):
        arguments = ["--names", "full", "--steps", "1", "--out", str(tmp_path), *TINY]
        sweep.main([*arguments, "--losses.verification", "1"])
    assert "verification-weights" in capfd.readouterr().err
