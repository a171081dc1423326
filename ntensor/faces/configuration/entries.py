"""The ranges of configuration entries, and the check against them."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union

from ntensor.faces.common.errors import ConfigurationError


@dataclass(frozen=True)
class Within:
    """The range of a number, or of each number in a tuple; used with the type in `Annotated`.

    Attributes:
        least, most: the bounds, both allowed.
        above: `least` itself is not allowed.
        multiple: the number must be a multiple of this.
    """

    least: float = -math.inf
    most: float = math.inf
    above: bool = False
    multiple: int = 0

    def holds(self, value: Any) -> bool:
        """Whether a number or each number of a tuple lies within; None always does."""
        if value is None:
            return True
        if isinstance(value, tuple):
            return all(self.holds(part) for part in value)
        inside = self.least < value if self.above else self.least <= value
        return bool(inside and value <= self.most and not (self.multiple and value % self.multiple))

    def __str__(self) -> str:
        words = []
        if self.least > -math.inf:
            words.append(f"{'above' if self.above else 'at least'} {_format_number(self.least)}")
        if self.most < math.inf:
            words.append(f"at most {_format_number(self.most)}")
        if self.multiple:
            words.append(f"a multiple of {self.multiple}")
        return ", ".join(words)


def _format_number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"


@dataclass(frozen=True)
class Word:
    """The form of a string; used with `str` in `Annotated`.

    Attributes:
        pattern: a regular expression that matches the whole string.
        meaning: the same in words.
    """

    pattern: str
    meaning: str

    def holds(self, value: Any) -> bool:
        """Whether it is such a string, or None."""
        return value is None or re.fullmatch(self.pattern, value) is not None

    def __str__(self) -> str:
        return self.meaning


DEVICE = Word(r"auto|cpu|cuda(:\d{1,3})?", "auto, cpu, cuda or cuda:NUMBER")
Device = Annotated[str, DEVICE]
Positive = Annotated[int, Within(1, 1_000_000_000)]
Count = Annotated[int, Within(0, 1_000_000_000)]
Extent = Annotated[int, Within(1, 65_536)]
DataExtent = Annotated[int, Within(0, 30_000_000)]
Weight = Annotated[float, Within(0, 1e6)]
Rate = Annotated[float, Within(0, 10, above=True)]
Workers = Annotated[int, Within(0, 1024)]
Share = Annotated[float, Within(0, 1)]
MOST_SEED = 2**31 - 1
Seed = Annotated[int, Within(0, MOST_SEED)]
ImageSize = Annotated[int, Within(8, 2048, multiple=8)]


def check_entries(configuration: Any) -> None:
    """Refuses a dataclass with an entry of the wrong type, out of range or not finite.

    Raises:
        ConfigurationError: names the entry, what is required, and the value found.
    """
    hints = typing.get_type_hints(type(configuration), include_extras=True)
    for field in dataclasses.fields(configuration):
        check_entry(field.name, getattr(configuration, field.name), hints[field.name])


def check_arguments(function: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """As `check_entries`, for the arguments of a call, by name."""
    hints = typing.get_type_hints(function, include_extras=True)
    for name in inspect.signature(function).parameters:
        check_entry(name, given[name], hints[name])


def check_entry(name: str, value: Any, hint: Any) -> None:
    """As `check_entries`, for one entry; `hint` is its annotation."""
    kind, *notes = typing.get_args(hint) if _is(hint, Annotated) else (hint,)
    ranges = [note for note in notes if isinstance(note, Within | Word)]
    if not _fits(value, kind) or not all(note.holds(value) for note in ranges):
        wanted = ", ".join([_describe(kind), *map(str, ranges)])
        raise ConfigurationError(f"{name} must be {wanted}, got {value!r}")


def _is(hint: Any, origin: Any) -> bool:
    return typing.get_origin(hint) is origin


def _fits(value: Any, hint: Any) -> bool:
    arguments = typing.get_args(hint)
    if _is(hint, Annotated):
        return _fits(value, arguments[0])
    if _is(hint, Union) or _is(hint, types.UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if _is(hint, Literal):
        return any(type(value) is type(word) and value == word for word in arguments)
    if _is(hint, tuple):
        if not isinstance(value, tuple):
            return False
        if arguments[-1] is Ellipsis:
            return all(_fits(part, arguments[0]) for part in value)
        return len(value) == len(arguments) and all(map(_fits, value, arguments))
    if hint is float:
        return (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and (math.isfinite(value))
        )
    if hint in (int, bool, str):
        return type(value) is hint
    return isinstance(value, hint)


def _describe(hint: Any) -> str:
    arguments = typing.get_args(hint)
    if _is(hint, Annotated):
        return _describe(arguments[0])
    if _is(hint, Union) or _is(hint, types.UnionType):
        return " or ".join(map(_describe, arguments))
    if _is(hint, Literal):
        return f"one of {', '.join(map(repr, arguments))}"
    if _is(hint, tuple):
        few = "several" if arguments[-1] is Ellipsis else str(len(arguments))
        return f"{few} values, each {_describe(arguments[0])}"
    names = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text"}
    return names.get(hint, "none" if hint is type(None) else hint.__name__)
