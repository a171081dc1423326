"""Checkpoints appear whole or not at all."""

import errno
import math
import os

import pytest
import torch

from ntensor.faces.common.errors import CheckpointError
from ntensor.faces.training import checkpoint


def write(run, step, value=1.0, **values):
    tensors = {"model": {"w": torch.full((2, 3), value)}, "training": {"v": torch.ones(())}}
    return checkpoint.save(run, step, tensors, {"step": step, "note": "x", **values})


def test_round_trip(tmp_path):
    folder = write(tmp_path, 5, 2.5)
    tensors, values = checkpoint.load(folder, ("model", "training"))
    assert torch.equal(tensors["model"]["w"], torch.full((2, 3), 2.5))
    assert tensors["training"]["v"].shape == () and values == {"step": 5, "note": "x"}
    assert checkpoint.saved_steps(tmp_path) == [5]


def test_newest_and_best_stay(tmp_path):
    for step, value in enumerate((math.nan, 0.25, None, 0.5, 0.25), 1):
        write(tmp_path, step, validation=value)
        checkpoint.prune(tmp_path, keep=2, every=1)
    assert checkpoint.saved_steps(tmp_path) == [2, 4, 5]
    assert checkpoint.best(tmp_path) == (2, 0.25)
    assert not list((tmp_path / "checkpoints").glob(f"{checkpoint.UNFINISHED}*"))


def test_what_a_stop_left_goes_with_the_next(tmp_path):
    for step, kept in ((2, [2]), (4, [2, 4]), (5, [4, 5]), (6, [4, 6]), (7, [6, 7]), (8, [6, 8])):
        write(tmp_path, step)
        checkpoint.prune(tmp_path, keep=2, every=2)
        assert checkpoint.saved_steps(tmp_path) == kept


def test_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    write(tmp_path, 1)

    def refuse(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(CheckpointError, match=r"No space left.*last complete one is .*00000001"):
        write(tmp_path, 2)
    monkeypatch.undo()
    assert checkpoint.saved_steps(tmp_path) == [1]
    assert not list((tmp_path / "checkpoints").glob(f"{checkpoint.UNFINISHED}*"))
    checkpoint.load(checkpoint.folder_of(tmp_path, 1))


def test_unfinished_folder_is_not_a_checkpoint(tmp_path):
    unfinished = tmp_path / "checkpoints" / f"{checkpoint.UNFINISHED}step-00000009"
    unfinished.mkdir(parents=True)
    (unfinished / "state.json").write_text("{}")
    assert checkpoint.saved_steps(tmp_path) == []
    write(tmp_path, 1)
    assert not unfinished.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "state.json"])
def test_cut_files_are_named(tmp_path, name):
    folder = write(tmp_path, 1)
    path = folder / name
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="step-00000001: not a complete checkpoint"):
        checkpoint.load(folder)


def stepped(layer):
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        layer(torch.ones(1, 2, 4, 4)).square().sum().backward()
        optimizer.step()
    return optimizer


def test_optimizer_round_trip():
    layer = torch.nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
    first = stepped(layer)
    packed = checkpoint.pack_optimizer("a", first)
    second = torch.optim.Adam(layer.parameters(), lr=0.5)
    checkpoint.unpack_optimizer(
        "a", second, {n: checkpoint.detach_copy(t) for n, t in packed.items()}
    )
    for parameter in layer.parameters():
        assert first.state[parameter].keys() == second.state[parameter].keys()
        for name, value in first.state[parameter].items():
            found = second.state[parameter][name]
            assert torch.equal(found, value) and found.stride() == value.stride()
    assert second.param_groups[0]["lr"] == 0.5


def test_optimizer_of_another_network():
    packed = checkpoint.pack_optimizer("a", stepped(torch.nn.Conv2d(2, 3, 3)))
    other = torch.optim.Adam(torch.nn.Conv2d(2, 4, 3).parameters())
    with pytest.raises(
        CheckpointError,
        match=r"expected float32 of shape \(4, 2, 3, 3\), got",
    ):
        checkpoint.unpack_optimizer("a", other, packed)
