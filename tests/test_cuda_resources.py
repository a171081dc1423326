"""What the compiler made of the CUDA kernels: registers, spills, and the instructions of tensor
cores and of asynchronous copies."""

import collections
import os
import re
import shutil

import pytest

import cuda_resources
from kernel_counts import BY_NVCC, name_of, note

TILES = ("project_tiles", "factor_grad_tiles", "core_grad_tiles")
THREADS_OF_A_TILE = 256
REGISTERS_OF_A_MULTIPROCESSOR = 65536
WIDE_WITH_MEAN = re.compile(r"Li(32|64)ELb1E")


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
    for tool in ("cuobjdump", "nvdisasm"):
        if cuda_resources.program(tool) is None:
            pytest.skip(f"no {tool}: neither the toolkit nor Triton brings it")
    return _cuda


@pytest.fixture(scope="module")
def usage(built):
    found = cuda_resources.usage(built)
    for architecture, name in found:
        note(BY_NVCC.format(architecture), name_of(name), name)
    return found


def test_nothing_spills(usage):
    """A kernel that spilled would use its stack or local memory, on the default architectures."""
    bounded = {key: numbers for key, numbers in usage.items() if key[0] in ("sm_80", "sm_90a")}
    if not bounded:
        pytest.skip(f"built for {', '.join(sorted({key[0] for key in usage}))} alone")
    assert not {key for key, numbers in bounded.items() if numbers["STACK"] or numbers["LOCAL"]}


def test_blocks_of_a_tile_fit(usage):
    """Two of a multiprocessor; one of the wide tiles with both outputs in float32 and float64."""
    seen = collections.Counter()
    for (architecture, name), numbers in usage.items():
        kernel = name_of(name)
        if kernel not in TILES:
            continue
        seen[architecture, kernel] += 1
        exact = "FloatILb1E" in name or "Double" in name
        blocks = 1 if kernel == "project_tiles" and exact and WIDE_WITH_MEAN.search(name) else 2
        assert numbers["REG"] * THREADS_OF_A_TILE * blocks <= REGISTERS_OF_A_MULTIPROCESSOR, name
    for architecture in {architecture for architecture, _ in usage}:
        assert [seen[architecture, kernel] for kernel in TILES] == [20, 10, 8]


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_tensor_cores_and_asynchronous_copies(built, usage, every):
    """Every tile kernel of every architecture, or of the newest, has both, and no kernel has local
    memory."""
    newest = max({architecture for architecture, _ in usage}, key=lambda name: (len(name), name))
    code = cuda_resources.code(built, *([] if every else [newest]))
    assert newest in {instance.architecture for instance in code}
    tiles = [instance for instance in code if name_of(instance.name) in TILES]
    assert len(tiles) >= 38
    for instance in tiles:
        assert code[instance].tensor_core > 0, instance
        assert code[instance].copies > 0, instance
    assert not [instance for instance, found in code.items() if found.local]
