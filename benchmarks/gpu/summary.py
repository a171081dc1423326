"""The text of `summary.md`, from the outcomes of the steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby

from gpu.step import FAILED, NOT_FINISHED, NOT_RUN, PASSED, Outcome, Step

CASE = ("operation", "layout", "shape", "n", "dtype", "pass")
# Columns of the benchmark's table, and their heads.
SPEED = {
    "median_ms": "ms",
    "times_faster_than_gemm_limit": "vs limit",
    "times_faster_than_best_torch": "vs torch",
    "fraction_of_roof": "of roof",
    "extra_bytes": "extra bytes",
    "host_us": "host us",
    "timing": "timing",
}
MOST_NAMED = 40
NOT_REACHED = "not reached"


def summary_of(
    subject: Mapping[str, object], steps: Sequence[Step], outcomes: Mapping[str, Outcome]
) -> str:
    """What did not pass first, then what was looked at, then every section."""
    lines = ["# Check on a GPU", "", verdict(steps, outcomes), ""]
    lines += [f"- {name}: {value}" for name, value in subject.items()]
    for section, group in groupby(steps, key=lambda step: step.section):
        lines += section_of(section, list(group), outcomes)
    return "\n".join(lines) + "\n"


def verdict(steps: Sequence[Step], outcomes: Mapping[str, Outcome]) -> str:
    states = Counter(state_of(step, outcomes) for step in steps)
    failed = [step.name for step in steps if state_of(step, outcomes) == FAILED]
    text = "All that was run passed."
    if failed:
        named = "; ".join(failed[:MOST_NAMED])
        more = f"; and {len(failed) - MOST_NAMED} more" if len(failed) > MOST_NAMED else ""
        text = f"**Did not pass: {named}{more}.**"
    return f"{text} Of {len(steps)} steps: {counted(states)}."


def state_of(step: Step, outcomes: Mapping[str, Outcome]) -> str:
    return outcomes[step.name].state if step.name in outcomes else NOT_REACHED


def counted(states: Counter[str]) -> str:
    order = (PASSED, FAILED, NOT_FINISHED, NOT_RUN, NOT_REACHED)
    return ", ".join(f"{states[state]} {state}" for state in order if states[state])


def section_of(section: str, steps: list[Step], outcomes: Mapping[str, Outcome]) -> list[str]:
    states = Counter(state_of(step, outcomes) for step in steps)
    seconds = sum(outcomes[step.name].seconds for step in steps if step.name in outcomes)
    lines = ["", f"## {section}: {counted(states)}; {seconds:.0f} s", ""]
    rows = []
    for step in steps:
        state = state_of(step, outcomes)
        if state == NOT_REACHED:
            continue
        outcome = outcomes[step.name]
        rows += outcome.rows
        if outcome.lines or state != PASSED:
            lines.append(f"- {step.name}: {state}, {outcome.seconds:.1f} s")
            lines += [f"  - {line}" for line in outcome.lines]
    missing = [step.name for step in steps if state_of(step, outcomes) == NOT_REACHED]
    if missing:
        named = "; ".join(missing[:MOST_NAMED])
        lines.append(f"- {NOT_REACHED}: {named}" + "; …" * (len(missing) > MOST_NAMED))
    return lines + errors_of(rows) + speeds_of(rows)


def errors_of(rows: Sequence[Mapping]) -> list[str]:
    """The largest error of each backend and dtype, as Markdown."""
    checked = [row for row in rows if "backend" in row and row["error"] != ""]
    if not checked:
        return []
    lines = ["", "| backend | dtype | results | largest error | allowed |", "|---|---|---|---|---|"]
    kinds = dict.fromkeys((row["backend"], row["dtype"]) for row in checked)
    for backend, dtype in kinds:
        of_kind = [row for row in checked if (row["backend"], row["dtype"]) == (backend, dtype)]
        worst = max(of_kind, key=lambda row: row["error"])
        where = f"{worst['error']:.1e} ({worst['operation']} {worst['case']}, {worst['result']})"
        lines.append(f"| {backend} | {dtype} | {len(of_kind)} | {where} | {worst['allowed']:.0e} |")
    return lines


def speeds_of(rows: Sequence[Mapping]) -> list[str]:
    """The rows of the library and of the fastest rival of each case, as Markdown."""
    timed = [row for row in rows if "median_ms" in row and row["status"] == "right"]
    if not timed:
        return []
    heads = [*CASE, "method", "gradient", *SPEED.values()]
    lines = ["", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for _, group in groupby(timed, key=lambda row: [row[column] for column in CASE]):
        of_case = list(group)
        shown = [row for row in of_case if row["kind"] == "ours"]
        for kind in ("limit", "torch", "library"):
            rivals = [row for row in of_case if row["kind"] == kind]
            shown += sorted(rivals, key=lambda row: row["median_ms"])[:1]
        for row in shown:
            cells = [str(row[key]) for key in (*CASE, "method", "gradient", *SPEED)]
            lines.append(f"| {' | '.join(cells)} |")
    return lines
