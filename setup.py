"""Builds the compiled core of ntensor with CMake and Ninja.

Build variables, all optional, read from the environment:

| variable | values | meaning |
|---|---|---|
| `CXX` | command | the C++20 compiler (GCC or clang); default: the first found by CMake |
| `CXXFLAGS` | flags | added to every compilation |
| `CMAKE_ARGS` | arguments | added to the call of CMake |
| `MAX_JOBS` | number from 1 | compilations at the same time; default: one a core |
| `NTENSOR_BUILD_TYPE` | `Release`, `RelWithDebInfo`, `Debug` | default: `Release` |
| `NTENSOR_OPENMP` | `auto`, `on`, `off` | OpenMP, or `std::thread` without it; default: `auto` |
| `NTENSOR_SANITIZE` | e.g. `address,undefined` | compile with sanitizers; default: none |
| `NTENSOR_SIMD_LEVELS` | e.g. `all;emulated` | default: `all`; `emulated` is for tests |
| `NTENSOR_CUDA` | `auto`, `on`, `off` | CUDA kernels; `auto`: where nvcc >= 12.4 compiles them |
| `NTENSOR_CUDA_ARCHITECTURES` | e.g. `90a-real;120` | default: the GPUs' here, else `80;90a-real` |
| `CUDACXX` | command | nvcc; default: the one on PATH |

The CMake folder under `build/` is kept, one for each Python version, build type and set of
sanitizers, so a second build compiles only what has changed.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import setuptools
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
COMPILERS = ("c++", "g++", "clang++")
BUILD_TYPES = ("Release", "RelWithDebInfo", "Debug")
SWITCH = ("auto", "on", "off")
SANITIZERS = ("address", "leak", "memory", "thread", "undefined")
SIMD_LEVELS = ("all", "portable", "avx2", "avx512", "avx512bf16", "emulated")


def stop(sentence: str) -> SystemExit:
    """The end of a build for a reason that the user can mend."""
    return SystemExit(f"\nntensor: {sentence}\n")


def find_tool(name: str, folder: str) -> str | None:
    """The program `name` from its Python package (constant `folder` of it), else from PATH."""
    if importlib.util.find_spec(name) is not None:
        path = Path(getattr(importlib.import_module(name), folder, ""), name)
        if path.is_file():
            return str(path)
    return shutil.which(name)


def check_build_requirements() -> None:
    """Names what `pip install --no-build-isolation` would lack; an isolated build has it all."""
    missing = []
    version = importlib.metadata.version("setuptools")
    if int(version.partition(".")[0]) < 77:
        missing.append(f"setuptools>=77 (here: {version})")
    if importlib.util.find_spec("pybind11") is None:
        missing.append("pybind11")
    if find_tool("cmake", "CMAKE_BIN_DIR") is None:
        missing.append("cmake")
    if find_tool("ninja", "BIN_DIR") is None:
        missing.append("ninja")
    if missing:
        raise stop(
            f"the build lacks {', '.join(missing)}. Install with\n"
            "    pip install 'setuptools>=77' pybind11 cmake ninja\n"
            "or leave out --no-build-isolation, and pip brings them."
        )


def one_of(name: str, values: tuple[str, ...]) -> str:
    """The value of the variable `name`; the first of `values` where it is not set."""
    value = os.environ.get(name) or values[0]
    if value not in values:
        raise stop(f"{name} must be one of {', '.join(values)}, got {value!r}.")
    return value


def some_of(name: str, values: tuple[str, ...], between: str) -> None:
    """Checks a variable that names several of `values`."""
    for part in filter(None, os.environ.get(name, "").split(between)):
        if part not in values:
            raise stop(
                f"{name} must be of {', '.join(values)}, divided by {between!r}, got {part!r}."
            )


def words(name: str) -> list[str]:
    """The variable `name`, divided as a shell does."""
    try:
        return shlex.split(os.environ.get(name, ""))
    except ValueError as error:
        raise stop(f"{name} cannot be divided into words ({error}).") from error


def jobs() -> str:
    """How many compilations run at the same time."""
    value = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
    if re.fullmatch(r"[0-9]+", value) is None or int(value) == 0:
        raise stop(f"MAX_JOBS must be a whole number of at least 1, got {value!r}.")
    return value


def check_variables() -> None:
    """Stops with one sentence where a build variable has a value that means nothing."""
    one_of("NTENSOR_BUILD_TYPE", BUILD_TYPES)
    one_of("NTENSOR_OPENMP", SWITCH)
    some_of("NTENSOR_SANITIZE", SANITIZERS, ",")
    some_of("NTENSOR_SIMD_LEVELS", SIMD_LEVELS, ";")
    jobs()
    for name in ("CMAKE_ARGS", "CXXFLAGS"):
        words(name)
    wanted = os.environ.get("NTENSOR_CUDA_ARCHITECTURES", "")
    for part in filter(None, wanted.split(";")):
        if re.fullmatch(r"[0-9]+[af]?(-real|-virtual)?", part) is None:
            raise stop(
                "NTENSOR_CUDA_ARCHITECTURES must be like 90a-real;120, divided by ';', "
                f"got {part!r}."
            )
    nvcc = os.environ.get("CUDACXX", "")
    if one_of("NTENSOR_CUDA", SWITCH) != "off" and nvcc and shutil.which(nvcc) is None:
        raise stop(
            f"nvcc named by CUDACXX, {nvcc!r}, does not exist; set CUDACXX to nvcc of CUDA 12.4 or "
            "later, or unset it."
        )


def check_compiler() -> None:
    """Stops with one sentence where CMake would print forty lines."""
    named = words("CXX")
    if named and shutil.which(named[0]) is None:
        raise stop(
            f"the C++ compiler named by CXX, {named[0]!r}, does not exist; "
            "set CXX to GCC or clang with C++20, or unset it."
        )
    if not named and not any(map(shutil.which, COMPILERS)):
        raise stop(
            f"no C++ compiler was found (none of {', '.join(COMPILERS)} is on PATH); "
            "install GCC or clang with C++20, for example with 'apt install g++', or set CXX."
        )
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        raise stop(
            "the headers of Python are missing; install them, for example with "
            "'apt install python3-dev'."
        )


class CMakeExtension(setuptools.Extension):
    """An extension module whose sources CMake knows."""

    def __init__(self, name: str, optional: bool = False) -> None:
        super().__init__(name, sources=[], optional=optional)


class BuildWithCMake(build_ext):
    """Configures, compiles and copies the modules to where setuptools wants them.

    An editable install wants them beside the package's Python files. Where the CUDA kernels cannot
    be compiled, the build goes on without them and notes the reason in `ntensor._cpu`.
    """

    def build_extensions(self) -> None:
        check_variables()
        check_compiler()
        cmake = find_tool("cmake", "CMAKE_BIN_DIR")
        folder = self.cmake_folder()
        wish = one_of("NTENSOR_CUDA", SWITCH)
        self.configure(cmake, folder, [f"-DNTENSOR_CUDA={wish}"])
        if "_cuda" in self.modules(folder):
            status = self.compile(cmake, folder, "_cuda")
            if status and wish == "on":
                raise stop("NTENSOR_CUDA=on, but nvcc failed; its messages stand above.")
            if status:
                reason = "nvcc did not compile them when ntensor was built"
                print(f"ntensor: no CUDA kernels: {reason}; its messages stand above.", flush=True)
                no_cuda = ["-DNTENSOR_CUDA=off", f"-DNTENSOR_CUDA_REASON={reason}"]
                self.configure(cmake, folder, no_cuda)
        if self.compile(cmake, folder, "_cpu"):
            raise stop("the compiler failed; its messages stand above.")
        built = self.modules(folder)
        for ext in self.extensions:
            output = Path(self.get_ext_fullpath(ext.name))
            if ext.name.rpartition(".")[2] in built:
                output.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / output.name, output)
            elif self.editable_mode:
                (ROOT / "ntensor" / output.name).unlink(missing_ok=True)

    def modules(self, folder: Path) -> list[str]:
        """The modules that CMake was configured to build."""
        return (folder / "ntensor-modules.txt").read_text().split()

    def compile(self, cmake: str, folder: Path, target: str) -> int:
        command = [cmake, "--build", str(folder), "--target", target, "-j", jobs()]
        print("ntensor:", shlex.join(command), flush=True)
        return subprocess.call(command)

    def cmake_folder(self) -> Path:
        build_type = one_of("NTENSOR_BUILD_TYPE", BUILD_TYPES)
        parts = [sys.implementation.cache_tag, build_type, os.environ.get("NTENSOR_SANITIZE", "")]
        return ROOT / "build" / "-".join(filter(None, parts)).lower().replace(",", "-")

    def configure(self, cmake: str, folder: Path, cuda: list[str]) -> None:
        import pybind11

        # The first group decides what is built; the second moves with the virtual environments. The
        # words on CUDA may change from one configuration of a folder to the next.
        what = [
            "-S", str(ROOT / "csrc"),
            "-G", "Ninja",
            f"-DCMAKE_BUILD_TYPE={one_of('NTENSOR_BUILD_TYPE', BUILD_TYPES)}",
            f"-DNTENSOR_VERSION={self.distribution.get_version()}",
        ]  # fmt: skip
        for name in ("OPENMP", "SANITIZE", "SIMD_LEVELS", "CUDA_ARCHITECTURES"):
            if value := os.environ.get(f"NTENSOR_{name}"):
                what.append(f"-DNTENSOR_{name}={value}")
        what += words("CMAKE_ARGS")
        tools = [
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DCMAKE_MAKE_PROGRAM={find_tool('ninja', 'BIN_DIR')}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        ]

        # CMake remembers options and the compiler; when one changes, a fresh folder forgets them.
        environment = [
            f"{name}={os.environ.get(name, '')}" for name in ("CXX", "CXXFLAGS", "CUDACXX")
        ]
        environment.append(f"nvcc={shutil.which('nvcc')}")
        environment.append(f"Python={sys.base_prefix}")
        stamp = folder / "ntensor-configuration.txt"
        wanted = "\n".join([*what, *environment])
        if folder.exists() and not (stamp.is_file() and stamp.read_text() == wanted):
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        stamp.write_text(wanted)
        command = [cmake, *what, *cuda, *tools, "-B", str(folder)]
        print("ntensor:", shlex.join(command), flush=True)
        if subprocess.call(command):
            raise stop("cmake failed; its messages stand above.")


if __name__ == "__main__":
    if sys.platform == "win32":
        raise stop("Windows is not supported natively; use the Windows Subsystem for Linux (WSL).")
    check_build_requirements()
    setuptools.setup(
        ext_modules=[
            CMakeExtension("ntensor._cpu"),
            CMakeExtension("ntensor._cuda", optional=True),
        ],
        cmdclass={"build_ext": BuildWithCMake},
    )
