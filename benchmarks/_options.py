"""Command line of the benchmarks, and what a process needs before torch and numpy start.

Imports neither torch nor numpy: thread counts and huge pages are read when they load.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

import _cases

DEFAULT_OUT = Path(__file__).resolve().parent.parent / "build" / "benchmarks"


def parse(
    argv: list[str] | None,
    description: str,
    shapes: dict[str, _cases.Shape],
    passes: tuple[str, ...],
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--full", action="store_true", help="every case of the published tables")
    which.add_argument("--quick", action="store_true", help="small sizes, seconds (for CI)")
    select = parser.add_argument_group(
        "cases", "alone they make the list of cases; with --full or --quick they select from it"
    )
    select.add_argument("--shape", nargs="+", choices=shapes)
    select.add_argument("--n", nargs="+", type=_positive, help="number of samples")
    select.add_argument("--dtype", nargs="+", choices=_cases.DTYPES)
    select.add_argument("--pass", nargs="+", choices=passes, dest="passes")
    parser.add_argument(
        "--methods", nargs="+", metavar="TEXT", help="only methods with a TEXT in their name"
    )
    parser.add_argument(
        "--backend",
        nargs="+",
        choices=("auto", "native", "triton", "reference"),
        help="backends of ntensor, one row each (default: its own choice; on a GPU native, triton)",
    )
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda[:index]")
    parser.add_argument(
        "--threads", type=_positive, help="CPU threads of every library (default: all cores)"
    )
    parser.add_argument(
        "--huge-pages",
        action="store_true",
        help="start again with THP_MEM_ALLOC_ENABLE=1: torch asks for transparent huge pages",
    )
    parser.add_argument(
        "--seconds", type=float, help="time for the samples of a case (default: 8; on a GPU 1)"
    )
    parser.add_argument(
        "--repeats", type=_positive, help="exactly this many rounds instead of --seconds"
    )
    parser.add_argument(
        "--autotune", action="store_true", help="on a GPU: torch.compile's max-autotune everywhere"
    )
    parser.add_argument(
        "--budget",
        type=float,
        metavar="SECONDS",
        help="end after about this time; cases that were not reached are named",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=DEFAULT_OUT,
        metavar="DIR",
        help="folder of the CSV and the plot (default: build/benchmarks, which git ignores)",
    )
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"wanted at least 1, got {value}")
    return value


def prepare_process(options: argparse.Namespace) -> None:
    """Set what the libraries read at their start; with `--huge-pages` replace the process once."""
    options.backend = options.backend or (["native", "triton"] if on_gpu(options) else ["auto"])
    options.seconds = options.seconds or (1.0 if on_gpu(options) else 8.0)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    options.threads = options.threads or cores or 1
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(options.threads)
    if options.huge_pages and os.environ.get("THP_MEM_ALLOC_ENABLE") != "1":
        os.environ["THP_MEM_ALLOC_ENABLE"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.argv])


def on_gpu(options: argparse.Namespace) -> bool:
    return options.device.partition(":")[0] != "cpu"


def selected(options: argparse.Namespace, cases: list[_cases.Case]) -> list[_cases.Case]:
    """Those of `cases` that the options ask for; an option that is not given asks for all."""

    def wanted(choice: list | None, value: object) -> bool:
        return choice is None or value in choice

    return [
        case
        for case in cases
        if wanted(options.shape, case.shape.name)
        and wanted(options.n, case.n)
        and wanted(options.dtype, case.dtype)
        and wanted(options.passes, case.pass_)
    ]


def names_cases(options: argparse.Namespace) -> bool:
    """Whether any option names cases."""
    return any(
        choice is not None for choice in (options.shape, options.n, options.dtype, options.passes)
    )


def autotuned(options: argparse.Namespace, cases: list[_cases.Case]) -> list[_cases.Case]:
    """The cases, all of them with max-autotune where `--autotune` asks for it."""
    return [replace(case, autotune=True) for case in cases] if options.autotune else cases
