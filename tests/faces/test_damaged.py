"""Every file that a command reads, damaged at random.

What comes is a sentence or success: no traceback, no changed file, no memory for mere claims.

    NTENSOR_DAMAGES=1000 NTENSOR_DAMAGE_SEED=7 pytest tests/faces/test_damaged.py

A failure names the case; NTENSOR_DAMAGE_CASE=TARGET:NUMBER with its seed repeats it alone.
"""

import contextlib
import io
import os
import random
import shutil
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

import attack_counts
from damage import damage
from ntensor.faces import configuration as configurations
from ntensor.faces import data, edit, evaluate, reconstruct, sweep, train, verification
from ntensor.faces.common.errors import FacesError
from ntensor.faces.configuration.presets import tiny
from ntensor.faces.datasets.generated import GeneratedFaces
from ntensor.faces.datasets.storage import ShardWriter, write_statistics
from ntensor.faces.datasets.stored import StoredFaces, check
from ntensor.faces.evaluation.photographs import read_labels
from ntensor.faces.media import images
from ntensor.faces.morphable.analytic_face import make_analytic_face
from ntensor.faces.morphable.ict_convert import read_obj
from ntensor.faces.morphable.ict_face import load_ict_face
from ntensor.faces.networks.light_cnn import LightCNN
from ntensor.faces.reading import read_frames, read_picture
from ntensor.faces.training.runs import load_run
from ntensor.faces.weights.__main__ import main as pack_weights
from small_files import write_ict, write_mesh, write_pictures

CASES = int(os.environ.get("NTENSOR_DAMAGES", "250"))
SEED = int(os.environ.get("NTENSOR_DAMAGE_SEED", "0"))
ONLY = os.environ.get("NTENSOR_DAMAGE_CASE", "")
# Bytes that a damaged file may ask for beyond what the process has.
MEMORY = 1_500_000_000

TRAIN = [
    *("--preset", "tiny", "--model.image-size", "16", "--model.channels", "4", "4", "4"),
    *("--model.k-i", "8", "--model.k-b", "4", "--model.k-m", "4", "--model.k-l", "3"),
    *("--model.k-id", "4", "--model.k-exp", "3", "--data.vertices", "0"),
    *("--training.batch-size", "2", "--training.code-steps", "0", "--training.warmup", "1"),
    *("--losses.adversarial", "0.1", "--losses.verification", "0.1"),
    *("--training.checkpoint-every", "2", "--training.validate-every", "2"),
]


def training_words(folder, steps):
    return [
        *TRAIN,
        *("--data.source", str(folder / "set"), "--data.validation-source", str(folder / "set")),
        *("--training.verification-weights", str(folder / "verification.safetensors")),
        *("--training.steps", str(steps), "--out", str(folder / "run")),
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Good files of every kind: a data set, a run on it, weights, a face model, pictures, texts."""
    root = tmp_path_factory.mktemp("good")
    faces = GeneratedFaces(make_analytic_face(1000), size=16)
    with ShardWriter(root / "set", faces.face_model, 4, "train", "test") as writer:
        writer.add(faces.batch(range(8)))
    write_statistics(root / "set", faces.statistics)
    verification.save(LightCNN(0.1, 8, 16), root / "verification.safetensors")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        train.main(training_words(root, 2))
        words = ["pack", str(root / "run"), "--out", str(root / "packed.safetensors")]
        pack_weights([*words, "--most", "1", "--pictures", "4"])
    write_ict(root / "face.npz")
    write_pictures(root / "pictures")
    text = configurations.to_json(tiny())
    (root / "settings.json").write_text(text)
    (root / "settings.yaml").write_text(
        "training: {steps: 7, device: cpu}\nlosses:\n  shape: 0.5\n"
    )
    write_mesh(root / "mesh.obj")
    return root


@dataclass
class Target:
    """Files, and what reads them.

    Attributes:
        files: pattern, of which one is damaged.
        calls: functions of the folder and the damaged file.
        weight: share of the cases.
        writes, leaves: beginnings of what calls may write that succeed, and that fail.
    """

    files: str
    calls: list
    weight: float = 1.0
    writes: tuple = ()
    leaves: tuple = ()


def dataset(root, path):
    faces = StoredFaces(root / "set")
    _ = faces.statistics
    faces.batch(range(min(8, faces.count)))


def skipping(root, path):
    faces = StoredFaces(root / "set", on_damage="skip")
    with contextlib.suppress(IndexError):  # every record is damaged
        faces.batch(range(min(8, faces.count)))


def landmarks(root, path):
    images.align(
        read_picture(root / "pictures" / "a.png"),
        images.read_landmarks(path, "a.png"),
        make_analytic_face(1000),
        16,
    )


def resume(root, path):
    train.main(training_words(root, 3))


def check_command(root, path):
    data.main(["check", str(root / "set")])


def sheet_command(root, path):
    data.main(["sheet", "--data", str(root / "set"), "--out", str(root / "out.png"), "--maps"])


def planned(root, path):
    sweep.main(["--names", "full", "--dry-run", "--config", str(path)])


def edit_command(root, path):
    faces = ["--target", str(root / "pictures" / "a.png"), "--source", f"{root / 'set'}:1"]
    words = [*faces, "--place", "middle", "--out", str(root / "out")]
    edit.main(["expression", str(root / "run"), *words])


def reconstruct_command(root, path):
    picture = str(root / "pictures" / "a.png")
    words = [picture, "--place", "middle", "--out", str(root / "out")]
    reconstruct.main([str(root / "run"), *words])


def evaluate_command(root, path):
    photographs = [
        "--images",
        str(root / "pictures"),
        "--labels",
        str(root / "pictures/labels.csv"),
        *("--place", "middle"),
    ]
    sizes = ["--identities", "2", "--lights", "0", "--frontal-lights", "0", "--fitted", "12"]
    sizes += ["--als", "1", "1", "2", "--folds", "2", "--transfers", "2", "--shapes", "2"]
    words = [*photographs, "--data", str(root / "set"), *sizes, "--embedded", "0"]
    evaluate.main([str(root / "run"), *words, "--out", str(root / "out")])


OUT = ("out/",)
TRAINED = ("run/tensorboard", "run/configuration.json")
EVALUATED = (*OUT, "run/evaluation.json")
TARGETS = {
    "data set": Target("set/*", [dataset, skipping, lambda r, p: check(r / "set")], 4),
    "run": Target(
        "run/c*/**/*",
        [lambda r, p: load_run(r / "run", "best"), lambda r, p: load_run(r / "run", "last")],
        2,
    ),
    "weights": Target("verification.safetensors", [lambda r, p: verification.load(p)]),
    "packed weights": Target("packed.safetensors", [lambda r, p: load_run(p)]),
    "face model": Target("face.npz", [lambda r, p: load_ict_face(p, 2)], 2),
    "configuration": Target("settings.*", [lambda r, p: configurations.from_file(p, tiny())], 2),
    "pictures": Target(
        "pictures/[a-g].[!tj]*",
        [lambda r, p: read_picture(p), lambda r, p: list(read_frames(p, 3))],
        2,
    ),
    "landmarks": Target("pictures/a.[tpj][xts]*", [landmarks]),
    "labels": Target("pictures/labels.csv", [lambda r, p: read_labels(p)], 0.5),
    "mesh": Target("mesh.obj", [lambda r, p: read_obj(p, True)], 0.5),
    "data command": Target("set/*", [check_command, sheet_command], 0.5, ("out.png",)),
    "train command": Target("run/checkpoints/**/*", [resume], 0.3, ("run/",)),
    "train on damage": Target("[sv]e*/*", [resume], 0.2, ("run/",), TRAINED),
    "train with a file": Target("settings.*", [planned], 0.1),
    "faces command": Target("run/c*/**/*", [edit_command, reconstruct_command], 0.3, OUT, OUT),
    "evaluate command": Target("[rps][ue][nt]*/*", [evaluate_command], 0.1, EVALUATED, EVALUATED),
}


def snapshot(root):
    """Bytes of every file, and None of every folder, by the path in `root`."""
    return {
        f"{path.relative_to(root)}{'' if path.is_file() else '/'}": path.read_bytes()
        if path.is_file()
        else None
        for path in sorted(root.rglob("*"))
    }


def differences(found, good):
    return {name for name in found.keys() | good.keys() if found.get(name, 0) != good.get(name, 0)}


def restore(root, found, good):
    """Makes the folder `good` again, of which `found` is there."""
    for name in sorted(differences(found, good), reverse=True):  # what is in a folder first
        if name not in good:
            (root / name).rmdir() if name.endswith("/") else (root / name).unlink()
    for name in sorted(differences(found, good) & good.keys()):
        if name.endswith("/"):
            (root / name).mkdir()
        else:
            (root / name).write_bytes(good[name])


@contextlib.contextmanager
def limited_memory():
    """Less memory than a careless reader takes for a small file that claims to be huge."""
    try:
        import resource

        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def outcome(call, root, path):
    """What a call ends by: "good", or the sentence of its error."""
    shown = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(shown):
        warnings.simplefilter("ignore")
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                call(root, path)
        except FacesError as error:
            return str(error)
        except SystemExit as error:
            if error.code in (0, None):
                return "good"
            return shown.getvalue() if isinstance(error.code, int) else str(error.code)
    return "good"


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files(name, folder, tmp_path, record_property):
    target = TARGETS[name]
    total = sum(target.weight for target in TARGETS.values())
    numbers = range(max(2, round(CASES * target.weight / total)))
    if ONLY:
        wanted, number = ONLY.rsplit(":", 1)
        numbers = [int(number)] if wanted == name else []
    # Paths in the run's configuration are those of the first folder, which is left whole.
    root = Path(shutil.copytree(folder, tmp_path / "files"))
    good = snapshot(root)
    counts = {False: Counter(), True: Counter()}
    for number in numbers:
        rng = random.Random(f"{SEED} {name} {number}")
        path = rng.choice(sorted(p for p in root.glob(target.files) if p.is_file()))
        read = damaged(target, root, path, rng, f"{name}:{number}")
        counts[read][path.suffix] += 1
        restore(root, snapshot(root), good)
    rows = [
        attack_counts.row(
            f"damaged files, by {by}", what, in_a_sentence=refused, accepted_as_valid=read
        )
        for by, what, refused, read in [
            ("reader", name, counts[False].total(), counts[True].total()),
            *(
                ("kind", kind, counts[False][kind], counts[True][kind])
                for kind in sorted(counts[False] | counts[True])
            ),
        ]
    ]
    record_property(attack_counts.KEY, rows)
    assert counts[False] or len(numbers) < 5


def damaged(target, root, path, rng, case):
    """Damages the file and calls what reads it: whether that succeeds."""
    said = f"{path.relative_to(root)}: {damage(path, rng)}"
    call = rng.choice(target.calls)
    repeat = (
        f"{said}\nrepeat: NTENSOR_DAMAGE_SEED={SEED} NTENSOR_DAMAGE_CASE='{case}' pytest {__file__}"
    )
    before = snapshot(root)
    try:
        with limited_memory():
            found = outcome(call, root, path)
    except BaseException as error:
        raise AssertionError(f"{type(error).__name__}: {error}\n{repeat}") from error
    assert found.strip(), f"an error without a sentence\n{repeat}"
    assert "MemoryError" not in found and "allocate" not in found, f"{found}\n{repeat}"
    allowed = target.writes if found == "good" else target.leaves
    changed = differences(snapshot(root), before)
    wrong = sorted(name for name in changed if not name.startswith(allowed))
    assert not wrong, f"changed {wrong}: {found}\n{repeat}"
    return found == "good"
