"""What the compiler made of the CUDA kernels, read from the built module: registers, spills, shared
memory, and the instructions of tensor cores and of asynchronous copies."""

import collections
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from kernel_counts import BY_NVCC, name_of, note

TENSOR_CORES = re.compile(r"\b[HD]MMA\b")
TILES = ("project_tiles", "factor_grad_tiles", "core_grad_tiles")
THREADS_OF_A_TILE = 256
REGISTERS_OF_A_MULTIPROCESSOR = 65536


def program(name):
    """The binary tool of the toolkit, or that which Triton brings."""
    if found := shutil.which(name):
        return found
    triton = pytest.importorskip("triton", reason=f"no {name}: neither the toolkit nor Triton")
    path = Path(triton.__file__).parent / "backends/nvidia/bin" / name
    if not path.is_file():
        pytest.skip(f"no {name}: neither the toolkit nor Triton brings it")
    return str(path)


@pytest.fixture(scope="module")
def built():
    """`ntensor._cuda`; without it a skip, but in CI a failure where nvcc could have built it."""
    try:
        from ntensor import _cuda
    except ImportError as error:
        reason = f"ntensor._cuda was not built (python -m ntensor.info says why): {error}"
        if os.environ.get("CI") and shutil.which("nvcc"):
            pytest.fail(reason)
        pytest.skip(reason)
    return _cuda


def read(tool, option, library):
    tool = program(tool)
    path = f"{Path(tool).parent}:{Path(program('nvdisasm')).parent}:/usr/bin:/bin"
    done = subprocess.run(
        [tool, option, library.__file__], capture_output=True, text=True, env={"PATH": path}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def usage(built):
    """(architecture, mangled name) -> {"REG": registers, "STACK": bytes, ...}"""
    found, architecture, function = {}, None, None
    for line in read("cuobjdump", "-res-usage", built).splitlines():
        if match := re.match(r"arch = (\w+)", line):
            architecture = match[1]
        elif match := re.match(r" *Function (\w+):", line):
            function = match[1]
        elif "REG:" in line:
            numbers = re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", line)
            found[architecture, function] = {key: int(value) for key, value in numbers}
            note(BY_NVCC.format(architecture), name_of(function), function)
    return found


def test_nothing_spills(usage):
    """A kernel that spilled would use its stack or local memory, on the default architectures."""
    bounded = {key: numbers for key, numbers in usage.items() if key[0] in ("sm_80", "sm_90a")}
    if not bounded:
        pytest.skip(f"built for {', '.join(sorted({key[0] for key in usage}))} alone")
    assert not {key for key, numbers in bounded.items() if numbers["STACK"] or numbers["LOCAL"]}


def test_a_block_of_a_tile_fits(usage):
    """One block of the wide tiles, two of those for few samples in half precision."""
    seen = collections.Counter()
    for (architecture, name), numbers in usage.items():
        kernel = name_of(name)
        if kernel not in TILES:
            continue
        seen[architecture, kernel] += 1
        narrow_half = "HalfI" in name and "Li16E" in name
        blocks = 2 if narrow_half or kernel == "core_grad_tiles" else 1
        assert numbers["REG"] * THREADS_OF_A_TILE * blocks <= REGISTERS_OF_A_MULTIPROCESSOR, name
    architectures = {architecture for architecture, _ in usage}
    for architecture in architectures:
        counts = [seen[architecture, kernel] for kernel in TILES]
        assert counts == [20, 10, 5]


def test_tensor_cores_and_asynchronous_copies(built):
    """Every tile kernel of every architecture has both."""
    kinds = collections.defaultdict(set)
    architecture = function = None
    for line in read("cuobjdump", "-sass", built).splitlines():
        if match := re.match(r"arch = (\w+)", line):
            architecture = match[1]
        elif match := re.match(r"\s*Function : (\w+)", line):
            function = (architecture, match[1])
        elif TENSOR_CORES.search(line):
            kinds[function].add("tensor cores")
        elif "LDGSTS" in line:
            kinds[function].add("asynchronous copies")
    tiles = [function for function in kinds if name_of(function[1]) in TILES]
    assert len(tiles) >= 35
    for function in tiles:
        assert kinds[function] == {"tensor cores", "asynchronous copies"}, function
