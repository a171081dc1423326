"""A step of `gpu_check.py`, and what it left.

Imports neither torch nor numpy.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Step:
    """One thing to show.

    `seconds` is what it may take, by estimate: it is begun where so much time is left, and stopped
    after `LATITUDE` times as much. `beside`: its neighbours may run at the same time. `table` names
    the CSV file of its rows, "" for none. `arguments` are those of the function of `execution.py`
    for its `kind`.
    """

    name: str
    section: str
    kind: str
    seconds: float
    arguments: dict = field(default_factory=dict)
    table: str = ""
    beside: bool = False


LATITUDE = 3.0

PASSED, FAILED, NOT_FINISHED, NOT_RUN = "passed", "failed", "not finished", "not run"


@dataclass
class Outcome:
    """`state` is one of the four above: "not finished" was stopped because the call's time ended,
    "not run" cannot run here, and the lines say why. `rows` belong to the step's table."""

    state: str
    lines: list[str] = field(default_factory=list)
    rows: list[dict] = field(default_factory=list)
    seconds: float = 0.0
