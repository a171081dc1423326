"""Commands that `kills` disturbs, and what each of them leaves."""

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from ntensor.faces import data, edit, evaluate, sweep, train, verification
from ntensor.faces.datasets.storage import META, read_meta
from ntensor.faces.training import checkpoint
from small_runs import ANALYTIC, HAPPY, SAD, write_run

TINY = [
    *("--preset", "tiny", "--model.image-size", "16", "--model.channels", "4", "4", "4"),
    *("--model.k-i", "8", "--model.k-id", "4", "--model.k-exp", "3", *ANALYTIC),
    *("--data.validation", "3", "--training.batch-size", "3", "--training.code-steps", "2"),
    *("--training.checkpoint-every", "2", "--training.validate-every", "2"),
    *("--training.picture-every", "3", "--training.log-every", "1", "--losses.adversarial", "0.1"),
]
CACHED = ("--data.cache", "7")


class Case:
    """A command, and what it leaves.

    Args:
        folder (Path): where it works.
    """

    threads = 1

    def __init__(self, folder):
        self.folder = folder

    def prepare(self):
        """Makes what the command reads."""

    def command(self):
        raise NotImplementedError

    def left(self):
        """What must not depend on when the command was disturbed: values by name."""
        return files_of(self.folder)

    def reached(self):
        """A number that no disturbance may make smaller."""
        return 0

    def ended(self, status, said):
        """Whether there is nothing left to do."""
        return status == 0


def files_of(folder):
    """Bytes of every file by its path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def scalars_of(run):
    """Every logged value by its name and step; values of one name and step must be equal."""
    found = {}
    for path in sorted((run / "tensorboard").iterdir()):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.tag == "training/images_per_second":
                    continue
                number = value.tensor.SerializeToString()
                known = found.setdefault((value.tag, event.step), number)
                assert known == number, f"{run}: {value.tag} differs at step {event.step}"
    return found


class Train(Case):
    """Training with a cache."""

    options = CACHED

    def command(self):
        train.main([*TINY, *self.options, "--training.steps", "6", "--out", str(self.folder)])

    def left(self):
        return run_of(self.folder)

    def reached(self):
        return max(checkpoint.saved_steps(self.folder), default=0)


def run_of(run):
    files = files_of(run)
    logged = {name for name in files if name.startswith("tensorboard")}
    others = {name: content for name, content in files.items() if name not in logged}
    return others | scalars_of(run) | {"best": checkpoint.best(run)}


class TrainEndless(Train):
    """Training on new samples, drawn by a process of its own."""

    options = ("--data.workers", "1")


class TrainThreads(Train):
    """Training on two threads."""

    threads = 2


class Render(Case):
    """A data set of four files."""

    def left(self):
        return files_of(self.folder)

    def command(self):
        data.main(
            [
                *("render", "--out", str(self.folder), "--count", "10", "--shard-size", "3"),
                *("--batch-size", "2", "--size", "8", "--face-model", "analytic"),
            ]
        )

    def reached(self):
        return read_meta(self.folder).count if (self.folder / META).exists() else 0


class Sweep(Case):
    """Two runs, in the same process."""

    def command(self):
        def run(command):
            train.main(command[3:])
            return 0

        sweep.run_to_its_end = run
        options = [*TINY[2:], *CACHED, "--steps", "3"]
        sweep.main(["--names", "full", "plain", "--out", str(self.folder), *options])

    def left(self):
        # A finished run is not started again, so that nothing is removed there any more.
        found = {}
        for run in sorted(self.folder.iterdir()):
            last = checkpoint.folder_of(run, 3)
            kept = {"best": checkpoint.best(run), **files_of(last), **scalars_of(run)}
            found |= {(run.name, name): value for name, value in kept.items()}
        return found


class Verification(Case):
    """Weights of a verification network."""

    def command(self):
        verification.main(
            [
                *("--out", str(self.folder / "weights.safetensors"), "--steps", "3"),
                *("--data.cache", "6", *ANALYTIC, "--data.validation", "4"),
                *("--image-size", "16", "--width", "0.125", "--embedding", "4"),
                *("--input-size", "32", "--batch-size", "3"),
            ]
        )

    def ended(self, status, said):
        return status == 0 or "already exists" in said


class Edit(Case):
    """An edit of a generated face."""

    def prepare(self):
        write_run(self.folder / "run")

    def command(self):
        edit.main(
            [
                *("light", str(self.folder / "run"), "--target", HAPPY, "--source", SAD),
                *("--out", str(self.folder / "edited")),
            ]
        )


class Evaluate(Case):
    """The report of an untrained run."""

    def prepare(self):
        write_run(self.folder / "run")

    def command(self):
        evaluate.main(
            [
                *(str(self.folder / "run"), "--out", str(self.folder / "report")),
                *("--identities", "2", "--lights", "0", "--frontal-lights", "0", "--folds", "2"),
                *("--fitted", "12", "--als", "1", "1", "2", "--transfers", "2", "--shapes", "2"),
                *("--embedded", "0"),
            ]
        )


CASES = {
    "train": Train,
    "endless": TrainEndless,
    "threads": TrainThreads,
    "render": Render,
    "sweep": Sweep,
    "evaluate": Evaluate,
    "verification": Verification,
    "edit": Edit,
}
