"""What is installed and what serves each operation: `python -m ntensor.info`, or with `--json`.

With `--explain OPERATION` it says how the compiled core for CPUs would compute a projection of the
sizes that are given.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import platform
import signal
from pathlib import Path
from typing import Any

import torch

import ntensor
from ntensor import backends
from ntensor.backends import DTYPES
from ntensor.backends.native import levels, ways
from ntensor.backends.native.library import DTYPES as DTYPE_NUMBERS
from ntensor.backends.native.library import (
    MULTIPLY_ADDS_A_THREAD,
    cpu_module,
    in_order,
    kernel_order,
    simd_level,
    threads_for,
)
from ntensor.ops.operation import OPERATIONS

ENVIRONMENT = (
    "NTENSOR_SIMD",
    "NTENSOR_HUGE_PAGES",
    "NTENSOR_KEPT_MEMORY",
    "OMP_NUM_THREADS",
    "THP_MEM_ALLOC_ENABLE",
    "TRITON_INTERPRET",
)


_NAMES = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}


def collect() -> dict[str, Any]:
    """Everything that the command prints, ready for `json.dumps`.

    Returns:
        dict: `versions`; `compiled_core` (how `ntensor._cpu` was built and what it runs at, or the
        `error` that kept it from loading); `threads`; `kept_memory` (of `ntensor.kept_memory`);
        `environment` (the variables that are set);
        `automatic_choice`: device -> the order in which backends are asked;
        `operations`: device -> operation -> backend -> "ready", or the reason why not.

    Example:
        >>> import ntensor.info
        >>> ntensor.info.collect()["operations"]["cpu"]["synthesis"]["reference"]
        'ready'
    """
    return {
        "versions": _versions(),
        "compiled_core": _compiled_core(),
        "threads": torch.get_num_threads(),
        "kept_memory": _kept_memory(),
        "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
        "automatic_choice": {
            str(device): ", then ".join(backends.order(device)) for device in _devices()
        },
        "operations": {
            str(device): {
                operation: {
                    backend: _status(backend, operation, device) for backend in backends.BACKENDS
                }
                for operation in OPERATIONS
            }
            for device in _devices()
        },
    }


def _versions() -> dict[str, str]:
    versions = {
        "ntensor": ntensor.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    for package in ("numpy", "triton"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def _compiled_core() -> dict[str, Any]:
    try:
        module = cpu_module()
    except ImportError as error:
        return {"error": f"{error} (pip install -e . builds it)"}
    build: dict[str, Any] = json.loads(module.build_info())
    if build["version"] != ntensor.__version__:
        build["warning"] = (
            f"built for ntensor {build['version']}, but the package is {ntensor.__version__}: "
            "build again"
        )
    try:
        level = simd_level()
    except RuntimeError as error:
        level = f"none: {error}"
    return {
        **build,
        "file": module.__file__,
        "levels_of_this_processor": module.simd_levels(),
        "level_in_use": level,
        "openmp_runtimes": _openmp_runtimes(),
    }


def _openmp_runtimes() -> list[str]:
    """The OpenMP libraries of this process; more than one means threads that compete."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return []
    files = {line.split()[-1] for line in maps.read_text().splitlines() if "/lib" in line}
    names = ("libgomp", "libomp", "libiomp")
    return sorted(file for file in files if Path(file).name.startswith(names))


def _kept_memory() -> str:
    try:
        used, free, most = ntensor.kept_memory()
    except RuntimeError as error:
        return str(error)
    bound = "as much as was in use" if most is None else f"{most} bytes"
    return f"{used} bytes in use, {free} free, at most {bound}"


def _devices() -> list[torch.device]:
    gpus = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    return [torch.device("cpu"), *(torch.device("cuda", index) for index in gpus)]


def _status(backend: str, operation: str, device: torch.device) -> str:
    """ "ready", one reason, or for each dtype that is not served its own."""
    stem = OPERATIONS[operation].stem
    reasons = {}
    for name, dtype in sorted(_NAMES.items()):
        answer = backends.ask(backend, stem, operation, device, dtype)
        reasons[name] = answer if isinstance(answer, str) else None
    distinct = set(reasons.values())
    if len(distinct) == 1:
        return distinct.pop() or "ready"
    ready = [dtype for dtype, reason in reasons.items() if reason is None]
    refused = [f"{dtype}: {reason}" for dtype, reason in reasons.items() if reason is not None]
    return "; ".join([f"ready for {', '.join(ready)}" if ready else "not ready", *refused])


def _text(facts: dict[str, Any]) -> str:
    core = facts["compiled_core"]
    lines = ["versions", *_listed(facts["versions"]), "", "compiled core (ntensor._cpu)"]
    if "error" in core:
        lines.append(f"  not loaded: {core['error']}")
    else:
        openmp = "yes" if core["openmp"] else f"no, std::thread ({core['openmp_reason']})"
        shown = {
            "file": core["file"],
            "compiler": f"{core['compiler']}, {core['build_type']}, {core['processor']}",
            "SIMD levels built": ", ".join(core["levels"]),
            "SIMD level in use": core["level_in_use"],
            "OpenMP": openmp,
            "OpenMP runtimes": ", ".join(core["openmp_runtimes"]) or "none found",
            "sanitizers": core["sanitize"] or "none",
            "CUDA kernels": "built" if core["cuda"] else core["cuda_reason"],
        }
        if "warning" in core:
            shown["warning"] = core["warning"]
        lines += _listed(shown)
    lines += ["", f"threads: {facts['threads']}", f"kept memory: {facts['kept_memory']}"]
    lines += ["", "environment", *(_listed(facts["environment"]) or ["  nothing set"])]
    lines += ["", "automatic choice", *_listed(facts["automatic_choice"])]
    for device, operations in facts["operations"].items():
        lines += ["", f"operations on {device}", *_table(operations)]
    return "\n".join(lines)


def _listed(entries: dict[str, Any]) -> list[str]:
    width = max(map(len, entries), default=0)
    return [f"  {name:{width}}  {value}" for name, value in entries.items()]


def _table(operations: dict[str, dict[str, str]]) -> list[str]:
    """One row an operation, one column a backend; the reasons stand as notes below."""
    notes: dict[str, str] = {}

    def cell(status: str) -> str:
        if status == "ready":
            return status
        return f"no [{notes.setdefault(status, str(len(notes) + 1))}]"

    rows = [["", *backends.BACKENDS]]
    rows += [[name, *map(cell, statuses.values())] for name, statuses in operations.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        padded = (f"{text:{width}}" for text, width in zip(row, widths, strict=True))
        lines.append(f"  {'  '.join(padded)}".rstrip())
    return [*lines, *(f"  [{number}] {reason}" for reason, number in notes.items())]


def explain_plans(
    operation: str, n: int, extents: tuple[int, ...], k_x: int | None, dtype: torch.dtype
) -> str:
    """How the compiled core for CPUs computes a projection of these sizes, and why.

    Args:
        operation: `synthesis_projection` or `synthesis_projection_with_mean`.
        n, extents, k_x: samples, `k_1, ..., k_M` with M at least 2, and outputs; all positive.
        dtype: of the operands.

    Returns:
        str: for the result and each gradient every candidate with its price over the cheapest one.

    Raises:
        ValueError: another operation, or sizes that are no projection's.

    Example:
        >>> import torch, ntensor.info
        >>> said = ntensor.info.explain_plans(
        ...     "synthesis_projection", 512, (512, 512), 1, torch.float32)
        >>> "1 hoisted" in said
        True
    """
    if operation not in ("synthesis_projection", "synthesis_projection_with_mean"):
        raise ValueError(
            "on a CPU, synthesis_projection and synthesis_projection_with_mean have plans, "
            f"got {operation!r}"
        )
    if k_x is None or min(n, k_x, len(extents) - 1, *extents) < 1:
        raise ValueError(
            f"wanted n, k_x and at least two extents, all positive, got n = {n}, k_x = {k_x}, "
            f"extents {extents}"
        )
    mean = operation.endswith("mean")
    extents = tuple(in_order(extents, kernel_order(extents, int(mean))))
    level, number = simd_level(), DTYPE_NUMBERS[dtype]
    threads = threads_for(n * k_x * math.prod(extents), MULTIPLY_ADDS_A_THREAD)
    sizes = levels.Sizes(level, number, n, extents, k_x, threads)
    needs = (True,) * len(extents)
    tables: dict[str, dict[str, float]] = {
        "result": {
            _way(split) + ", sample by sample" * split.few: price
            for split, price in ways.projection(sizes, mean).items()
        },
        "gradients of the factors": {
            _way(split): price
            for split, price in ways.factor_grads(sizes, True, mean, needs, True).items()
        },
        "gradient of the core": {
            _way(split): price for split, price in ways.core_grad(sizes, True, mean).items()
        },
    }
    lines = [f"{operation} on a CPU: level {level}, {threads} threads"]
    for title, table in tables.items():
        least = min(table.values())
        lines.append(f"{title}: price of each way over the cheapest, which is taken")
        lines += [f"  {price / least:8.2f}  {name}" for name, price in table.items()]
    return "\n".join(lines)


def _way(split: levels.Split) -> str:
    named = {
        levels.PRODUCT: "a plain product of torch",
        levels.MEAN_APART: "the mean output by a mean core",
        levels.MEAN_BESIDE: "the mean output by samples of its own",
    }
    hoisted = f"{split.hoisted} hoisted"
    return named.get(split, f"a projection each, {hoisted}" if split.transposed else hoisted)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m ntensor.info", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--explain", metavar="OPERATION", help="how a CPU computes one projection, and why"
    )
    parser.add_argument("--extents", type=int, nargs="+", default=(), help="k_1 ... k_M")
    parser.add_argument("--n", type=int, default=64, help="its samples")
    parser.add_argument("--k-x", type=int, help="its outputs")
    parser.add_argument("--dtype", choices=sorted(_NAMES), default="float32")
    options = parser.parse_args(argv)
    if options.explain is not None:
        sizes = options.n, tuple(options.extents), options.k_x
        try:
            print(explain_plans(options.explain, *sizes, _NAMES[options.dtype]))
        except ValueError as error:
            parser.error(str(error))
        return
    facts = collect()
    print(json.dumps(facts, indent=2) if options.json else _text(facts))


if __name__ == "__main__":
    # Where nobody reads on, as after `| head`, the command ends without a word.
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    main()
