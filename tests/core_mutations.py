"""Plants faults in the plans and the index arithmetic of the CPU kernels; the fuzz must find them.

    python tests/core_mutations.py [--only PATTERN] [--seconds 60]

Each fault is one edit of a copy of `csrc`, compiled for the level `portable` and for that which
multiplies bfloat16 in pairs, emulated where the machine has none. It is found where `fuzz.py` fails
on its fixed cases or on random ones. At least 19 of 20 must be.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LEAST = 0.95
CPU = Path("/proc/cpuinfo")
PAIRS = "avx512bf16" if CPU.exists() and "avx512_bf16" in CPU.read_text() else "emulated"


class Fault(NamedTuple):
    """An edit that the compiler accepts; `before` stands once in the file."""

    name: str
    file: str
    before: str
    after: str


PROJECTION, FEW = "cpu/projection_slabs.h", "cpu/projection_few.h"
CORE_GRAD, FACTOR_GRADS = "cpu/projection_core_grad.cpp", "cpu/projection_factor_grads_worker.h"
DIVISION, PLAN, SAMPLE, ROWS, SIMD = (
    "cpu/division.h",
    "cpu/projection_plan.h",
    "cpu/sample.h",
    "cpu/rows.h",
    "cpu/simd.h",
)
COLUMNS, JOINED, VECTORS = "cpu/columns.h", "cpu/joined_grad.h", "cpu/vectors.h"
SYNTHESIS, INDEX = "cpu/synthesis.cpp", "math/synthesis.h"
FAULTS = (
    Fault("carry", INDEX, "++prefix[m] == extents[m]", "++prefix[m] > extents[m]"),
    Fault("split by the wrong extent", INDEX, "index /= k;", "index /= extent(m - 1);"),
    Fault("segment past the end", INDEX, "room < end - p ? room : end - p", "room"),
    Fault("last slab", PLAN, "slabs = ceil_div(n, slab);", "slabs = n / slab;"),
    Fault(
        "last rows",
        PROJECTION,
        "row < last; row += plan_.row_chunk",
        "row + plan_.row_chunk <= last; row += plan_.row_chunk",
    ),
    Fault("last strip", DIVISION, "at <= last_strip", "at < max64(1, last_strip)"),
    Fault("elements left over", DIVISION, "total % threads * t / threads", "0"),
    Fault(
        "rows begun by a thread", DIVISION, "begin ? 0 : (end - at) / extent", "(end - at) / extent"
    ),
    Fault(
        "hoisted chunks",
        PROJECTION,
        "ceil_div(l_end_ - l_begin_, plan_.l_chunk)",
        "(l_end_ - l_begin_) / plan_.l_chunk",
    ),
    Fault(
        "hoisted indices of a thread",
        PROJECTION,
        "l_begin_ + l_block * plan_.l_chunk",
        "l_block * plan_.l_chunk",
    ),
    Fault("block kept going back", PROJECTION, "if (block == block_)", "if (block <= block_)"),
    Fault("samples of H", FEW, "H + (s + j) * few_l_chunk + l;", "H + s * few_l_chunk + l;"),
    Fault(
        "rows of a thread",
        FEW,
        "write_out(from, out, s, row0_, rows_)",
        "write_out(from, out, s, 0, rows_)",
    ),
    Fault(
        "second vector of samples",
        SIMD,
        "load_widened(from + (s0 + s) * m.row_stride + i)",
        "load_widened(from + s * m.row_stride + i)",
    ),
    Fault(
        "half of the lanes",
        VECTORS,
        "interleave<false>(v[i], v[i + half]) + interleave<true>(v[i], v[i + half])",
        "interleave<false>(v[i], v[i + half]) + interleave<false>(v[i], v[i + half])",
    ),
    Fault(
        "columns of a long factor", COLUMNS, "at.last + j, here, width_", "at.last, here, width_"
    ),
    Fault("columns of the block before", COLUMNS, "begins_[m] != begin", "begins_[m] < 0"),
    Fault("row begun before", SAMPLE, "part(i++, first, 0, at);", "part(i++, 0, 0, at);"),
    Fault(
        "rows run over the end",
        ROWS,
        "Part ? min64(rows, ceil_div(V - left, width)) : 0",
        "Part ? min64(rows, 1) : 0",
    ),
    Fault(
        "mean over another mode",
        JOINED,
        "static_cast<T>(extents_[1])",
        "static_cast<T>(extents_[count_ - 1])",
    ),
    Fault(
        "second block of samples",
        CORE_GRAD,
        "plan_.job.accumulate || block > 0",
        "plan_.job.accumulate",
    ),
    Fault("rows past the end", CORE_GRAD, "min64(packed_rows, last - r)", "packed_rows"),
    Fault(
        "sums of a thread",
        "cpu/projection_factor_grads.cpp",
        "int t = 1; t < threads",
        "int t = 2; t < threads",
    ),
    Fault(
        "piece of a row",
        SYNTHESIS,
        "D, p, p + count, false, scratch.dz",
        "D, 0, count, false, scratch.dz",
    ),
)


def build(work, source):
    """Compiles the copy, incrementally, and puts the module into the package beside it."""
    import pybind11  # the one who reads the faults needs none

    command = [
        *("cmake", "-S", str(source), "-B", str(work / "build"), "-G", "Ninja"),
        *("-DCMAKE_BUILD_TYPE=Debug", "-DNTENSOR_CUDA=off", "-DCMAKE_CXX_FLAGS=-O1"),
        f"-DNTENSOR_SIMD_LEVELS=portable;{PAIRS}",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        f"-DPython_EXECUTABLE={sys.executable}",
    ]
    compile_it = ["cmake", "--build", str(work / "build"), "--target", "_cpu"]
    for each in (command, compile_it):
        subprocess.run(each, check=True, stdout=subprocess.DEVNULL)
    for module in (work / "build").glob("_cpu*.so"):
        shutil.copyfile(module, work / "ntensor" / module.name)


def is_found(work, seconds):
    """Which run of the fuzz fails; None: the fault was not found."""
    environment = {**os.environ, "PYTHONPATH": str(work)}
    script = str(ROOT / "tests" / "fuzz.py")
    for arguments in (["--fixed"], ["--seconds", str(seconds)]):
        command = [sys.executable, script, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, cwd=work, text=True)
        if done.returncode:
            return arguments[0]
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="a regular expression in the fault's name")
    parser.add_argument("--seconds", type=float, default=60)
    chosen = parser.parse_args()
    faults = [fault for fault in FAULTS if re.search(chosen.only, fault.name)]
    work = Path(tempfile.mkdtemp())
    try:
        shutil.copytree(ROOT / "csrc", work / "csrc")
        leave = shutil.ignore_patterns("_c*.so", "__pycache__", "faces")
        shutil.copytree(ROOT / "ntensor", work / "ntensor", ignore=leave)
        build(work, work / "csrc")
        if by := is_found(work, 5):
            raise SystemExit(f"the fuzz fails ({by}) on the sources as they are")
        found = 0
        for fault in faults:
            path = work / "csrc" / fault.file
            text = path.read_text()
            if text.count(fault.before) != 1:
                raise SystemExit(f"{fault.name}: {fault.file} must hold {fault.before!r} once")
            path.write_text(text.replace(fault.before, fault.after))
            build(work, work / "csrc")
            by = is_found(work, chosen.seconds)
            path.write_text(text)
            found += by is not None
            print(f"{fault.name}: {'NOT FOUND' if by is None else f'found by {by}'}", flush=True)
    finally:
        shutil.rmtree(work)
    print(f"{found} of {len(faults)} planted faults found")
    if found < LEAST * len(faults):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
