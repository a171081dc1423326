"""The CUDA kernels on the CPU: `csrc/cuda` compiled by a C++ compiler against `tests/shim`.

The module has the functions of `ntensor._cuda`, on addresses of the host. Its sources are compiled
once; a change of any of them, or of the flags, compiles them again.
"""

import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from filelock import FileLock

import kernel_counts
from ntensor import backends
from ntensor.backends.native import call, gpu

ROOT = Path(__file__).resolve().parent.parent
FLAGS = [
    "-std=c++20", "-O2", "-g1", "-fPIC", "-DNTENSOR_HOST_SHIM",
    '-DNTENSOR_CUDA_ARCHITECTURES="host"', "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas",
    "-Wno-psabi",
]  # fmt: skip


def compiler():
    named = shlex.split(os.environ.get("CXX", ""))
    found = named or [name for name in ("c++", "g++", "clang++") if shutil.which(name)][:1]
    if not found:
        pytest.skip("no C++ compiler (c++, g++, clang++, CXX) for the host shim")
    return found


def module():
    """The compiled shim; `NTENSOR_SHIM_SANITIZE` names sanitizers to compile it with."""
    loaded = load()
    if isinstance(loaded, Exception):
        raise loaded
    return loaded


@functools.cache
def load():
    """The module, or why it cannot be compiled; tried once."""
    try:
        return compile_and_load()
    except (OSError, AssertionError) as error:
        return error


def compile_and_load():
    sanitizers = os.environ.get("NTENSOR_SHIM_SANITIZE", "")
    torch_include = Path(torch.__file__).parent / "include"  # brings pybind11 along
    flags = [*FLAGS, f"-I{sysconfig.get_path('include')}", f"-isystem{torch_include}"]
    if sanitizers:
        # One test runs there, most of whose time is the compiler's; -O1 warns wrongly.
        flags += [
            "-O1",
            "-Wno-maybe-uninitialized",
            f"-fsanitize={sanitizers}",
            "-fno-sanitize-recover=all",
            "-fno-omit-frame-pointer",
        ]
    # The binding takes the longest.
    sources = [ROOT / "csrc/cuda/bindings.cpp", *ROOT.glob("csrc/cuda/*.cu")]
    sources.append(ROOT / "tests/shim/checks.cpp")
    folders = ("csrc", "csrc/cuda", "csrc/math", "tests/shim")
    read = sorted(path for folder in folders for path in ROOT.glob(f"{folder}/*.*"))
    read.append(ROOT / "csrc/cpu/api.h")  # all that these include of the CPU's kernels
    key = hashlib.sha256()
    for part in [*compiler(), *flags, *(path.read_text() for path in read if path.is_file())]:
        key.update(part.encode())
    folder = ROOT / "build" / "shim" / key.hexdigest()[:16]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / "lock"):
        if not folder.is_dir():
            compile_module(sources, flags, folder)
    spec = importlib.util.spec_from_file_location("_cuda", folder / "_cuda.so")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def compile_module(sources, flags, folder):
    """Compiles in a folder of its own and renames it: what is broken off leaves none."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        work = Path(place) / "work"
        work.mkdir()
        include = [f"-I{ROOT}/tests/shim", f"-I{ROOT}/csrc/cuda"]

        def compile_one(source):
            # pybind11 wants its types hidden; kernels stay visible, so that they have names.
            hidden = ["-fvisibility=hidden"] * (source.stem == "bindings")
            target = work / f"{source.stem}.o"
            run(*flags, *hidden, *include, "-x", "c++", "-c", source, "-o", target)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(compile_one, sources))
        run(*flags, "-shared", *(work / f"{s.stem}.o" for s in sources), "-o", work / "_cuda.so")
        work.rename(folder)


def run(*arguments):
    command = [*compiler(), *map(str, arguments)]
    # A sanitizer's runtime is for the tests, not for the compiler.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stderr}"


def text_of(function, *arguments):
    """What a function of `shim/checks.cpp` returns."""
    found = getattr(ctypes.CDLL(module().__file__), function)
    found.restype = ctypes.c_char_p
    return found(*arguments).decode()


def launched():
    """How often each kernel was launched so far, by its mangled name."""
    rows = map(str.split, text_of("ntensor_shim_launched").splitlines())
    return {name: int(count) for name, count in rows}


class Launch(NamedTuple):
    """A launch that was noted instead of made; `kernel` is the mangled name."""

    kernel: str
    blocks: int
    threads: int
    shared: int


@contextlib.contextmanager
def recording(resident=()):
    """Inside, launches are noted, in the list that it gives, and not made.

    `resident`: pairs of a kernel's mangled name and of how many of its blocks a multiprocessor
    holds; of the others it holds two.
    """
    library, found = ctypes.CDLL(module().__file__), []
    for name, blocks in resident:
        library.ntensor_shim_set_resident(name.encode(), blocks)
    text_of("ntensor_shim_record", True)
    try:
        yield found
    finally:
        for line in text_of("ntensor_shim_record", False).splitlines():
            name, *numbers = line.split()
            found.append(Launch(name, *map(int, numbers)))
        library.ntensor_shim_forget_resident()


def kernels():
    """The mangled names of all instances of all kernels, run or not."""
    sources = "".join(path.read_text() for path in ROOT.glob("csrc/cuda/*.cuh"))
    stems = "|".join(re.findall(r"__global__[^;{]*?(\w+)\(const", sources))
    nm = subprocess.run(
        ["nm", "-D", "--defined-only", module().__file__],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(re.findall(rf"_ZN7ntensor4cuda\d+(?:{stems})I\w+", nm.stdout))


class Device:
    """The imagined device of a call."""

    def __init__(self):
        self.multiprocessors = 4
        self.tf32 = False

    def context(self, like):
        return 0, 0, self.tf32, self.multiprocessors


def forget_choices():
    backends.implementation.cache_clear()
    backends.shortcut.cache_clear()


@contextlib.contextmanager
def native_on_the_shim():
    """Inside, `backend="native"` on CPU tensors runs the CUDA kernels through the shim."""
    device = Device()
    patch = pytest.MonkeyPatch()
    patch.setattr(gpu, "cuda_module", module)
    patch.setattr(gpu, "call_context", device.context)
    patch.setattr(call, "runs_on_gpu", lambda like: True)
    forget_choices()
    try:
        yield device
    finally:
        patch.undo()
        forget_choices()
        for kernel in launched():
            kernel_counts.note(kernel_counts.ON_THE_SHIM, kernel_counts.name_of(kernel), kernel)
