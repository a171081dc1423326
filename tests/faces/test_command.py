"""How every command ends: by a sentence, by a signal, and without its standard streams."""

import io
import os
import signal
import subprocess
import sys

import pytest

from ntensor.faces import data, demo, edit, evaluate, reconstruct, sweep, train, verification
from ntensor.faces.common.command import command
from ntensor.faces.common.errors import FacesError
from ntensor.faces.figures import __main__ as figures
from ntensor.faces.morphable import ict_face
from ntensor.faces.training import checkpoint
from ntensor.faces.training.trainer import Trainer
from ntensor.faces.writing import files
from small_runs import ANALYTIC, HAPPY, SAD, TRAINING, write_run

POSIX = pytest.mark.skipif(os.name == "nt", reason="POSIX signals and descriptors")
SHELL = ["/bin/sh", "-c"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(autouse=True)
def interruptible():
    """Ctrl-C counts, which a shell's background job ignores."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def ended(call, *words):
    with pytest.raises(SystemExit) as stopped:
        call(*words)
    return stopped.value.code


def program(script, *words, **options):
    """A shell's script, in which PYTHON runs this package; its status and both outputs."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NTENSOR_FACE_MODEL": ""}
    environment |= {"PYTHON": sys.executable, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [*SHELL, script, "sh", *map(str, words)],
        env=environment | options.pop("environment", {}),
        capture_output=True,
        timeout=250,
        **options,
    )


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (FacesError("of\n  two lines"), "error: of two lines"),
        (FileNotFoundError(2, "No such file", "a"), "error: FileNotFoundError: [Errno 2] No such"),
        (ModuleNotFoundError("run pip install"), "error: run pip install"),
    ],
)
def test_errors_are_sentences(error, sentence):
    @command
    def main():
        raise error

    assert ended(main).startswith(sentence)


def test_other_errors_keep_their_traceback():
    @command
    def main():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        main()


@POSIX
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_signals_end_a_command_in_one_line(name, capsys):
    number, cleaned = signal.Signals[name], []

    @command
    def main():
        try:
            os.kill(os.getpid(), number)
        finally:
            cleaned.append(True)

    assert ended(main) == 128 + number
    assert capsys.readouterr().err == f"ended by {name}\n" and cleaned


@POSIX
def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        command(lambda: os.kill(os.getpid(), signal.SIGTERM))()
    finally:
        signal.signal(signal.SIGTERM, before)


def interrupt(*arguments, **options):
    os.kill(os.getpid(), signal.SIGINT)


def replace_and_interrupt(*arguments):
    """The first file is there; then, before anything else is, Ctrl-C."""
    os.rename(*arguments)
    interrupt()


PAIR = ["--target", HAPPY, "--source", SAD]
RENDER = ["--face-model", "analytic", "--size", "16", "--count", "8", "--shard-size", "4"]
VERIFY = [*ANALYTIC, "--data.cache", "4", "--data.validation", "2", "--steps", "1",
          "--image-size", "16", "--input-size", "16", "--width", "0.1"]  # fmt: skip


@POSIX
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (data.main, ["render", *RENDER]),
        (data.main, ["sheet", "--face-model", "analytic", "--size", "16", "--rows", "1"]),
        (verification.main, VERIFY),
        (edit.main, ["pose", "RUN", *PAIR]),
        (edit.main, ["video", "RUN", "--template", HAPPY, "--drive", "generated:test:4",
                     "--most", "2"]),
        (edit.main, ["interpolate", "RUN", "--first", HAPPY, "--second", SAD, "--steps", "2"]),
        (reconstruct.main, ["RUN", HAPPY]),
        (figures.main, ["RUN", "--only", "11", "--rows", "2"]),
        (train.main, TRAINING),
    ],
)  # fmt: skip
def test_interrupted_while_it_writes(run, tmp_path, monkeypatch, capsys, call, words):
    out = tmp_path / ("out" if call is not data.main or "sheet" not in words else "out.png")
    words = [str(run) if word == "RUN" else word for word in words]
    with monkeypatch.context() as patched:
        # The file that is being written, in the middle of it.
        patched.setattr(files, "flush", interrupt)
        assert ended(call, [*words, "--out", str(out)]) == 130
        shown = capsys.readouterr().err
        assert shown.splitlines()[-1] == "ended by SIGINT" and "Traceback" not in shown
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]
        patched.undo()
        patched.setattr(files.os, "replace", replace_and_interrupt)
        assert ended(call, [*words, "--out", str(out)]) == 130
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(left) == 1 and not left[0].name.startswith(files.UNFINISHED)


@POSIX
def test_interrupted_evaluation(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "evaluate", interrupt)
    assert ended(evaluate.main, [str(run), "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "ended by SIGINT\n"
    assert not list(tmp_path.iterdir()) and not (run / "evaluation.json").exists()


@POSIX
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_training_saves_and_tells_by_its_status(tmp_path, monkeypatch, capsys, name):
    update = Trainer.update

    def update_and_stop(self, *arguments):
        update(self, *arguments)
        os.kill(os.getpid(), signal.Signals[name])

    monkeypatch.setattr(Trainer, "update", update_and_stop)
    assert ended(train.main, [*TRAINING, "--out", str(tmp_path)]) == 128 + signal.Signals[name]
    assert capsys.readouterr().err.endswith(f"{name}: saved; the same command continues\n")
    assert checkpoint.saved_steps(tmp_path) == [1]


SAVES = """
import os, pathlib, signal, sys, time
def save(number, frame):
    pathlib.Path(sys.argv[1]).write_text("saved")
    os._exit(143)
signal.signal(signal.SIGTERM, save)
os.kill(os.getppid(), signal.SIGINT)
time.sleep(600)
"""


@POSIX
def test_a_sweep_lets_its_run_save(tmp_path, capsys):
    words = [sys.executable, "-c", SAVES, str(tmp_path / "saved")]
    assert ended(command(lambda: sweep.run_to_its_end(words))) == 130
    assert (tmp_path / "saved").read_text() == "saved"


# In the place of torch: says that it is being imported, which does not end.
TORCH = "import sys, time; print('importing', flush=True); time.sleep(600)"


@POSIX
def test_interrupted_while_torch_is_imported(tmp_path):
    (tmp_path / "torch.py").write_text(TORCH)
    process = subprocess.Popen(
        [sys.executable, "-m", "ntensor.faces.train", "--out", str(tmp_path / "run")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"importing\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate() == (b"", b"ended by SIGINT\n")
    assert process.returncode == 130 and not (tmp_path / "run").exists()


def test_another_program_keeps_its_handler_while_ntensor_is_imported(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "__init__.py").write_text("import ntensor._start")
    (tmp_path / "theirs" / "tool.py").write_text(
        "import signal; assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    )
    (tmp_path / "torch.py").write_text("raise ImportError('not needed')")
    (tmp_path / "theirs" / "__init__.py").write_text(
        "try:\n    import ntensor\nexcept ImportError:\n    import sys\n"
        "assert 'ntensor._start' in sys.modules"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    subprocess.run([sys.executable, "-m", "theirs.tool"], env=environment, check=True)


def without_reader(monkeypatch, name):
    """Lets a standard stream be a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    stream = os.fdopen(writing, "w", buffering=1)
    monkeypatch.setattr(sys, name, stream)
    return stream


@POSIX
def test_output_without_a_reader(monkeypatch, capsys):
    before = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    with without_reader(monkeypatch, "stdout"):
        assert ended(command(lambda: print("lost"))) == 141
    assert capsys.readouterr().err == ""
    signal.signal(signal.SIGPIPE, before)


@POSIX
@pytest.mark.parametrize(
    "module",
    [data, demo, edit, evaluate, figures, ict_face, reconstruct, sweep, train, verification],
)
def test_help_that_nobody_reads(module, monkeypatch, capsys):
    with without_reader(monkeypatch, "stdout"):
        assert ended(module.main, ["--help"]) == 141
    assert capsys.readouterr().err == ""


@POSIX
def test_a_pipe_that_is_not_the_output(capsys):
    @command
    def main():
        raise BrokenPipeError(32, "a worker is gone")

    assert "error: BrokenPipeError: [Errno 32] a worker is gone" in ended(main)


@POSIX
def test_progress_without_a_reader(monkeypatch):
    done = []

    @command
    def main():
        from tqdm import trange

        for step in trange(3, mininterval=0):
            print("told", file=sys.stderr, flush=True)
            done.append(step)

    with without_reader(monkeypatch, "stderr"):
        main()
    assert done == [0, 1, 2]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a disk that is always full")
def test_output_onto_a_full_disk(monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        message = ended(command(lambda: print("lost")))
    assert message.startswith("error: standard output: cannot be written ([Errno 28]")


def test_characters_that_a_stream_has_no_code_for(monkeypatch):
    kept = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(kept, "ascii", write_through=True))
    command(lambda: print("20°"))()
    assert kept.getvalue().decode() == "20\\xb0" + os.linesep


@POSIX
def test_training_without_streams(tmp_path):
    script = '"$PYTHON" -m ntensor.faces.train "$@" <&- >&- 2>&-'
    assert program(script, *TRAINING, "--out", tmp_path).returncode == 0
    assert checkpoint.saved_steps(tmp_path) == [2]


@POSIX
def test_help_without_a_reader():
    script = '{ "$PYTHON" -m ntensor.faces.train --help; echo status $? >&2; } | true'
    assert program(script).stderr == b"status 141\n"


@POSIX
def test_names_in_a_locale_without_them(run, tmp_path):
    script = (
        "run=$1 face=$2 out=$3; shift 3; "
        '"$PYTHON" -m ntensor.faces.edit grid "$run" --target "$face" --source "$face" '
        '--out "$out" && ! "$PYTHON" -m ntensor.faces.train "$@" --out "$out-run"'
    )
    names = {"LC_ALL": "C", "PYTHONUTF8": "0"}
    words = (run, HAPPY, tmp_path / "caf\u00e9", *TRAINING)
    done = program(script, *words, environment=names)
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path}/caf\u00e9: grid.png".encode() in done.stdout
    assert b"error: " in done.stderr and b"PYTHONUTF8=1" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["caf\u00e9"]
