"""The page's files: private to this user, limited in size, and removed at the end."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

PREFIX = "ntensor-page-"
MOST_BYTES = 64_000_000


class Folder:
    """A temporary folder of mode 0700 for uploads, and for the pictures and meshes shown.

    A killed page leaves its folder behind, unlocked; the next page of the same user removes it.

    Args:
        most (int): limit on the total size, bytes.

    Attributes:
        files (Path): the folder of the files.

    Example:
        >>> from ntensor.faces.page.folder import Folder
        >>> with Folder() as folder:
        ...     folder.files.is_dir()
        True
    """

    def __init__(self, most: int = MOST_BYTES) -> None:
        self.most = most
        self._kept: set[Path] = set()

    def __enter__(self) -> Folder:
        place = Path(tempfile.gettempdir()).resolve()
        for left in place.glob(f"{PREFIX}*"):
            _remove_left_over(left)
        # The folder must be locked before another page can see it.
        new = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=place))
        self._lock = FileLock(new / "lock")
        self._lock.acquire(timeout=0)
        self.path = new.rename(place / new.name[1:])
        self.files = self.path / "files"
        self.files.mkdir()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        shutil.rmtree(self.path)
        self._lock.release()

    def holds(self, path: str) -> bool:
        """Whether `path` is a file in this folder; links that lead outside are not."""
        try:
            file = Path(path).resolve(strict=True)
        except (OSError, RuntimeError, ValueError):
            return False
        return file.is_relative_to(self.files) and file.is_file()

    def keep(self) -> None:
        """Protects the present files from `make_room`."""
        self._kept = {path for path, _ in self._list_by_age()}

    def make_room(self, wanted: int = 0) -> None:
        """Removes the oldest files until `wanted` more bytes fit."""
        files = self._list_by_age()
        size = wanted + sum(status.st_size for _, status in files)
        for path, status in files:
            if size <= self.most:
                return
            if path not in self._kept:
                path.unlink(missing_ok=True)
                size -= status.st_size

    def write(self, content: bytes, suffix: str) -> Path:
        """Writes a new file."""
        self.make_room(len(content))
        number, path = tempfile.mkstemp(suffix, dir=self.files)
        with os.fdopen(number, "wb") as stream:
            stream.write(content)
        return Path(path)

    def _list_by_age(self) -> list[tuple[Path, os.stat_result]]:
        files = []
        for path in self.files.rglob("*"):
            try:
                status = path.lstat()
            except FileNotFoundError:
                continue  # removed in the meantime
            if not path.is_dir():
                files.append((path, status))
        return sorted(files, key=lambda file: file[1].st_mtime_ns)


def _remove_left_over(folder: Path) -> None:
    try:
        status = folder.lstat()
    except FileNotFoundError:
        return  # another page removed it
    if folder.is_symlink() or not folder.is_dir() or status.st_uid != os.getuid():
        return
    try:
        with FileLock(folder / "lock", timeout=0):
            shutil.rmtree(folder)
    except Timeout:
        return  # in use by a running page
