"""Runs of a small network: continued, stopped, killed, split over parts and processes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from batches import RandomSamples, batch_of, small_configuration
from ntensor.faces.common.errors import (
    CheckpointError,
    ConfigurationError,
    NonFiniteError,
    OutputError,
)
from ntensor.faces.configuration import LossConfiguration
from ntensor.faces.networks.model import build
from ntensor.faces.training import checkpoint
from ntensor.faces.training.objective import TrainingStep
from ntensor.faces.training.processes import Processes
from ntensor.faces.training.sampling import Updates
from ntensor.faces.training.schedule import compute_rate
from ntensor.faces.training.trainer import Trainer

HERE = Path(__file__).parent
ALONE = Processes(torch.device("cpu"))


def trainer(run, samples=None, **sections):
    sections = {"losses": {"adversarial": 0.1}, **sections}
    configuration = small_configuration(**sections)
    return Trainer(configuration, run, samples or RandomSamples(), RandomSamples(4, seed=1), ALONE)


def program(run, *words, launcher=(sys.executable,)):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE), *sys.path])
    return subprocess.run(
        [*launcher, str(HERE / "runs.py"), str(run), *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
        start_new_session=True,  # an accident may signal its whole group
    )


def go_on(run):
    """The rest of a run of `runs.py`, in this process."""
    torch.set_num_threads(1)
    assert trainer(run, training={"steps": 8, "checkpoint_every": 2}).train() == "finished"


def state_of(run, step):
    tensors, _ = checkpoint.load(checkpoint.folder_of(run, step), ("model", "training"))
    return {f"{stem}.{name}": t for stem, named in tensors.items() for name, t in named.items()}


def assert_same_state(first, second, step):
    found, wanted = state_of(first, step), state_of(second, step)
    assert found.keys() == wanted.keys() and len(found) > 50
    different = [name for name in found if not torch.equal(found[name], wanted[name])]
    assert not different, different


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """Eight updates in one process of its own."""
    run = tmp_path_factory.mktemp("whole")
    done = program(run)
    assert done.returncode == 0, done.stderr
    assert "finished" in done.stdout
    return run


def test_run_writes_what_it_says(whole_run):
    assert checkpoint.saved_steps(whole_run) == [6, 8]
    assert json.loads((whole_run / "configuration.json").read_text())["training"]["steps"] == 8
    assert (whole_run / "pictures" / "step-00000008.png").stat().st_size > 0
    assert list((whole_run / "tensorboard").glob("events*"))
    assert checkpoint.best(whole_run)[0] == 8


def test_stopped_run_continues_bit_for_bit(whole_run, tmp_path):
    stopped = program(tmp_path, "terminate")
    assert stopped.returncode == 0, stopped.stderr
    assert "SIGTERM" in stopped.stdout
    assert checkpoint.saved_steps(tmp_path) == [2, 3]
    assert program(tmp_path).returncode == 0
    assert_same_state(tmp_path, whole_run, 8)


def test_a_signal_to_the_group_leaves_the_workers_to_the_run(whole_run, tmp_path):
    stopped = program(tmp_path, "group")
    assert stopped.returncode == 0, stopped.stderr
    assert "SIGTERM" in stopped.stdout
    go_on(tmp_path)
    assert_same_state(tmp_path, whole_run, 8)


def test_killed_in_a_write_continues_bit_for_bit(whole_run, tmp_path):
    killed = program(tmp_path, "kill")
    assert killed.returncode == -9
    assert checkpoint.saved_steps(tmp_path) == [2]
    assert list((tmp_path / "checkpoints").glob(f"{checkpoint.UNFINISHED}*"))
    go_on(tmp_path)
    assert_same_state(tmp_path, whole_run, 8)
    assert not list((tmp_path / "checkpoints").glob(f"{checkpoint.UNFINISHED}*"))


def test_two_processes_give_the_parameters_of_one(whole_run, tmp_path):
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    done = program(tmp_path, launcher=(*launcher, "--nproc-per-node=2"))
    assert done.returncode == 0, done.stderr
    found, wanted = state_of(tmp_path, 8), state_of(whole_run, 8)
    for name, tensor in wanted.items():
        # Adam divides by the root of tiny second moments: sums in another order show there.
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=2e-5, msg=name)


def test_parts_give_the_gradient_of_the_whole(tmp_path, monkeypatch):
    # The mean shading of a batch is no mean over its parts, and correlations run on with each
    # part; every other term is a mean.
    monkeypatch.setattr(LossConfiguration, "white_shading", 0.0)
    found = []
    for parts in (1, 2):
        made = trainer(
            tmp_path / str(parts),
            losses={"adversarial": 0.1, "independence": 0.0},
            training={"accumulation": parts, "steps": 1},
        )
        made.train()
        found.append({n: p.grad for n, p in made.model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, grad in found[0].items():
        atol = 1e-6 * float(grad.abs().max())
        torch.testing.assert_close(found[1][name], grad, rtol=1e-4, atol=atol, msg=name)


def test_code_steps_train_the_encoder_alone(tmp_path):
    made = trainer(tmp_path, training={"steps": 3, "code_steps": 2, "checkpoint_every": 1})
    before = {name: tensor.clone() for name, tensor in made.model.state_dict().items()}
    made.train()
    alone, whole = (state_of(tmp_path, step) for step in (2, 3))
    changed = {n for n, t in before.items() if not torch.equal(alone[f"model.{n}"], t)}
    heads = {"light", "thumbnail", "exp_3dmm", "id_3dmm"}
    assert {n.split(".")[0] for n in changed} == {"encoder", *heads}
    assert not [n for n in changed if n.startswith(("encoder.heads.z_b", "encoder.heads.z_m"))]
    for name in ("normal.linear.weight", "frontal_stream.projection.core"):
        assert not torch.equal(whole[f"model.{name}"], before[name])


def test_rows_that_are_not_frontal_are_skipped_without_a_change():
    configuration = small_configuration()
    found = []
    for skips_rows in (False, True):
        torch.manual_seed(0)
        model = build(configuration.model)
        step = TrainingStep(model, configuration.losses, skips_rows=skips_rows)
        loss, named, output = step(batch_of(5))
        loss.backward()
        found.append((named, {name: p.grad for name, p in model.named_parameters()}))
    assert (output["frontal_image"][1::2] == 0).all()
    assert (output["frontal_image"][::2] != 0).any(1).all()
    for first, second in zip(*found, strict=True):
        assert first.keys() == second.keys()
        for name, value in first.items():
            torch.testing.assert_close(second[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_losses_fall(tmp_path):
    made = trainer(
        tmp_path,
        RandomSamples(4),
        training={"steps": 40, "learning_rate": 5e-3, "checkpoint_every": 40},
    )
    batch = made.to_device(batch_of(4))
    from ntensor.faces.training.objective import add_up, compute_terms

    @torch.no_grad()
    def loss():
        batch = made.training[list(range(4))]
        found = compute_terms(
            made.model(batch["image"]), batch, made.configuration.losses, made.model.statistics
        )
        return float(add_up(found, made.configuration.losses))

    assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    before = loss()
    made.train()
    assert loss() < 0.7 * before


def test_nan_stops_with_the_loss_and_the_last_good_checkpoint(tmp_path):
    made = trainer(tmp_path, RandomSamples(poison=9), training={"checkpoint_every": 1, "steps": 4})
    with pytest.raises(NonFiniteError, match=r"update 3: loss light, total .*step-00000002"):
        made.train()
    assert checkpoint.saved_steps(tmp_path) == [1, 2]
    assert all(torch.isfinite(t).all() for t in state_of(tmp_path, 2).values())


def test_unwritable_folder_is_refused_at_the_start(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be locked and written"):
        trainer(tmp_path / "file" / "run").train()


def test_disk_without_room_is_refused_at_the_start(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CheckpointError, match=r"need .* MB, the disk has 0 MB"):
        trainer(tmp_path).train()


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"model": {"accumulate_core_grad": True}, "training": {"compile": True}}, "compile"),
        (
            {"model": {"accumulate_core_grad": True}, "training": {"precision": "bfloat16"}},
            "bfloat16",
        ),
    ],
)
def test_settings_that_do_not_go_together(tmp_path, sections, reason):
    with pytest.raises(ConfigurationError, match=reason):
        trainer(tmp_path, **sections)


def test_accumulating_cores_change_nothing(tmp_path):
    states = []
    for accumulate in (False, True):
        run = tmp_path / str(accumulate)
        trainer(run, model={"accumulate_core_grad": accumulate}).train()
        states.append(state_of(run, 4))
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("network", ["intrinsic", "plain", "proof-of-concept"])
def test_other_networks_train(tmp_path, network):
    trainer(tmp_path, model={"network": network}, training={"steps": 2}).train()
    tensors = state_of(tmp_path, 2)
    assert all(torch.isfinite(t).all() for t in tensors.values())
    assert any(name.startswith("training.rival.") for name in tensors)


def test_bfloat16(tmp_path):
    made = trainer(tmp_path, training={"precision": "bfloat16", "steps": 2})
    made.train()
    assert made.model.encoder.bottleneck.weight.dtype == torch.float32
    assert all(torch.isfinite(p).all() for p in made.model.parameters())


@pytest.mark.slow
def test_compiled_network_gives_the_same_losses(tmp_path, fresh_compiler):
    values = []
    for compile_ in (False, True):
        made = trainer(tmp_path / str(compile_), training={"compile": compile_, "steps": 2})
        made.train()
        values.append(checkpoint.best(tmp_path / str(compile_))[1])
    assert values[1] == pytest.approx(values[0], rel=1e-4)


def test_updates_deal_every_sample_once():
    whole = [i for part in Updates(10, 4, 1, 0, 5, seed=3) for i in part]
    assert sorted(whole[:10]) == sorted(whole[10:]) == list(range(10)) and whole[:10] != whole[10:]
    assert [i for part in Updates(10, 4, 2, 2, 5, seed=3) for i in part] == whole[8:]
    parts = [list(Updates(10, 4, 2, 0, 5, 3, rank, 2)) for rank in (0, 1)]
    assert [i for pair in zip(*parts, strict=True) for p in pair for i in p] == whole
    with pytest.raises(ValueError, match="must divide batch_size"):
        Updates(10, 4, 3)


def test_rate_rises_and_falls():
    settings = small_configuration(training={"steps": 100, "warmup": 10}).training
    rates = [compute_rate(settings, step) for step in range(101)]
    assert rates[0] == 0.1 and rates[9] == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(settings.final_rate)
    phased = small_configuration(training={"steps": 130, "warmup": 10, "code_steps": 30}).training
    assert [compute_rate(phased, step) for step in range(30)] == [*rates[:10], *[1.0] * 20]
    assert [compute_rate(phased, step) for step in range(30, 131)] == rates
