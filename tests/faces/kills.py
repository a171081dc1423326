"""Commands that are disturbed at random moments and started again until they end.

    python kills.py --kills 50 --seed 0 train render sweep evaluate

A process that has imported everything forks one child for each start, so that a start takes no
seconds; on one thread, since threads of OpenMP do not survive a fork. A child is sent SIGKILL or
SIGTERM, or finds the disk full, before its k-th event: opening a file for writing, flushing,
renaming, making and removing files and folders, or an update of training. Half of what it was to
flush is then missing. Or its files are limited, or it is killed after some time. What it leaves at
last must be what a run that nobody disturbed leaves, bit for bit; an error is one sentence; and
what was reached stays.
"""

import argparse
import errno
import io
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tqdm import tqdm

from ntensor.faces import data, edit, evaluate, sweep, train, verification
from ntensor.faces.datasets.storage import META, read_meta
from ntensor.faces.files import UNFINISHED
from ntensor.faces.training import checkpoint
from ntensor.faces.training.trainer import Trainer
from small_runs import HAPPY, SAD, write_run

TINY = [
    *("--preset", "tiny", "--model.image-size", "16", "--model.channels", "4", "4", "4"),
    *("--model.k-i", "8", "--model.k-id", "4", "--model.k-exp", "3", "--data.vertices", "1000"),
    *("--data.validation", "3", "--training.batch-size", "3", "--training.code-steps", "2"),
    *("--training.checkpoint-every", "2", "--training.validate-every", "2"),
    *("--training.picture-every", "3", "--training.log-every", "1", "--losses.adversarial", "0.1"),
]
CACHED = ("--data.cache", "7")
CHANGING = ("open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate")
# What a stopped command may end with.
GENTLE = {0, 128 + signal.SIGTERM}
# A full disk, and a folder that turned read-only.
FULL = (errno.ENOSPC, errno.EROFS)
ERROR = re.compile(r"^error: \S.*$", re.MULTILINE)


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
        # A folder without a lock keeps what a killed process was writing; no reader looks at it.
        found = files_of(self.folder)
        return {name: content for name, content in found.items() if UNFINISHED not in name}

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
                *("--data.cache", "6", "--data.vertices", "1000", "--data.validation", "4"),
                *("--image-size", "16", "--width", "0.125", "--embedding", "4"),
                *("--input-size", "32", "--batch-size", "3"),
            ]
        )

    def ended(self, status, said):
        return status == 0 or "is there already" in said


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
                *("--identities", "2", "--lights", "0", "--frontal-lights", "0", "15"),
                *("--fitted", "24", "--als", "2", "2", "3", "--folds", "2", "--transfers", "2"),
                *("--shapes", "3", "--embedded", "0", "--batch-size", "32"),
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


class Events:
    """Counts what a process does to files of a folder; at the k-th it is disturbed.

    `sent`: a signal, or the number of the error that everything which needs room raises from then.
    """

    def __init__(self, folder, number=None, sent=signal.SIGKILL):
        self.folder, self.number, self.sent, self.count = str(folder), number, sent, 0
        self.process = os.getpid()

    def begin(self):
        sys.addaudithook(self.audit)
        fsync, update = os.fsync, Trainer.update

        def flush(descriptor):
            self.tell(descriptor)
            fsync(descriptor)

        def updated(*arguments):
            self.tell()
            update(*arguments)

        os.fsync, Trainer.update = flush, updated

    def audit(self, event, arguments):
        if event not in CHANGING or not str(arguments[0]).startswith(self.folder):
            return
        if event != "open" or arguments[2] & (os.O_WRONLY | os.O_RDWR):
            self.tell(needs_room=event in ("open", "os.mkdir"))

    def tell(self, descriptor=None, needs_room=False):
        if os.getpid() != self.process:
            return
        self.count += 1
        if self.number is None or self.count < self.number:
            return
        if not isinstance(self.sent, signal.Signals):
            if needs_room or descriptor is not None:
                raise OSError(self.sent, os.strerror(self.sent))
            return
        if self.count > self.number:
            return
        if descriptor is not None and self.sent == signal.SIGKILL:
            halve(descriptor)
        os.kill(self.process, self.sent)


def halve(descriptor):
    """Cuts a file: what was not flushed may be missing after a crash."""
    path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
    if path.is_file():
        os.truncate(path, path.stat().st_size // 2)


def start(case, number=None, sent=signal.SIGKILL, after=None, largest=None):
    """Runs the command in a child: its status, the events that it counted, and what it said.

    Args:
        case (Case)
        number (int or None), sent: as for `Events`.
        after (float or None): seconds until it is killed.
        largest (int or None): bytes of a file.
    """
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as counted:
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            if largest is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
            run_child(case, Events(case.folder, number, sent), counted)
        if after is not None:
            time.sleep(after)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        said.seek(0)
        counted.seek(0)
        return os.waitstatus_to_exitcode(status), int(counted.read() or 0), said.read().decode()


def run_child(case, events, counted):
    status = 1
    try:
        sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False), write_through=True)
        sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb", closefd=False), write_through=True)
        # Here first: the parent has no threads, which a fork would lose.
        torch.set_num_threads(case.threads)
        events.begin()
        case.command()
        status = 0
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        status = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        counted.write(str(events.count).encode())
        counted.flush()
        os._exit(status)


def differences(found, wanted):
    """Names of what differs, is missing, or is there too much."""
    return sorted(
        str(name) for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)
    )


class Suite:
    """Kills of one case.

    Args:
        name (str): of `CASES`.
        folder (Path): empty.
        seed (int)
    """

    def __init__(self, name, folder, seed):
        self.name, self.folder = name, folder
        self.random = random.Random(f"{name} {seed}")
        self.wanted, self.events, self.seconds = self.undisturbed()
        self.largest = max(len(v) for v in self.wanted.values() if isinstance(v, bytes))
        self.kills = self.stops = self.refusals = self.ends = 0

    def case(self):
        case = CASES[self.name](self.folder / "work")
        shutil.rmtree(case.folder, ignore_errors=True)
        case.folder.mkdir(parents=True)
        case.prepare()
        return case

    def undisturbed(self):
        # Here once: what a command imports late is then there for every child.
        tqdm.monitor_interval = 0
        with open(os.devnull, "w") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
            self.case().command()
        case = self.case()
        begin = time.monotonic()
        status, events, said = start(case)
        assert status == 0, f"{self.name}: {said}"
        return case.left(), events, time.monotonic() - begin

    def until(self, kills):
        """Starts, kills and compares, until there were so many kills."""
        while self.kills < kills:
            self.disturbed(kills)

    def disturbed(self, kills):
        """One command from its first start to its end."""
        case, moments, reached = self.case(), [], 0
        while True:
            arguments = self.moment() if self.kills < kills else {}
            moments.append(arguments)
            status, _, said = start(case, **arguments)
            where = f"{self.name}: after {moments}: status {status}\n{said}\n"
            assert "Traceback" not in said, where
            assert case.reached() >= reached, where
            reached = case.reached()
            if status == -signal.SIGKILL:
                self.kills += 1
            elif arguments.get("sent") == signal.SIGTERM and status in GENTLE:
                # A stopped training ends well too; the next start tells whether it was the end.
                self.stops += 1
            elif case.ended(status, said):
                break
            else:
                refused = "largest" in arguments or arguments.get("sent") in FULL
                assert refused and status == 1 and len(ERROR.findall(said)) == 1, where
                self.refusals += 1
        different = differences(case.left(), self.wanted)
        assert not different, f"{where}differs: {different}"
        self.ends += 1

    def moment(self):
        """When the next child is disturbed."""
        kind = self.random.random()
        if kind < 0.2:
            return {"after": self.random.uniform(0, self.seconds)}
        if kind < 0.3:
            # What it says goes to files as well, and has room there.
            least = 2**13
            return {"largest": self.random.randint(least, max(least, self.largest))}
        number = self.random.randint(1, self.events)
        sent = signal.SIGKILL
        if kind > 0.8:
            sent = self.random.choice([signal.SIGTERM, *FULL])
        return {"number": number, "sent": sent}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=list(CASES), help=", ".join(CASES))
    parser.add_argument("--kills", type=int, default=10, help="of each case")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in options.cases:
            suite = Suite(name, Path(folder) / name, options.seed)
            suite.until(options.kills)
            print(
                f"{name}: {suite.kills} kills, {suite.stops} stops, {suite.refusals} refusals, "
                f"{suite.ends} whole ends, "
                f"{suite.events} events, {suite.seconds:.1f} s undisturbed",
                flush=True,
            )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
