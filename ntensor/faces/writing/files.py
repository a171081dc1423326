"""Writes files: each appears complete or not at all, and one process writes at a time."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import filelock

from ntensor.faces.common.errors import DamagedData, OutputError
from ntensor.faces.reading import read_text

# The prefix of files that are being written, or were when their process died; no reader opens them.
UNFINISHED = ".unfinished-"
LOCK = ".lock"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file next to `path`, with the same suffix, that replaces it if the block succeeds.

    The folder is created if necessary. If the block fails, `path` is left unchanged.

    Raises:
        OutputError: it cannot be written.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ntensor.faces.writing.files import replacing
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder) / "sub" / "a.txt") as unfinished:
        ...         _ = unfinished.write_text("whole")
        ...     (Path(folder) / "sub" / "a.txt").read_text()
        'whole'
    """
    unfinished = path.with_name(f"{_beginning()}{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield unfinished
            flush(unfinished)
            os.replace(unfinished, path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error})") from error


def write_text(path: Path, text: str) -> None:
    """Writes text, completely or not at all; file names in it keep their bytes.

    Raises:
        OutputError: it cannot be written.
    """
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors="surrogateescape")


def remove_unfinished(folder: Path) -> None:
    """Removes files left by processes that died while writing; the caller holds the lock."""
    for path in folder.glob(f"{UNFINISHED}*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _beginning() -> str:
    """The prefix of unfinished files of this machine; the number of the process follows."""
    return f"{UNFINISHED}{socket.gethostname()}-"


def _remove_of_the_dead(folder: Path) -> None:
    """Removes what dead processes of this machine were writing; needs no lock."""
    begin = _beginning()
    for path in folder.glob(f"{glob.escape(begin)}*"):
        number = path.name[len(begin) :].partition("-")[0]
        if number.isdecimal() and not _lives(int(number)):
            path.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    """Whether the process exists, or may exist."""
    if os.name == "nt":  # os.kill would end it there
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def flush(path: Path) -> None:
    """Waits until a file or a folder is on the disk."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_writable(folder: Path) -> None:
    """Creates the folder if necessary; removes what dead processes were writing in it.

    Raises:
        OutputError: it cannot be created, or is not writable.
    """
    probe = folder / f"{_beginning()}{os.getpid()}-probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("probe", encoding="utf-8")
        probe.unlink()
        _remove_of_the_dead(folder)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error})") from error


def _read_holder(lock: Path) -> str:
    unknown = "an unknown one"
    try:
        return read_text(lock, 1000).strip() or unknown
    except DamagedData:
        return unknown  # it has ended in the meantime


@contextlib.contextmanager
def locked(path: Path, lock: Path) -> Iterator[None]:
    """Keeps other processes out of the same block; the lock ends with the process, however it ends.

    Args:
        path: what the block writes, for the message.
        lock: the lock file; it exists while it is held and names the process that holds it.

    Raises:
        OutputError: another process holds the lock, the file system has no locks, or nothing can
            be written.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        held = filelock.FileLock(lock, timeout=0, fallback_to_soft=False)
        held.acquire()
    except filelock.Timeout as error:
        raise OutputError(
            f"{path}: another process is writing there ({_read_holder(lock)}); wait until it ends, "
            "or choose another --out"
        ) from error
    except (OSError, NotImplementedError) as error:
        raise OutputError(f"{path}: cannot be locked and written ({error})") from error
    try:
        lock.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
        yield
    finally:
        try:
            # Removed while it is held: a process that has opened the old file finds it gone, and
            # tries again. Windows cannot remove an open file.
            if os.name != "nt":
                lock.unlink(missing_ok=True)
        finally:
            held.release()
