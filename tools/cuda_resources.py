"""What the compiler made of the CUDA kernels, read from the built module.

    python tools/cuda_resources.py benchmarks/results/cuda_resources.csv

writes a row a kernel, instance and architecture: registers of a thread, bytes of its stack, local
loads and stores (what spills would be), bytes of static shared memory, instructions of tensor cores
and of asynchronous copies. Tiles take up to 96 KiB of dynamic shared memory beside that. Wants
`cuobjdump` and `nvdisasm`, of the CUDA toolkit or of Triton, and `c++filt`.
"""

import argparse
import collections
import csv
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

TENSOR_CORES = re.compile(r"\b[HD]MMA\b")
LOCAL = re.compile(r"\b(?:STL|LDL)\b")
COLUMNS = (
    "kernel", "architecture", "registers", "stack", "local_accesses", "static_shared",
    "tensor_core_instructions", "asynchronous_copies",
)  # fmt: skip


class Instance(NamedTuple):
    """A compiled kernel: `architecture` such as "sm_80", and its mangled name."""

    architecture: str
    name: str


class Code(NamedTuple):
    """How many instructions of a kind its machine code has."""

    tensor_core: int
    copies: int
    local: int


def program(name):
    """The path of a binary tool: that of the toolkit, or that which Triton brings; else None."""
    if found := shutil.which(name):
        return found
    triton = importlib.util.find_spec("triton")
    if triton is None:
        return None
    path = Path(triton.origin).parent / "backends/nvidia/bin" / name
    return str(path) if path.is_file() else None


def dumped(library, *options):
    """The lines of `cuobjdump`, which finds `nvdisasm` beside it or on its PATH."""
    tool, disassembler = program("cuobjdump"), program("nvdisasm")
    path = f"{Path(tool).parent}:{Path(disassembler).parent}:/usr/bin:/bin"
    done = subprocess.run(
        [tool, *options, library.__file__], capture_output=True, text=True, env={"PATH": path}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def usage(library):
    """Instance -> {"REG": registers, "STACK": bytes, "SHARED": bytes, "LOCAL": bytes}"""
    found, architecture, function = {}, None, None
    for line in dumped(library, "-res-usage"):
        if match := re.match(r"arch = (\w+)", line):
            architecture = match[1]
        elif match := re.match(r" *Function (\w+):", line):
            function = match[1]
        elif "REG:" in line:
            numbers = re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", line)
            found[Instance(architecture, function)] = {k: int(value) for k, value in numbers}
    return found


def code(library, *architectures):
    """Instance -> Code, of these architectures or of all"""
    chosen = ["-arch", ",".join(architectures)] if architectures else []
    counts, architecture, here = collections.defaultdict(collections.Counter), None, None
    for line in dumped(library, "-sass", *chosen):
        if match := re.match(r"arch = (\w+)", line):
            architecture = match[1]
        elif match := re.match(r"\s*Function : (\w+)", line):
            here = counts[Instance(architecture, match[1])]
        elif here is not None:
            here["tensor_core"] += bool(TENSOR_CORES.search(line))
            here["copies"] += "LDGSTS" in line
            here["local"] += bool(LOCAL.search(line))
    return {
        instance: Code(*(count[field] for field in Code._fields))
        for instance, count in counts.items()
    }


def readable(names):
    """Mangled name -> kernel<arguments>, without the namespace."""
    lines = subprocess.run(
        ["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True
    ).stdout.splitlines()
    short = [line.replace("ntensor::cuda::", "").removeprefix("void ") for line in lines]
    return {name: line.partition("(")[0] for name, line in zip(names, short, strict=True)}


def rows(library):
    resources, instructions = usage(library), code(library)
    names = readable(sorted({instance.name for instance in resources}))
    for instance, numbers in resources.items():
        found = instructions[instance]
        yield (
            *(names[instance.name], instance.architecture),
            *(numbers["REG"], numbers["STACK"], found.local, numbers["SHARED"]),
            *(found.tensor_core, found.copies),
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    try:
        from ntensor import _cuda
    except ImportError as error:
        sys.exit(f"ntensor._cuda was not built (python -m ntensor.info says why): {error}")
    with options.file.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(sorted(rows(_cuda)))


if __name__ == "__main__":
    main()
