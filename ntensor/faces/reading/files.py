"""Reads the bytes or text of files, up to a size."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ntensor.faces.common.errors import DamagedData, FacesError

# Limit on the bytes of text that a person or this package writes.
MOST_TEXT = 16_000_000


@contextlib.contextmanager
def parsing(path: Path, kind: type[DamagedData] = DamagedData) -> Iterator[None]:
    """For a block that parses untrusted bytes: any exception in it means that the file is damaged.

    Parsers are written for well-formed input; on other input they fail in ways that no list of
    exceptions covers (RecursionError, struct.error, zlib.error, MemoryError, ...).

    Raises:
        DamagedData: one of this `kind`, in place of the parser's exception.
    """
    try:
        yield
    except FacesError:
        raise
    except FileNotFoundError as error:
        raise kind(path, None, "the file does not exist") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise kind(path, None, f"cannot be read ({reason})") from error


@contextlib.contextmanager
def open_regular(path: str | Path, kind: type[DamagedData] = DamagedData) -> Iterator[BinaryIO]:
    """Opens a regular file; a pipe or a device could block or never end.

    Raises:
        DamagedData: it is missing, not a regular file, or cannot be opened.
    """
    path = Path(path)
    with parsing(path, kind):
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            got = "a folder" if stat.S_ISDIR(mode) else "a pipe or device"
            raise kind(path, None, f"expected a file, got {got}")
        file = path.open("rb")
    with file:
        yield file


def read_bytes(
    path: str | Path, most: int = MOST_TEXT, kind: type[DamagedData] = DamagedData
) -> bytes:
    """Reads a file.

    Raises:
        DamagedData: it cannot be read or has more than `most` bytes.
    """
    with open_regular(path, kind) as file, parsing(Path(path), kind):
        content = file.read(most + 1)
    if len(content) > most:
        raise kind(Path(path), None, f"expected at most {most} bytes, got more")
    return content


def read_text(
    path: str | Path, most: int = MOST_TEXT, kind: type[DamagedData] = DamagedData
) -> str:
    """Reads a UTF-8 file, with or without a byte order mark; line endings are kept.

    Raises:
        DamagedData: it cannot be read, has more than `most` bytes, or is not UTF-8.
    """
    content = read_bytes(path, most, kind)
    with parsing(Path(path), kind):
        return content.decode("utf-8-sig")
