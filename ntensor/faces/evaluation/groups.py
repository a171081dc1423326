"""Runs of one configuration with several seeds, and their mean and spread."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SEED = re.compile(r"-s\d+$")


@dataclass
class Group:
    """Measures of runs that differ only in their seeds.

    Attributes:
        name: the folders' name without a suffix such as `-s0`.
        runs: measures returned by `run.evaluate`.
    """

    name: str
    runs: list[dict[str, Any]] = field(default_factory=list)

    def values(self, *path: str) -> list[float]:
        """The number at a path of keys in every run that has it."""
        numbers = []
        for run in self.runs:
            value: Any = run
            for key in path:
                value = value.get(key) if isinstance(value, Mapping) else None
            if value is not None:
                numbers.append(float(value))
        return numbers

    def format(self, *path: str, form: str = ".2f", scale: float = 1.0) -> str:
        """The mean at a path, with the standard deviation for several runs; a dash for no value."""
        values = [scale * value for value in self.values(*path)]
        if not values:
            return "-"
        mean, deviation = mean_and_deviation(values)
        return f"{mean:{form}}" + (f" ± {deviation:{form}}" if len(values) > 1 else "")

    @property
    def first(self) -> dict[str, Any]:
        """Measures of the first run."""
        return self.runs[0]


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (0 for one value)."""
    mean = sum(values) / len(values)
    square = sum((value - mean) ** 2 for value in values)
    return mean, math.sqrt(square / max(1, len(values) - 1))


def group_runs(measures: Sequence[dict[str, Any]]) -> list[Group]:
    """Groups in the order of their first runs.

    Example:
        >>> from ntensor.faces.evaluation.groups import group_runs
        >>> runs = [{"run": f"a/full-s{k}", "configuration": {"seed": k}} for k in (0, 1)]
        >>> [(group.name, len(group.runs)) for group in group_runs(runs)]
        [('full', 2)]
    """
    keyed: list[tuple[Any, Group]] = []
    for run in measures:
        key = _without_seeds(run["configuration"])
        match = next((group for known, group in keyed if known == key), None)
        if match is None:
            name = SEED.sub("", Path(run["run"]).resolve().name)
            names = [group.name for _, group in keyed]
            count = sum(known == name or known.startswith(f"{name} (") for known in names)
            match = Group(name if not count else f"{name} ({count + 1})")
            keyed.append((key, match))
        match.runs.append(run)
    return [group for _, group in keyed]


def _without_seeds(configuration: Mapping[str, Any]) -> Any:
    """The configuration without the entries that do not change the distribution of the results."""
    plain = copy.deepcopy(dict(configuration))
    plain.pop("seed", None)
    for section, names in (
        ("data", ("seed", "workers", "device")),
        ("training", ("seed", "device", "log_every", "picture_every", "keep")),
    ):
        for name in names:
            plain.get(section, {}).pop(name, None)
    return plain
