"""Variables that a build or a call reads: a value that means nothing is one sentence."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ntensor.backends.native import memory
from ntensor.faces.common.errors import ConfigurationError
from ntensor.faces.training.processes import Processes

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def setup():
    spec = importlib.util.spec_from_file_location("ntensor_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


WRONG = {
    "NTENSOR_BUILD_TYPE": ["Fast", "release", "MinSizeRel", " "],
    "NTENSOR_OPENMP": ["yes", "ON", "1"],
    "NTENSOR_CUDA": ["yes", "OFF", "0"],
    "NTENSOR_SANITIZE": ["adress", "address;undefined", "address, undefined"],
    "NTENSOR_SIMD_LEVELS": ["avx", "all,emulated", "AVX2"],
    "NTENSOR_CUDA_ARCHITECTURES": ["sm_90", "90,120", "real", "90-fast"],
    "MAX_JOBS": ["x", "0", "00", "-1", "1.5", "1e3", " 2", "²"],
    "CMAKE_ARGS": ["'-DX=1"],
    "CXXFLAGS": ["-O2 '"],
    "CUDACXX": ["/nonexistent/nvcc"],
}
RIGHT = {
    "NTENSOR_BUILD_TYPE": ["", "Release", "RelWithDebInfo", "Debug"],
    "NTENSOR_OPENMP": ["", "auto", "on", "off"],
    "NTENSOR_CUDA": ["", "auto", "on", "off"],
    "NTENSOR_SANITIZE": ["", "address", "address,undefined", "thread"],
    "NTENSOR_SIMD_LEVELS": ["", "all", "all;emulated", "portable;avx2"],
    "NTENSOR_CUDA_ARCHITECTURES": ["", "90a-real;120", "80;90a-real", "100f"],
    "MAX_JOBS": ["", "1", "64"],
    "CMAKE_ARGS": ["", "-DX='a b' -DY=1"],
    "CXXFLAGS": ["", "-march=native"],
    "CUDACXX": ["", sys.executable],
}


def pairs(values):
    return [(name, value) for name, found in values.items() for value in found]


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in (*WRONG, "CXX"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("name", "value"), pairs(WRONG))
def test_a_wrong_value_is_named(setup, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as caught:
        setup.check_variables()
    (sentence,) = str(caught.value).strip().splitlines()
    assert sentence.startswith("ntensor: ") and name in sentence


@pytest.mark.parametrize(("name", "value"), pairs(RIGHT))
def test_a_right_value_is_taken(setup, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    setup.check_variables()


def test_a_missing_nvcc_where_none_is_wanted(setup, monkeypatch):
    monkeypatch.setenv("CUDACXX", "/nonexistent/nvcc")
    monkeypatch.setenv("NTENSOR_CUDA", "off")
    setup.check_variables()


def test_the_compiler_is_named(setup, monkeypatch):
    for value in ("/nonexistent", "'g++"):
        monkeypatch.setenv("CXX", value)
        with pytest.raises(SystemExit, match="CXX"):
            setup.check_compiler()


def test_a_build_stops_before_anything_else(tmp_path):
    for name in ("pybind11", "cmake", "ninja"):
        pytest.importorskip(name, reason="a build in this environment needs it")
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(tmp_path)],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "NTENSOR_BUILD_TYPE": "Fast"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    wanted = (
        "ntensor: NTENSOR_BUILD_TYPE must be one of Release, RelWithDebInfo, Debug, got 'Fast'."
    )
    assert done.stderr.strip() == wanted
    assert list(tmp_path.iterdir()) == []


def test_huge_pages(monkeypatch):
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: False)
    monkeypatch.setenv("NTENSOR_KEPT_MEMORY", "0")
    shape = (memory.HUGE_BYTES // 4,)
    for value in ("", "0", "1"):
        monkeypatch.setenv("NTENSOR_HUGE_PAGES", value)
        memory.new_result(shape, torch.empty(0))
    for value in ("yes", "off", "2"):
        monkeypatch.setenv("NTENSOR_HUGE_PAGES", value)
        with pytest.raises(RuntimeError, match="NTENSOR_HUGE_PAGES: wanted 0 or 1, got"):
            memory.new_result(shape, torch.empty(0))


@pytest.mark.parametrize("name", ["WORLD_SIZE", "RANK"])
@pytest.mark.parametrize("value", ["x", "-1", "1.5"])
def test_numbers_of_torchrun(monkeypatch, name, value):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=f"{name} in the environment must be a number"):
        Processes(torch.device("cpu"))
