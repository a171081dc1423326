"""Several ways to one result: checked, timed in turn, written as CSV and picture.

For commands whose cases are no `harness.cases.Case`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

from harness.files import replaced, write_table
from harness.machine import ForeignLoad, describe
from harness.options import path_of
from harness.timing import REST_AFTER_NUMPY, HostClock, Step, Timed, interleave

OURS, OTHERS = ("#c1121f", "#e85d04", "#f48c06"), "#4dabf7"


@dataclass(frozen=True)
class Way:
    """One way of a case. `call` is timed, `prepare` before it is not; `wrong(result)` says what is
    wrong with it, or "".

    `kind` is "ours" or "rival"; the fastest of the rivals is what the others are compared with.
    """

    name: str
    kind: str
    call: Callable[[], Any]
    wrong: Callable[[Any], str]
    numpy: bool = False
    note: Callable[[Any], str] = lambda result: ""
    prepare: Callable[[], object] | None = None


def measure(
    case: str, ways: list[Way], options: argparse.Namespace, roof_seconds: float | None = None
) -> list[dict[str, object]]:
    """The rows of one case, printed too; a way with a wrong result is not timed."""
    rows, entries = [], []
    clock = HostClock()
    spent: dict[str, list[float]] = {way.name: [] for way in ways}
    for way in ways:
        step = Step(_counted(way.call, spent[way.name]), lambda output: {}, way.prepare)
        if way.prepare:
            way.prepare()
        result = way.call()
        row: dict[str, object] = {"case": case, "method": way.name, "kind": way.kind}
        row |= {"status": way.wrong(result), "note": way.note(result)}
        del result
        rows.append(row)
        rest = REST_AFTER_NUMPY if way.numpy else 0.0
        entries.append(Timed(step, 0.0 if row["status"] else clock.seconds(step), rest))
    right = [entry for entry, row in zip(entries, rows, strict=True) if not row["status"]]
    with ForeignLoad() as load:
        interleave(right, options.seconds, options.repeats, clock, lambda _: None)
    rivals = [
        statistics.median(entry.samples)
        for entry, row in zip(entries, rows, strict=True)
        if entry.samples and row["kind"] == "rival"
    ]
    for entry, row in zip(entries, rows, strict=True):
        if not entry.samples:
            continue
        median = statistics.median(entry.samples)
        row["seconds"] = f"{median:.6g}"
        row["fastest"] = f"{min(entry.samples):.6g}"
        row["cpu_seconds"] = f"{statistics.median(spent[str(row['method'])]):.6g}"
        row["samples"] = len(entry.samples)
        row["versus_rival"] = f"{min(rivals) / median:.4g}" if rivals else ""
        row["of_roof"] = f"{roof_seconds / median:.3g}" if roof_seconds else ""
        row["foreign_load"] = "" if load.share is None else round(load.share, 3)
    _print(case, rows, load.share)
    return rows


def _counted(call: Callable[[], Any], spent: list[float]) -> Callable[[object], Any]:
    """The call, which notes the processor time of all its threads: foreign load leaves it alone."""

    def step(_: object) -> Any:
        start = time.process_time()
        result = call()
        spent.append(time.process_time() - start)
        return result

    return step


def _print(case: str, rows: list[dict[str, object]], foreign: float | None) -> None:
    print(f"\n{case}" + (f" (other processes took {foreign:.0%})" if (foreign or 0) > 0.03 else ""))
    print(
        f"{'method':44}{'ms':>10}{'fastest':>10}{'cpu ms':>10}{'vs rival':>10}{'of roof':>9}  note"
    )
    for row in rows:
        if row["status"]:
            print(f"{row['method']:44}  {row['status']}")
            continue
        times = [f"{1e3 * float(row[key]):.4g}" for key in ("seconds", "fastest", "cpu_seconds")]
        rest = f"{row['versus_rival']:>10}{row['of_roof']:>9}  {row['note']}"
        print(f"{row['method']:44}{times[0]:>10}{times[1]:>10}{times[2]:>10}{rest}")


def finish(rows: list[dict[str, object]], options: argparse.Namespace, name: str, what: str) -> int:
    """Writes CSV and picture; 1 if a way of the library is wrong."""
    machine = describe(options.threads, torch.device("cpu"))
    table, picture = path_of(options, name, "csv"), path_of(options, name, "png")
    write_table(table, rows, machine)
    with replaced(picture) as path:
        _draw(rows, machine, what, path)
    print(f"\nwritten: {table}, {picture}")
    wrong = [row for row in rows if row["status"]]
    for row in wrong:
        print(f"{row['case']}, {row['method']}: {row['status']}")
    return int(any(row["kind"] == "ours" for row in wrong))


def _draw(rows: list[dict[str, object]], machine: dict[str, object], what: str, path: Path) -> None:
    """A bar a method, a panel a case."""
    cases = [(case, list(group)) for case, group in groupby(rows, key=lambda row: row["case"])]
    figure, axes = plt.subplots(
        len(cases), 1, figsize=(9, 1.2 + 2.2 * len(cases)), squeeze=False, layout="constrained"
    )
    for axis, (case, group) in zip(axes.flat, cases, strict=True):
        timed = [row for row in group if not row["status"]]
        ours = [row["method"] for row in timed if row["kind"] == "ours"]
        for place, row in enumerate(timed):
            mine = row["kind"] == "ours"
            colour = OURS[ours.index(row["method"]) % len(OURS)] if mine else OTHERS
            milliseconds = 1e3 * float(row["seconds"])
            axis.barh(place, milliseconds, color=colour)
            ratio = f"  {row['versus_rival']}x" if mine and row["versus_rival"] else ""
            axis.text(milliseconds, place, f" {milliseconds:.4g}{ratio}", va="center", fontsize=8)
        axis.set_yticks(range(len(timed)), [row["method"] for row in timed], fontsize=8)
        axis.invert_yaxis()
        axis.set_xlim(0, 1.25 * max((1e3 * float(row["seconds"]) for row in timed), default=1))
        axis.set_title(case, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    axes.flat[-1].set_xlabel(f"{what}, ms (median); x: times as fast as the best rival", fontsize=9)
    figure.suptitle(
        f"{machine['processor']}, {machine['threads']} threads, torch {machine['torch']}, "
        f"ntensor at {machine['commit']}",
        fontsize=8,
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)
