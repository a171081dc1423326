"""Commands that are disturbed at random moments and started again until they end.

    python kills.py --seed 0 train=50 render=50

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
from tqdm import tqdm

from kill_cases import CASES
from ntensor.faces.training.trainer import Trainer

CHANGING = ("open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate")
# What a stopped command may end with.
GENTLE = {0, 128 + signal.SIGTERM}
# A full disk, and a folder that turned read-only.
FULL = (errno.ENOSPC, errno.EROFS)
# Commands that this process ran: what they import late is then there for every child.
WARM = set()
ERROR = re.compile(r"^error: \S.*$", re.MULTILINE)


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
        tqdm.monitor_interval = 0
        if CASES[self.name].command not in WARM:
            WARM.add(CASES[self.name].command)
            with open(os.devnull, "w") as none, redirect_stdout(none), redirect_stderr(none):
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


def counted(text):
    """The case and its number of kills in NAME=NUMBER."""
    name, number = text.split("=")
    if name not in CASES:
        raise ValueError(name)
    return name, int(number)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="+", type=counted, help="NAME=KILLS; " + ", ".join(CASES))
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, kills in options.cases:
            suite = Suite(name, Path(folder) / name, options.seed)
            suite.until(kills)
            print(
                f"{name}: {suite.kills} kills, {suite.stops} stops, {suite.refusals} refusals, "
                f"{suite.ends} whole ends, "
                f"{suite.events} events, {suite.seconds:.1f} s undisturbed",
                flush=True,
            )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
