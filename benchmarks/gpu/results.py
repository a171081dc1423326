"""The results of `gpu_check.py`: a file that only grows, and the files that are made of it.

`results.jsonl` has one JSON object a line: what the results are of, then the outcome of one step
after another. A step that was repeated has several lines, of which the last one counts. Each line
is on the disk before the next step begins. What a kill leaves of a line has no end, and is dropped
when the file is opened again. Imports neither torch nor numpy.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from gpu.step import Outcome, Step
from gpu.summary import summary_of
from harness.files import replaced, write_table

FILE = "results.jsonl"
# The results of another one of these are no results of this run.
IDENTITY = ("tree", "device", "driver", "torch", "triton")


class InUse(Exception):
    """Another process writes to the folder."""


class Results:
    """The outcomes in a folder, by the name of their step.

    Args:
        subject: what is looked at: the tree, the device, the versions. Results of another subject
            are moved to a folder of their own, which `moved` names, and the file begins anew.
    """

    def __init__(self, folder: Path, subject: dict[str, object]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.moved = folder, ""
        self.outcomes: dict[str, Outcome] = {}
        self.subject = subject
        self._lock = threading.Lock()
        self._open()
        try:
            self._begin(subject)
        except BaseException:
            self.close()
            raise

    def _begin(self, subject: dict[str, object]) -> None:
        found = self._read()
        if found and (changed := _changed(found[0]["subject"], subject)):
            self.moved = f"{changed}; the earlier results are in {self._set_aside()}"
            found = []
        if found:
            self.subject = found[0]["subject"]
        else:
            self._append({"subject": subject})
        for line in found[1:]:
            name = line.pop("step")
            self.outcomes[name] = Outcome(**line)

    def add(self, name: str, outcome: Outcome) -> None:
        with self._lock:
            self._append({"step": name, **asdict(outcome)})
            self.outcomes[name] = outcome

    def write(self, steps: Sequence[Step]) -> None:
        """Makes the summary and the tables anew."""
        with self._lock:
            tables: dict[str, list[dict]] = {}
            for step in steps:
                if step.table and step.name in self.outcomes:
                    tables.setdefault(step.table, []).extend(self.outcomes[step.name].rows)
            for table, rows in tables.items():
                if rows:
                    write_table(self.folder / f"{table}.csv", rows)
            with replaced(self.folder / "summary.md") as path:
                path.write_text(summary_of(self.subject, steps, self.outcomes), encoding="utf-8")

    def close(self) -> None:
        os.close(self._file)

    def _open(self) -> None:
        self._file = os.open(self.folder / FILE, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            raise InUse(f"another process writes to {self.folder}") from None

    def _read(self) -> list[dict]:
        text = (self.folder / FILE).read_bytes()
        whole = text.rpartition(b"\n")[0]
        end = len(whole) + 1 if whole else 0
        if end < len(text):
            os.truncate(self._file, end)
        return [json.loads(line) for line in whole.splitlines()]

    def _append(self, line: dict) -> None:
        text = (json.dumps(line) + "\n").encode()
        while text:
            text = text[os.write(self._file, text) :]
        os.fsync(self._file)

    def _set_aside(self) -> Path:
        """Moves the files of the earlier results; the last of them is the one that counts."""
        number = 1
        while (target := self.folder / f"earlier-{number}" / FILE).exists():
            number += 1
        target.parent.mkdir(exist_ok=True)
        for path in [*self.folder.glob("*.csv"), self.folder / "summary.md"]:
            if path.exists():
                path.replace(target.parent / path.name)
        (self.folder / FILE).replace(target)
        os.close(self._file)
        self._open()
        return target.parent


def _changed(before: dict, now: dict) -> str:
    """What differs between two subjects, "" where nothing does."""
    return ", ".join(
        f"{key} was {before.get(key)}, is {now.get(key)}"
        for key in IDENTITY
        if before.get(key) != now.get(key)
    )
