"""The child process of `gpu_check.py`: it does what uses the GPU, one task after another.

A task is a line of JSON on stdin, its answer a line of JSON on the descriptor that is the argument;
what is printed goes to the log. An error of CUDA stays with a process, so the parent ends one whose
task failed, and begins another.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from argparse import Namespace
from dataclasses import asdict

from gpu.step import FAILED, NOT_FINISHED, NOT_RUN, PASSED, Outcome
from harness import options
from harness.cases import Case


def look(device: str) -> Outcome:
    """What was built, and whether the backends can serve the device in each dtype."""
    import torch

    from gpu.correctness import DTYPES
    from ntensor import backends

    wanted = ("native", "triton") if device != "cpu" else ("native",)
    reasons = {
        f"{backend}: {reason}": None
        for backend in wanted
        for dtype in DTYPES
        if (
            reason := backends.why_not(
                backend, "synthesis_projection", torch.device(device), getattr(torch, dtype)
            )
        )
    }
    return Outcome(FAILED if reasons else PASSED, [*reasons, *_built()])


def _built() -> list[str]:
    from ntensor.backends.native.gpu import cuda_module

    try:
        module = cuda_module()
    except ImportError:
        return []
    version = module.runtime_version()
    cuda = f"{version // 1000}.{version % 1000 // 10}"
    return [f"ntensor._cuda for sm_{module.architectures()}, by CUDA {cuda}"]


def check(operation: str, case: str, backend: str, dtype: str, device: str) -> Outcome:
    """One call against its definition."""
    import torch

    from gpu import correctness

    where = torch.device(device)
    call = correctness.call_named(operation, case)
    if reason := correctness.why_not(call, backend, dtype, where):
        return Outcome(NOT_RUN, [reason])
    rows = correctness.check(call, backend, dtype, where)
    wrong = [
        f"wrong: {case}, {row['result']}: error {row['error']:.1e}"
        for row in rows
        if row["status"] != "right"
    ]
    return Outcome(FAILED if wrong else PASSED, wrong, rows)


def bench(suite: str, case: dict, seconds: float, device: str, methods: list | None) -> Outcome:
    """One case of a script of the benchmarks, all its methods."""
    import importlib

    from harness.report import record, target_lines
    from harness.runner import run

    script = importlib.import_module(suite)
    wanted = Case(**{**case, "shape": script.SHAPES[case["shape"]]})
    given = Namespace(
        device=device,
        threads=len(os.sched_getaffinity(0)),
        seconds=1.0,
        repeats=None,
        budget=seconds,
        quick=False,
        methods=methods,
        backend=["native", "triton"] if device != "cpu" else ["auto"],
    )
    result = run([wanted], script.suite(), given)
    lines = [line.strip() for line in target_lines(result)]
    lines += [
        f"{row.method.name}: {row.status}"
        for row in result.rows
        if row.status and not row.status.startswith("left out")
    ]
    rows = [{**record(row), **result.machine} for row in result.rows]
    if result.unreached:
        return Outcome(NOT_FINISHED, lines, rows)
    return Outcome(FAILED if result.exit_code else PASSED, lines, rows)


TASKS = {"look": look, "check": check, "bench": bench}


def do(task: dict) -> Outcome:
    try:
        return TASKS[task["kind"]](**task["arguments"])
    except Exception as error:
        traceback.print_exc()
        first = str(error).partition("\n")[0]
        return Outcome(FAILED, [f"{type(error).__name__}: {first}"])


def main() -> int:
    answers = os.fdopen(int(sys.argv[1]), "w")
    options.prepare_process(
        Namespace(threads=int(sys.argv[2]) or None, huge_pages=False, allocator=None)
    )
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(asdict(do(json.loads(line)))), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
