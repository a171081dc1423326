"""What all commands share: how they end on errors and signals, and their standard streams."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, ParamSpec, TextIO, cast

from .errors import FacesError, OutputError

Words = ParamSpec("Words")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# The status of a program that writes to a pipe without a reader: 128 + SIGPIPE.
_NO_READER = 141


def command(main: Callable[Words, None]) -> Callable[Words, None]:
    """Makes a function the `main` of a command.

    - A `FacesError`, a file that cannot be read or written and a missing package end it with one
      sentence and status 1.
    - SIGINT and SIGTERM end it by an exception, so that no half-written file remains, with one
      line and status 128 plus the signal's number.
    - If standard output no longer has a reader, it ends silently with status 141. If standard error
      has none, or a stream was closed at the start, it continues.
    """

    @functools.wraps(main)
    def run(*arguments: Words.args, **options: Words.kwargs) -> None:
        with _open_streams(), _catch_signals():
            try:
                main(*arguments, **options)
                sys.stdout.flush()
            except KeyboardInterrupt as stopped:
                number = stopped.args[0] if stopped.args else signal.SIGINT
                print(f"ended by {number.name}", file=sys.stderr)
                raise SystemExit(128 + number) from stopped
            except (FacesError, ModuleNotFoundError) as error:
                raise SystemExit(f"error: {_join_lines(error)}") from error
            except OSError as error:
                raise SystemExit(f"error: {type(error).__name__}: {_join_lines(error)}") from error

    return run


def _join_lines(error: Exception) -> str:
    return " ".join(line.strip() for line in str(error).splitlines())


@contextlib.contextmanager
def _catch_signals() -> Iterator[None]:
    """Raises KeyboardInterrupt with the signal; a signal ignored at the start stays ignored."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in _SIGNALS}
    caught = [number for number, handler in before.items() if handler is not signal.SIG_IGN]

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number))

    for number in caught:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, before[number])


@contextlib.contextmanager
def _open_streams() -> Iterator[None]:
    # A closed stream is replaced: otherwise the next file would get its number, and messages for
    # standard error would be written into that file.
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    output, errors = (
        stream or open(number, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        for number, stream in ((1, sys.stdout), (2, sys.stderr))
    )
    with (
        contextlib.redirect_stdout(cast(TextIO, Stream(output, _end_without_output))),
        contextlib.redirect_stderr(cast(TextIO, Stream(errors, lambda error: None))),
    ):
        yield


def _end_without_output(error: OSError) -> None:
    if isinstance(error, BrokenPipeError):
        raise SystemExit(_NO_READER) from error
    raise OutputError(f"standard output: cannot be written ({error})") from error


class Stream:
    """A standard stream that writes nothing more after an error.

    Characters that it cannot encode are written as escapes.

    Args:
        stream (TextIO)
        failed (callable): is called with the error.
    """

    def __init__(self, stream: TextIO, failed: Callable[[OSError], None]) -> None:
        self._stream, self._failed = stream, failed

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding
            return self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except OSError as error:
            self._end(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._end(error)

    def _end(self, error: OSError) -> None:
        # Python flushes the stream's buffer there when it exits.
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), self._stream.fileno())
        self._failed(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
