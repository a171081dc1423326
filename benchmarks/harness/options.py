"""Command line of the benchmarks, and what a process needs before torch and numpy start.

Imports neither torch nor numpy: thread counts and huge pages are read when they load.
"""

from __future__ import annotations

import argparse
import ctypes.util
import os
import sys
from dataclasses import replace
from pathlib import Path

from harness.cases import DTYPES, Case, Shape

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
DEFAULT_OUT = ROOT / "build" / "benchmarks"  # git ignores it
ALLOCATORS = {"jemalloc": ("jemalloc",), "tcmalloc": ("tcmalloc", "tcmalloc_minimal")}
BACKENDS = ("auto", "native", "triton", "reference")


def parse(
    argv: list[str] | None,
    description: str,
    shapes: dict[str, Shape],
    passes: tuple[str, ...],
) -> argparse.Namespace:
    parser = parser_of(description)
    parser.add_argument("--full", action="store_true", help="every case of the published tables")
    select = parser.add_argument_group(
        "cases", "alone they make the list of cases; with --full or --quick they select from it"
    )
    select.add_argument("--shape", nargs="+", choices=shapes)
    select.add_argument("--n", nargs="+", type=_positive, help="number of samples")
    select.add_argument("--dtype", nargs="+", choices=DTYPES)
    select.add_argument("--pass", nargs="+", choices=passes, dest="passes")
    parser.add_argument(
        "--methods", nargs="+", metavar="TEXT", help="only methods with a TEXT in their name"
    )
    parser.add_argument(
        "--backend",
        nargs="+",
        choices=BACKENDS,
        help="backends of ntensor, one row each (default: its own choice; on a GPU native, triton)",
    )
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda[:index]")
    parser.add_argument(
        "--autotune", action="store_true", help="on a GPU: torch.compile's max-autotune everywhere"
    )
    parser.add_argument(
        "--budget",
        type=float,
        metavar="SECONDS",
        help="end after about this time; cases that were not reached are named",
    )
    given = parser.parse_args(argv)
    if given.full and given.quick:
        parser.error("--full and --quick exclude each other")
    given.backend = given.backend or (["native", "triton"] if on_gpu(given) else ["auto"])
    given.seconds = given.seconds or (1.0 if on_gpu(given) else 8.0)
    return given


def parse_ways(argv: list[str] | None, description: str, **flags: str) -> argparse.Namespace:
    """For commands whose cases have names of their own; `flags` of the command: name and help."""
    parser = parser_of(description)
    parser.add_argument("--case", nargs="+", metavar="TEXT", help="cases with a TEXT in the name")
    for flag, text in flags.items():
        parser.add_argument(f"--{flag}", action="store_true", help=text)
    given = parser.parse_args(argv, argparse.Namespace(device="cpu"))
    given.seconds = given.seconds or 20.0
    return given


def is_wanted(given: argparse.Namespace, case: str) -> bool:
    return not given.case or any(text in case for text in given.case)


def parser_of(description: str) -> argparse.ArgumentParser:
    """A parser with what every command that times takes."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, seconds (for CI)")
    parser.add_argument(
        "--threads", type=_positive, help="CPU threads of every library (default: all cores)"
    )
    parser.add_argument(
        "--huge-pages",
        action="store_true",
        help="start again with THP_MEM_ALLOC_ENABLE=1: torch asks for transparent huge pages",
    )
    parser.add_argument(
        "--allocator",
        choices=ALLOCATORS,
        help="start again with this allocator of memory, by LD_PRELOAD",
    )
    parser.add_argument(
        "--seconds", type=float, help="time for a case's samples (default: 8 to 20; on a GPU 1)"
    )
    parser.add_argument(
        "--repeats", type=_positive, help="exactly this many rounds instead of --seconds"
    )
    add_out(parser)
    return parser


def add_out(parser: argparse.ArgumentParser, default: Path = DEFAULT_OUT) -> None:
    parser.add_argument(
        "--out",
        type=Path,
        default=default,
        metavar="DIR",
        help=f"folder of the files (default: {default.relative_to(ROOT)})",
    )


def path_of(given: argparse.Namespace, name: str, suffix: str) -> Path:
    """Where a command writes: runs of another kind lie beside the ordinary one's."""
    if on_gpu(given):
        name += "-gpu"
    if os.environ.get("THP_MEM_ALLOC_ENABLE") == "1":
        name += "-huge-pages"
    if allocator():
        name += f"-{allocator()}"
    given.out.mkdir(parents=True, exist_ok=True)
    return given.out / f"{name}.{suffix}"


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"wanted at least 1, got {value}")
    return value


def prepare_process(options: argparse.Namespace) -> None:
    """Set what the libraries read at their start, in a process that starts again if it has to."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    options.threads = options.threads or cores or 1
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(options.threads)
    restarts = False
    if options.huge_pages and os.environ.get("THP_MEM_ALLOC_ENABLE") != "1":
        os.environ["THP_MEM_ALLOC_ENABLE"] = "1"
        restarts = True
    if options.allocator and options.allocator != allocator():
        libraries = _library_of(options.allocator), os.environ.get("LD_PRELOAD")
        os.environ["LD_PRELOAD"] = " ".join(filter(None, libraries))
        restarts = True
    if restarts:
        os.execv(sys.executable, [sys.executable, *sys.argv])


def allocator() -> str:
    """Which of `ALLOCATORS` is loaded before the C library's by `LD_PRELOAD`, "" for none."""
    preloaded = os.environ.get("LD_PRELOAD", "")
    return next((name for name in ALLOCATORS if f"lib{name}" in preloaded), "")


def _library_of(name: str) -> str:
    for library in ALLOCATORS[name]:
        if found := ctypes.util.find_library(library):
            return found
    raise SystemExit(
        f"error: --allocator {name}: wanted lib{ALLOCATORS[name][0]} where the system looks for "
        "libraries, found none; LD_PRELOAD=FILE in front of the command names one elsewhere"
    )


def on_gpu(options: argparse.Namespace) -> bool:
    return options.device.partition(":")[0] != "cpu"


def selected(options: argparse.Namespace, cases: list[Case]) -> list[Case]:
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


def autotuned(options: argparse.Namespace, cases: list[Case]) -> list[Case]:
    """The cases, all of them with max-autotune where `--autotune` asks for it."""
    return [replace(case, autotune=True) for case in cases] if options.autotune else cases
