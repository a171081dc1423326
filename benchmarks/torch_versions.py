"""The table of tested versions of torch: one row a version and Python, the outcome of its tests.

    python benchmarks/torch_versions.py REPORT --out benchmarks/results

adds the row of the running Python and torch, in the place of an older one, from what
`pytest --junit-xml REPORT` wrote. `.ci/torch-versions` does so for each version that it tests.
"""

from __future__ import annotations

import argparse
import csv
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path

import torch

from _files import replaced
from _machine import describe
from _options import DEFAULT_OUT

NAME = "torch_versions.csv"


def counts(report: Path) -> dict[str, int]:
    """Passed, failed (errors too) and skipped tests of a JUnit report; at least one test ran."""
    total = failed = skipped = 0
    for suite in ElementTree.parse(report).iter("testsuite"):
        total += int(suite.attrib["tests"])
        failed += int(suite.attrib["failures"]) + int(suite.attrib["errors"])
        skipped += int(suite.attrib["skipped"])
    if total == skipped:
        raise ValueError(f"{report}: no test ran")
    return {"passed": total - failed - skipped, "failed": failed, "skipped": skipped}


def version(row: Mapping[str, object]) -> tuple[list[int], list[int]]:
    """What a row is about, for the order of the table: torch's release, Python's minor version."""
    release, python = str(row["torch"]).partition("+")[0], str(row["python"])
    return _numbers(release), _numbers(python)[:2]


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def write(table: Path, row: Mapping[str, object]) -> None:
    """Puts the row into the table, in the place of that of the same versions."""
    rows: list[Mapping[str, object]] = []
    if table.exists():
        with table.open(newline="", encoding="utf-8") as file:
            rows = [other for other in csv.DictReader(file) if version(other) != version(row)]
    rows = sorted([*rows, row], key=version)
    with replaced(table) as path, path.open("w", newline="", encoding="utf-8") as file:
        columns = dict.fromkeys(column for each in (row, *rows) for column in each)
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("report", type=Path, help="written by pytest --junit-xml")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder of the table")
    options = parser.parse_args()

    machine = describe(torch.get_num_threads(), torch.device("cpu"))
    versions = {name: machine[name] for name in ("torch", "python")}
    row = versions | counts(options.report) | machine
    options.out.mkdir(parents=True, exist_ok=True)
    write(options.out / NAME, row)
    outcome = ", ".join(f"{row[name]} {name}" for name in ("passed", "failed", "skipped"))
    print(f"torch {row['torch']}, Python {row['python']}: {outcome}")


if __name__ == "__main__":
    main()
