"""The table of tested versions of torch: one row a version and Python, the outcome of its tests.

    python benchmarks/torch_versions.py REPORT --out benchmarks/results

adds the row of the running Python and torch, in the place of an older one, from what
`pytest --junit-xml REPORT` wrote. `.ci/torch-versions` does so for each version that it tests.
"""

from __future__ import annotations

import argparse
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path

import torch

from harness.files import read_table, write_table
from harness.machine import describe
from harness.options import add_out

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
    others = [other for other in read_table(table) if version(other) != version(row)]
    write_table(table, sorted([*others, row], key=version))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("report", type=Path, help="written by pytest --junit-xml")
    add_out(parser)
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
