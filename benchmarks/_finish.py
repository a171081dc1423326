"""What a script does with its result: tables, CSV, plot, exit code."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path

from _files import replaced
from _options import on_gpu
from _plot import write_plot
from _report import print_result, write_csv
from _runner import Result

NO_DEVICE = 2


def finish(result: Result, options: Namespace, name: str) -> int:
    """Print and write everything; exit code 1 if the library's own result is missing or wrong."""
    print_result(result)
    table, plot = save(result, options, name), _path(options, name, "png")
    with replaced(plot) as path:
        write_plot(result, path)
    print(f"\nwritten: {table}, {plot}")
    if result.exit_code:
        print("ntensor's own result is missing or wrong in at least one case")
    return result.exit_code


def save(result: Result, options: Namespace, name: str) -> Path:
    """Write the CSV alone; gives its path."""
    options.out.mkdir(parents=True, exist_ok=True)
    table = _path(options, name, "csv")
    with replaced(table) as path:
        write_csv(result, path)
    return table


def _path(options: Namespace, name: str, suffix: str) -> Path:
    if on_gpu(options):
        name += "-gpu"
    if os.environ.get("THP_MEM_ALLOC_ENABLE") == "1":
        name += "-huge-pages"
    return options.out / f"{name}.{suffix}"
