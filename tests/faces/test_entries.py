"""Every entry of a configuration has a type and a range, however it is given."""

import dataclasses
import json
import typing

import pytest
import torch

from ntensor.faces import configuration as c
from ntensor.faces import data, verification
from ntensor.faces.common.errors import ConfigurationError
from ntensor.faces.configuration.command_line import read_command_line
from ntensor.faces.configuration.entries import Within, Word
from ntensor.faces.configuration.presets import tiny
from ntensor.faces.evaluation.settings import Evaluation
from ntensor.faces.runs.opened import Options
from ntensor.faces.sweep import Sweep
from ntensor.faces.training import preparation
from ntensor.faces.training.processes import choose_device
from ntensor.faces.verification import VerificationConfiguration

SECTIONS = (
    c.ModelConfiguration,
    c.LossConfiguration,
    c.DataConfiguration,
    c.TrainingConfiguration,
    Evaluation,
    Options,
    Sweep,
    VerificationConfiguration,
    verification.Settings,
)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_number_has_a_range(section):
    hints = typing.get_type_hints(section, include_extras=True)
    for name in (field.name for field in dataclasses.fields(section)):
        hint = hints[name]
        kinds = {int, float}
        parts = typing.get_args(hint)
        notes = [part for part in parts if isinstance(part, Within | Word)]
        bare = hint in kinds or (not notes and kinds & set(parts))
        assert not bare and (name != "device" or notes), name


@pytest.mark.parametrize(
    ("section", "entry", "value"),
    [
        ("training", "checkpoint_every", 0),
        ("training", "validate_every", 0),
        ("training", "log_every", 0),
        ("training", "picture_every", -1),
        ("training", "learning_rate", float("nan")),
        ("training", "learning_rate", -1.0),
        ("training", "seed", -1),
        ("training", "device", "meta"),
        ("training", "warmup", -1),
        ("training", "backend", "cuda"),
        ("training", "clip", float("inf")),
        ("data", "cache", -1),
        ("data", "workers", -1),
        ("data", "device", "gpu"),
        ("data", "validation", 0),
        ("data", "seed", 2**31),
        ("data", "vertices", -5),
        ("model", "channels", (0, 4, 4)),
        ("model", "k_exp", 0),
        ("model", "k_3d", -3),
        ("model", "image_size", 0),
        ("model", "kernel_size", -1),
        ("model", "image_size", 2**20),
        ("losses", "shape", float("nan")),
        ("losses", "pose", -1.0),
    ],
)
def test_impossible_entries(tmp_path, section, entry, value):
    """Code, files and the command line refuse them alike."""
    reason = rf"{entry} must be .+, got "
    base = tiny()
    with pytest.raises(ConfigurationError, match=reason):
        dataclasses.replace(getattr(base, section), **{entry: value})
    path = tmp_path / "a.json"
    path.write_text(
        json.dumps({section: {entry: value}}).replace("NaN", ".nan").replace("Infinity", ".inf")
    )
    with pytest.raises(ConfigurationError, match=entry):
        c.from_file(path, base)
    words = [str(part) for part in (value if isinstance(value, tuple) else (value,))]
    with pytest.raises((ConfigurationError, SystemExit)) as ended:
        read_command_line([f"--{section}.{entry.replace('_', '-')}", *words])
    assert not isinstance(ended.value, SystemExit) or ended.value.code not in (0, None)


@pytest.mark.parametrize("value", ["7", 7.0, True, None, [7]])
def test_types_of_entries_in_code(value):
    with pytest.raises(ConfigurationError, match=r"steps must be a whole number, .*, got "):
        c.TrainingConfiguration(steps=value)
    with pytest.raises(ConfigurationError, match="training must be TrainingConfiguration"):
        c.Configuration(training=value)


def test_devices():
    assert choose_device("cpu") == torch.device("cpu")
    for name in ("meta", "cuda:x", "cpu:0", "", "cuda:99999"):
        with pytest.raises(ConfigurationError, match=r"device must be .* auto, cpu, cuda or"):
            choose_device(name)


def test_backend_that_is_not_there(monkeypatch):
    def refuse(*arguments, backend):
        raise RuntimeError("no compiler") if backend == "triton" else AssertionError(backend)

    monkeypatch.setattr(preparation.ntensor, "synthesis", refuse)
    base = tiny()
    training = dataclasses.replace(base.training, backend="triton")
    with pytest.raises(ConfigurationError, match=r"training\.backend: no compiler"):
        preparation.check_settings(
            dataclasses.replace(base, training=training), 1, torch.device("cpu")
        )


def test_wrong_arguments_of_data_commands(tmp_path):
    for words in (
        ["--count", "0"],
        ["--count", "1", "--size", "0"],
        ["--count", "1", "--seed", "-1"],
        ["--count", "1", "--workers", "-1"],
        ["--count", "1", "--shard-size", "0"],
    ):
        with pytest.raises(
            SystemExit, match=rf"{words[-2][2:].replace('-', '_')} must be .*, got {words[-1]}"
        ):
            data.main(["render", "--out", str(tmp_path / "set"), *words])
        assert not (tmp_path / "set").exists()
