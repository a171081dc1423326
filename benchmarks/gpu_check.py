"""Everything that needs a GPU, in one command: tests, compute-sanitizer, benchmark.

    pip install -e . --no-build-isolation                  # once; builds ntensor._cuda with nvcc
    python benchmarks/gpu_check.py --out build/gpu         # all three parts
    python benchmarks/gpu_check.py --out build/gpu --part bench --dtype bfloat16

Each part ends within eight minutes, with what it has by then. DIR gets `summary.md`, the CSV and
PNG files of the benchmark, and `log.txt` with everything that was printed. Nothing is installed.
Exit code: 0 if all that was run passed; 1 if something did not pass or was not finished; 2 without
a GPU. A speed that was not reached is in the summary and leaves the exit code as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from dataclasses import asdict
from pathlib import Path

from gpu.cases import DTYPES
from gpu.parts import PARTS, Part, Shell
from harness.files import replaced
from harness.options import ROOT

PART_SECONDS = 460.0
BUILD = [sys.executable, "setup.py", "build_ext", "--inplace"]
BUILD_SECONDS = 420.0
NO_GPU = 2
TITLES = {"tests": "Tests", "sanitizer": "compute-sanitizer", "bench": "Benchmark"}


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    sys.path.insert(0, str(ROOT))
    from harness.device import missing_device

    if reason := missing_device("cuda"):
        print(reason)
        return NO_GPU
    options.out.mkdir(parents=True, exist_ok=True)
    parts = earlier(options.out)
    with (options.out / "log.txt").open("a") as log:
        shell = Shell(log)
        if options.build:
            parts["build"] = build(shell)
            write(options.out, parts)
        for name in options.part or PARTS:
            print(f"{TITLES[name]}: at most {PART_SECONDS / 60:.0f} minutes", flush=True)
            start = time.monotonic()
            part = PARTS[name](shell, start + PART_SECONDS, options)
            part.seconds = time.monotonic() - start
            parts[name] = part
            write(options.out, parts)
            print(f"{TITLES[name]}: {part.state}\n  " + "\n  ".join(part.lines[:60]), flush=True)
    print(f"written: {options.out / 'summary.md'}")
    return int(any(not part.passed for part in parts.values()))


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of results")
    parser.add_argument(
        "--part", nargs="+", choices=tuple(PARTS), help="only these parts (default: all)"
    )
    parser.add_argument(
        "--build",
        action="store_true",
        help=f"first build the compiled modules beside the sources: {shlex.join(BUILD[1:])}",
    )
    parser.add_argument(
        "--workers", type=int, default=1, help="processes of the tests (needs pytest-xdist)"
    )
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, help="of the benchmark, only these")
    parser.add_argument(
        "--suite",
        nargs="+",
        choices=("rotation", "synthesis"),
        default=("rotation", "synthesis"),
        help="of the benchmark, only these scripts",
    )
    options = parser.parse_args(argv)
    options.out = options.out.resolve()
    return options


def build(shell: Shell) -> Part:
    """Build what nvcc and the C++ compiler can build, beside the sources."""
    print(f"build: {shlex.join(BUILD)}", flush=True)
    run = shell.run(BUILD, BUILD_SECONDS)
    if run.code == 0:
        return Part("passed", [f"`{shlex.join(BUILD[1:])}`"], run.seconds)
    state = "not finished" if run.code is None else "failed"
    return Part(state, run.output.strip().splitlines()[-10:], run.seconds)


def earlier(out: Path) -> dict[str, Part]:
    """The parts that an earlier call has left in the folder."""
    path = out / "parts.json"
    if not path.exists():
        return {}
    return {name: Part(**values) for name, values in json.loads(path.read_text()).items()}


def write(out: Path, parts: dict[str, Part]) -> None:
    with replaced(out / "parts.json") as path:
        path.write_text(json.dumps({name: asdict(part) for name, part in parts.items()}, indent=1))
    with replaced(out / "summary.md") as path:
        path.write_text(summary(machine(), parts))


def machine() -> dict[str, object]:
    import torch

    from harness.machine import describe

    wanted = ("date", "commit", "device", "capability", "driver", "cuda", "torch", "triton")
    described = describe(os.cpu_count() or 1, torch.device("cuda", torch.cuda.current_device()))
    return {name: described[name] for name in (*wanted, "ntensor", "python", "system")}


def summary(on: dict[str, object], parts: dict[str, Part]) -> str:
    """The text of `summary.md`."""
    failed = [TITLES.get(name, name) for name, part in parts.items() if not part.passed]
    missing = [TITLES[name] for name in PARTS if name not in parts]
    verdict = f"**Did not pass: {', '.join(failed)}.**" if failed else "All that was run passed."
    if missing:
        verdict += f" Not run: {', '.join(missing)}."
    lines = ["# Check on a GPU", "", verdict, ""]
    lines += [f"- {name}: {value}" for name, value in on.items()]
    for name in ("build", *PARTS):
        if name in parts:
            part = parts[name]
            lines += ["", f"## {TITLES.get(name, name)}: {part.state}, {part.seconds:.0f} s", ""]
            lines += [f"- {line}" for line in part.lines]
            lines += ["", *part.table] if part.table else []
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
