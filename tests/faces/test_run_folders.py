"""Nothing that stands in a folder is lost: not to other settings, not to another process."""

import dataclasses
import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ntensor.faces import data, edit, evaluate, reconstruct, sweep, train, verification
from ntensor.faces.common.errors import CheckpointError, ConfigurationError, OutputError
from ntensor.faces.configuration import FREE, Configuration, find_differences
from ntensor.faces.datasets.storage import ShardWriter
from ntensor.faces.training import checkpoint
from ntensor.faces.training.runs import load_run
from ntensor.faces.writing.files import LOCK, UNFINISHED, locked, replacing, write_text
from small_runs import ANALYTIC, HAPPY, TRAINING, write_run
from test_training import assert_same_state, trainer


def contents(folder):
    """Every file of a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def refused(call, *words):
    """The one sentence by which a command fails."""
    with pytest.raises(SystemExit) as stopped:
        call([str(word) for word in words])
    message = str(stopped.value.code)
    assert message.startswith("error: ") and "\n" not in message
    return message


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of one update."""
    run = tmp_path_factory.mktemp("finished")
    trainer(run, training={"steps": 1}).train()
    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that the command has trained."""
    run = tmp_path_factory.mktemp("trained")
    train.main([*TRAINING, "--out", str(run)])
    return run


@pytest.mark.parametrize(
    ("sections", "names"),
    [
        ({"model": {"k_b": 5}}, "model.k_b is 4 there, not 5"),
        ({"losses": {"adversarial": 0.2}}, "losses.adversarial is 0.1 there, not 0.2"),
        ({"data": {"cache": 5, "seed": 3}}, "data.cache is 8000 .* 5; data.seed is 0 .* 3;"),
        ({"training": {"steps": 2}}, "training.steps is 1 there, not 2"),
        ({"training": {"steps": 1, "seed": 1}}, "training.seed is 0 there, not 1"),
    ],
)
def test_a_run_of_another_configuration_is_left_as_it_is(finished, sections, names):
    before = contents(finished)
    sections = {"training": {"steps": 1}, **sections}
    with pytest.raises(ConfigurationError, match=names) as error:
        trainer(finished, **sections).train()
    assert "choose another --out, or continue it with its own values" in str(error.value)
    assert contents(finished) == before


def test_free_entries_may_change(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    training = {"steps": 1, "keep": 1, "backend": "reference", "checkpoint_every": 7}
    assert trainer(run, training=training, data={"workers": 1}).train() == "finished"
    kept = json.loads((run / "configuration.json").read_text())
    assert training.items() <= kept["training"].items() and kept["data"]["workers"] == 1


def test_free_entries_do_not_change_what_is_learnt(tmp_path):
    every = {f"{name}_every": 1 for name in ("log", "picture", "validate", "checkpoint")}
    for name, changed in (("often", every), ("seldom", dict.fromkeys(every, 1000))):
        trainer(tmp_path / name, training={"steps": 3, **changed}).train()
    assert_same_state(tmp_path / "often", tmp_path / "seldom", 3)


def test_differences():
    base = Configuration()
    entries = dataclasses.asdict(base)
    assert {f"{section}.{name}" for section, named in entries.items() for name in named} > FREE
    # Extents that are taken from the data, or that the network does not use.
    own = dataclasses.replace(base.model, k_3d=0, id_3dmm=3)
    assert find_differences(base, Configuration(own)) == ["model.id_3dmm is 157 there, not 3"]
    plain = Configuration(dataclasses.replace(base.model, network="plain"))
    others = Configuration(dataclasses.replace(plain.model, id_3dmm=3))
    assert find_differences(plain, others) == []


def test_checkpoints_without_their_configuration(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "configuration.json").unlink()
    with pytest.raises(ConfigurationError, match="holds checkpoints without the configuration"):
        trainer(run, training={"steps": 1}).train()


def test_a_checkpoint_that_cannot_be_continued_leaves_the_folder(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    path = run / "configuration.json"
    path.write_text(path.read_text().replace('"k_b": 4', '"k_b": 5'))
    before = contents(run)
    with pytest.raises(CheckpointError, match="does not match this configuration"):
        trainer(run, model={"k_b": 5}, training={"steps": 1, "keep": 3}).train()
    assert contents(run) == before
    shutil.copy(finished / "configuration.json", path)
    weights = checkpoint.folder_of(run, 1) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    before = contents(run)
    with pytest.raises(CheckpointError, match="not a complete checkpoint"):
        trainer(run, training={"steps": 1, "keep": 3}).train()
    assert contents(run) == before


def test_somebody_elses_file_is_not_replaced(tmp_path):
    (tmp_path / "configuration.json").write_text('{"theirs": 1}')
    with pytest.raises(ConfigurationError, match="theirs"):
        trainer(tmp_path).train()
    assert contents(tmp_path) == {"configuration.json": b'{"theirs": 1}'}


def test_training_command_with_other_settings(trained, capsys):
    before = contents(trained)
    message = refused(train.main, *TRAINING, "--model.k-b", 5, "--out", trained)
    assert "model.k_b is 32 there, not 5" in message
    assert contents(trained) == before
    own = message.partition("by --config ")[2]
    train.main(["--config", own, "--out", str(trained)])


def test_sweep_over_a_finished_run_of_other_settings(trained, tmp_path, monkeypatch, capsys):
    shutil.copytree(trained, tmp_path / "plain-s0")
    started = []
    monkeypatch.setattr(sweep, "run_to_its_end", started.append)
    before = contents(tmp_path)
    words = [*TRAINING[2:], "--out", tmp_path, "--names", "full", "plain"]
    assert "model.network is 'neuro-tensorial' there, not 'plain'" in refused(sweep.main, *words)
    assert contents(tmp_path) == before and not started


def test_verification_does_not_replace_a_file(tmp_path):
    out = tmp_path / "weights.safetensors"
    out.write_text("hours")
    message = refused(verification.main, "--out", out, *ANALYTIC)
    assert "already exists; remove it, or choose another --out" in message
    assert contents(tmp_path) == {out.name: b"hours"}


def test_rendering_into_another_set(tmp_path):
    words = ["render", "--face-model", "analytic", "--size", 16, "--count", 2, "--out", tmp_path]
    data.main([str(word) for word in words])
    before = contents(tmp_path)
    message = refused(data.main, *words, "--seed", 1, "--split", "test")
    assert "split is 'train' there, not 'test'; seed is 0 there, not 1" in message
    assert contents(tmp_path) == before
    (tmp_path / "meta.json").unlink()
    (tmp_path / "shard_007.npz").write_text("mine")
    assert "holds 2 shards without the meta.json" in refused(data.main, *words)
    assert (tmp_path / "shard_000.npz").read_bytes() == before["shard_000.npz"]


def test_a_report_does_not_replace_a_runs_own_measures(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "evaluation.json").write_text("{}")
    assert "is the folder of a run" in refused(evaluate.main, run, "--out", run)
    assert (run / "evaluation.json").read_text() == "{}"


def test_edits_do_not_replace_the_pictures_that_they_read(tmp_path):
    run, out = write_run(tmp_path / "run"), tmp_path / "out"
    edit.main(["video", str(run), "--template", HAPPY, "--drive", "generated:test:4", "--most", "2",
               "--out", str(out)])  # fmt: skip
    before = contents(out)
    words = ["video", run, "--template", HAPPY, "--out", out, "--drive"]
    assert "00000.png: is one of the input files" in refused(edit.main, *words, out / "frames")
    assert contents(out) == before
    (tmp_path / "link").symlink_to(out)
    words = [run, out / "figure.png", "--out", tmp_path / "link"]
    assert "choose another --out" in refused(reconstruct.main, *words)
    assert contents(out)["figure.png"] == before["figure.png"]


def test_two_processes_in_one_folder(finished):
    before = contents(finished)
    holder = rf"process {os.getpid()} on {socket.gethostname()}"
    with locked(finished, finished / LOCK):
        for call in (trainer(finished, training={"steps": 1}).train, lambda: ShardWriter(finished)):
            sentence = rf"another process is writing there \({holder}\)"
            with pytest.raises(OutputError, match=sentence):
                call()
        assert load_run(finished)[2] == 1
    assert contents(finished) == before
    assert trainer(finished, training={"steps": 1}).train() == "finished"


def test_two_verifications_of_one_file(tmp_path):
    out = tmp_path / "weights.safetensors"
    with locked(out, tmp_path / f".{out.name}{LOCK}"):
        message = refused(verification.main, "--out", out, *ANALYTIC)
    assert f"{out}: another process is writing there" in message


def test_a_writer_gives_its_folder_back(tmp_path):
    with pytest.raises(RuntimeError), ShardWriter(tmp_path):
        raise RuntimeError
    ShardWriter(tmp_path).close()
    with pytest.raises(ConfigurationError):
        ShardWriter(tmp_path, shard_size=0)
    ShardWriter(tmp_path).close()


# Holds a lock, forks a worker that does not end, and says the worker's process.
HOLDER = r"""
import os, pathlib, sys, time
from ntensor.faces.writing.files import locked
folder = pathlib.Path(sys.argv[1])
with locked(folder, folder / ".lock"):
    worker = os.fork()
    # The worker's line says that it has left the lock to its parent. One write
    # a line: print may write the line's end apart, between the other's words.
    os.write(1, b"%d\n" % worker)
    time.sleep(600)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_killed_process_does_not_lock_the_folder_for_ever(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    worker = max(int(holder.stdout.readline()) for _ in range(2))
    try:
        with pytest.raises(OutputError, match=f"process {holder.pid} on"):
            ShardWriter(tmp_path)
        holder.kill()
        holder.wait()
        holder.stdout.close()
        ShardWriter(tmp_path).close()
    finally:
        os.kill(worker, signal.SIGKILL)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_folder_without_locks(tmp_path, monkeypatch, number):
    def refuse(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.raises(OutputError, match=rf"cannot be locked.*{os.strerror(number)}"),
        locked(tmp_path, tmp_path / LOCK),
    ):
        pytest.fail("not locked")


@pytest.mark.parametrize("which", ["best", "last"])
def test_reading_goes_on_while_training_removes_old_checkpoints(tmp_path, monkeypatch, which):
    run = write_run(tmp_path)

    def told(step):
        state = checkpoint.folder_of(run, step) / "state.json"
        state.write_text(json.dumps({"step": step, "validation": 1.0 if step == 3 else None}))

    shutil.copytree(checkpoint.folder_of(run, 3), checkpoint.folder_of(run, 5))
    told(3)
    told(5)
    load, asked = checkpoint.load, []

    def pruned(folder, *stems):
        asked.append(folder)
        if len(asked) == 1:
            os.replace(folder, checkpoint.folder_of(run, 7))
            told(7)
        return load(folder, *stems)

    monkeypatch.setattr(checkpoint, "load", pruned)
    assert load_run(run, which)[2] == 7 and len(asked) == 2
    (checkpoint.folder_of(run, 7) / "state.json").unlink()
    with pytest.raises(CheckpointError, match="not a complete checkpoint"):
        load_run(run, which)


def test_files_appear_whole_or_not_at_all(tmp_path):
    path = tmp_path / "sub" / "a.txt"
    write_text(path, "whole")
    with pytest.raises(KeyboardInterrupt), replacing(path) as unfinished:
        unfinished.write_text("ha")
        raise KeyboardInterrupt
    with pytest.raises(OutputError, match=r"a\.txt: cannot be written .*No space"), replacing(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert contents(tmp_path) == {str(Path("sub") / "a.txt"): b"whole"}
    with pytest.raises(OutputError, match="cannot be written"):
        write_text(path / "b.txt", "x")
    assert not list(tmp_path.rglob(f"{UNFINISHED}*"))


def left_behind(folder):
    """Half-written files of a process that died, of one that lives, and of another machine."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = socket.gethostname()
    names = [f"{host}-{dead.pid}-a.png", f"{host}-{os.getppid()}-b.png", f"x-{host}-{dead.pid}-c"]
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{UNFINISHED}{name}").write_text("ha")
    return [f"{UNFINISHED}{name}" for name in names]


EDIT = ["--target", HAPPY, "--source", HAPPY, "--out"]
WRITERS = {
    "expression": (lambda run, out: edit.main(["expression", run, *EDIT, out]), "."),
    "grid": (lambda run, out: edit.main(["grid", run, *EDIT, out]), "."),
    "interpolate": (
        lambda run, out: edit.main(
            ["interpolate", run, *("--first", HAPPY, "--second", HAPPY, "--out", out)]
        ),
        ".",
    ),
    "video": (
        lambda run, out: edit.main(
            ["video", run, *("--template", HAPPY, "--drive", "generated:test:3", "--out", out)]
        ),
        "frames",
    ),
    "reconstruct": (lambda run, out: reconstruct.main([run, HAPPY, "--out", out]), "000"),
    "sheet": (
        lambda run, out: data.main(
            ["sheet", "--out", f"{out}/sheet.png", *("--rows", "1", "--columns", "1")]
        ),
        ".",
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_what_a_killed_command_left_is_removed(name, tmp_path):
    run = write_run(tmp_path / "run")
    command, inner = WRITERS[name]
    outer = left_behind(tmp_path / "out")
    inside = left_behind(tmp_path / "out" / inner)
    command(str(run), str(tmp_path / "out"))
    for folder, (dead, *others) in ((".", outer), (inner, inside)):
        there = {path.name for path in (tmp_path / "out" / folder).iterdir()}
        assert dead not in there and there.issuperset(others)


@pytest.mark.skipif(os.fsencode("ä") != "ä".encode(), reason="names are UTF-8")
def test_names_keep_their_bytes(tmp_path):
    write_text(tmp_path / "a.md", f"# {os.fsdecode(b'caf' + bytes([0xE9]))} \u00e9\n")
    assert (tmp_path / "a.md").read_bytes() == b"# caf\xe9 \xc3\xa9\n"
    strange = tmp_path / os.fsdecode(b"caf\xe9")
    with pytest.raises(ConfigurationError, match="a folder whose name is UTF-8"):
        trainer(strange).train()
    assert not strange.exists()
