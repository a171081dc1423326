"""What a command does with its result: tables, CSV, plot, exit code."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from harness.files import replaced, write_table
from harness.options import path_of
from harness.plot import write_plot
from harness.report import print_result, record
from harness.runner import Result

NO_DEVICE = 2


def finish(result: Result, given: Namespace, name: str) -> int:
    """Print and write everything; exit code 1 if the library's own result is missing or wrong."""
    print_result(result)
    table, plot = save(result, given, name), path_of(given, name, "png")
    with replaced(plot) as path:
        write_plot(result, path)
    print(f"\nwritten: {table}, {plot}")
    if result.exit_code:
        print("ntensor's own result is missing or wrong in at least one case")
    return result.exit_code


def save(result: Result, given: Namespace, name: str) -> Path:
    """Write the CSV alone; gives its path."""
    table = path_of(given, name, "csv")
    write_table(table, [record(row) for row in result.rows], result.machine)
    return table
