"""Everything that needs a GPU, in one command, what matters most first.

    pip install -e . --no-build-isolation                  # once; builds ntensor._cuda with nvcc
    python benchmarks/gpu_check.py --out build/gpu         # for nine minutes
    python benchmarks/gpu_check.py --out build/gpu         # goes on where the first call stopped
    python benchmarks/gpu_check.py --list                  # the steps, without a GPU

In order: what was built; every operation by every backend in every dtype against float64; the rows
of the benchmark that matter most, beside their rivals; the tests of a GPU; all other rows;
compute-sanitizer. After each step `results.jsonl` in DIR has its outcome, and `summary.md` and the
CSV files are made of that anew, so that a call which is cut loses the step at hand alone. The next
one leaves out what has passed and repeats last what did not pass. Results of another tree, device
or version are moved into a folder of their own. `log.txt` has all that was printed. Nothing is
installed, and no network is needed.
Exit code: 0 if all steps that were asked for passed or cannot run here; 1 if one did not pass or
was not reached; 2 without a GPU. A speed that was not reached is in the summary and leaves the exit
code as it is.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from gpu import summary
from gpu.execution import Execution
from gpu.programs import Shell
from gpu.results import InUse, Results
from gpu.session import Session
from gpu.step import NOT_RUN, PASSED, Step
from harness.options import ROOT

BUILD = [sys.executable, "setup.py", "build_ext", "--inplace"]
BUILD_SECONDS = 420.0
DEVICE, NO_GPU = "cuda", 2
# What a result depends on.
FOLDERS = ("benchmarks", "csrc", "ntensor", "tests")
SUFFIXES = (".c", ".cpp", ".cu", ".cuh", ".h", ".py", ".so")
LEFT_OUT = ("ntensor/faces", "tests/faces")


def main(argv: list[str] | None = None) -> int:
    start = time.monotonic()
    options = parse(argv)
    sys.path.insert(0, str(ROOT))
    from gpu.steps import all_steps

    steps = all_steps(options.workers)
    chosen = [step for step in steps if is_wanted(step, options.only)]
    if options.list:
        print("\n".join(f"{step.seconds:6.0f} s  {step.section}: {step.name}" for step in chosen))
        return 0
    from harness.device import missing_device

    if reason := missing_device(DEVICE):
        print(reason)
        return NO_GPU
    options.out.mkdir(parents=True, exist_ok=True)
    # The end by a shell's `timeout` is that by Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with (options.out / "log.txt").open("a") as log:
        if options.build:
            build(Shell(log))
        try:
            results = Results(options.out, subject())
        except InUse as error:
            print(f"error: {error}")
            return 1
        if results.moved:
            print(f"begun anew: {results.moved}")
        execution = Execution(log, DEVICE, options.workers)
        session = Session(
            steps,
            results,
            execution,
            time.monotonic,
            60 * options.minutes - (time.monotonic() - start),
            workers=options.workers,
            rest=execution.rest,
            stop=execution.stop,
            say=lambda line: print(line, flush=True),
        )
        try:
            session.run(chosen)
        except KeyboardInterrupt:
            print("interrupted")
        finally:
            execution.stop()
            results.close()
    print(f"{summary.verdict(steps, results.outcomes)}\nwritten: {options.out / 'summary.md'}")
    return int(any(session.state(step) not in (PASSED, NOT_RUN) for step in chosen))


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the results")
    parser.add_argument(
        "--minutes", type=float, default=9.0, help="how long it may take (default: 9)"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="TEXT",
        help="only steps with one of the texts in their section or name, in any case of letters",
    )
    parser.add_argument("--list", action="store_true", help="print the steps and their estimates")
    parser.add_argument(
        "--build",
        action="store_true",
        help=f"first build the compiled modules beside the sources: {shlex.join(BUILD[1:])}",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=max(1, min(8, (os.cpu_count() or 1) // 2)),
        help="processes that check and test at the same time, since most of the time goes into "
        "compiling kernels (default: half the processors, at most 8); timed steps run alone",
    )
    options = parser.parse_args(argv)
    if options.minutes <= 0 or options.workers < 1:
        wanted = "--minutes above 0 and --workers of at least 1"
        parser.error(f"wanted {wanted}, got {options.minutes:g} and {options.workers}")
    if not options.list and options.out is None:
        parser.error("--out DIR is needed, the folder of the results")
    options.out = options.out and options.out.resolve()
    return options


def is_wanted(step: Step, texts: Sequence[str] | None) -> bool:
    where = f"{step.section}: {step.name}".lower()
    return not texts or any(text.lower() in where for text in texts)


def build(shell: Shell) -> None:
    """Builds what nvcc and the C++ compiler can build, beside the sources."""
    print(f"build: {shlex.join(BUILD)}", flush=True)
    run = shell.run(BUILD, BUILD_SECONDS)
    if run.code != 0:
        state = "not finished" if run.code is None else f"ended with {run.code}"
        print(f"build: {state}", *run.output.strip().splitlines()[-10:], sep="\n  ")


def subject() -> dict[str, object]:
    """What the results are of."""
    import torch

    from harness.machine import describe

    wanted = ("date", "commit", "device", "capability", "driver", "cuda", "torch", "triton")
    described = describe(os.cpu_count() or 1, torch.device("cuda", torch.cuda.current_device()))
    names = (*wanted, "ntensor", "python", "system")
    return {"tree": tree(ROOT)} | {name: described[name] for name in names}


def tree(root: Path) -> str:
    """A short hash of the sources and of what was built of them."""
    key = hashlib.sha256()
    for path in sorted(path for folder in FOLDERS for path in (root / folder).rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.suffix in SUFFIXES and not name.startswith(LEFT_OUT) and path.is_file():
            key.update(f"{name}\0".encode() + path.read_bytes())
    return key.hexdigest()[:12]


if __name__ == "__main__":
    sys.exit(main())
