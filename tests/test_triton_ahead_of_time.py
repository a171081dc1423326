"""The Triton kernels compiled for sm_80 and sm_90 without a GPU: no spills, shared memory within
the device's limit, products on tensor cores."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernel_counts import AHEAD_OF_TIME, note

SCRIPT = Path(__file__).parent / "ahead_of_time.py"


def compiled(folder, *options, timeout):
    """The table of the script, which needs a process whose kernels are not interpreted."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    file = folder / "kernels.json"
    process = subprocess.run(
        [sys.executable, str(SCRIPT), "--json", str(file), *options],
        env=environment, capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip
    assert file.exists(), process.stderr
    table = json.loads(file.read_text())
    kernels = table["kernels"]
    for kernel in kernels:
        way = AHEAD_OF_TIME.format(table["triton"], kernel["capability"])
        note(way, kernel["kernel"], kernel["specialisation"])
    broken = [kernel for kernel in kernels if kernel["broken"]]
    assert not broken, json.dumps(broken, indent=2)
    assert process.returncode == 0, process.stderr
    return kernels


OF_PROJECTIONS = {"product", "product_grads", "hoisted", "factor_grads", "core_grad"}
KERNELS = {
    "bfloat16": OF_PROJECTIONS | {"formed"},
    "float32": OF_PROJECTIONS | {"rotate", "matrix_grad", "rotate_product", "rotate_product_grads"},
}


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("capability", "dtype"),
    [
        ("80", "float32"),
        ("90", "bfloat16"),
        pytest.param("80", "bfloat16", marks=pytest.mark.slow),
        pytest.param("90", "float32", marks=pytest.mark.slow),
    ],
)
def test_machine_code(tmp_path, capability, dtype):
    options = ("--capability", capability, "--match", f" {dtype} ")
    kernels = compiled(tmp_path, *options, timeout=800)
    assert {kernel["kernel"] for kernel in kernels} == KERNELS[dtype]
    assert {kernel["capability"] for kernel in kernels} == {int(capability)}


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
@pytest.mark.parametrize("capability", ["80", "90"])
def test_machine_code_of_every_documented_size(tmp_path, capability, dtype):
    options = ("--all", "--capability", capability, "--match", f" {dtype} ", "--jobs", "2")
    assert len(compiled(tmp_path, *options, timeout=7000)) > 50


def test_a_kernel_that_spills_is_seen():
    """The count on machine code that is known to spill, so that a zero means something."""
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
import ahead_of_time as tool
from ntensor.backends.triton import blocks
blocks.factor_grads = lambda *_: blocks.FactorGrads(128, 128, 64, 9, 1, 4, 2)
calls = list(tool.projection_calls(4096, 12288, (9, 15, 80), torch.bfloat16))
found = tool.recorded((8, 0), calls)
kernel = next(k for k in found if k.name == "factor_grads")
usage = tool.compiled(kernel, tool.FUNCTIONS[kernel.name], 80)
assert usage.spills > 0 and usage.stack > 0, usage
assert any("spills" in rule for rule in tool.broken_rules(kernel, usage, 80))
assert usage.tensor_core > 0 and usage.copies > 0, usage
"""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", code, str(SCRIPT.parent)]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, process.stderr
