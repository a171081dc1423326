"""What a script does with its result: tables, CSV, plot, exit code."""

from __future__ import annotations

import os
from argparse import Namespace

from _plot import write_plot
from _report import print_result, write_csv
from _runner import Result


def finish(result: Result, options: Namespace, name: str) -> int:
    """Print and write everything; exit code 1 if the library's own result is missing or wrong."""
    if os.environ.get("THP_MEM_ALLOC_ENABLE") == "1":
        name += "-huge-pages"
    print_result(result)
    options.out.mkdir(parents=True, exist_ok=True)
    table, plot = options.out / f"{name}.csv", options.out / f"{name}.png"
    write_csv(result, table)
    write_plot(result, plot)
    print(f"\nwritten: {table}, {plot}")
    if result.exit_code:
        print("ntensor's own result is missing or wrong in at least one case")
    return result.exit_code
