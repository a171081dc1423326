"""What the two backends launch for a case of the benchmarks, and its machine code, made without a
GPU."""

import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import torch
import triton
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gpu_sass import Function, functions

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]

import ahead_of_time  # noqa: E402
import cuda_resources  # noqa: E402
import cuda_shim  # noqa: E402
from harness.cases import SHAPES, Case  # noqa: E402, F401
from harness.roof import Roof  # noqa: E402, F401
from kernel_counts import name_of  # noqa: E402
from ntensor.backends.triton import projection  # noqa: E402

OPS = torch.ops.ntensor
TILES = ("project_tiles", "factor_grad_tiles", "core_grad_tiles")
MAIN = (*TILES, "hoisted", "formed", "factor_grads", "core_grad")
_PRECISIONS = {"bfloat16": "Half<bfloat16>", "float32": "Float<true>"}
_HEADERS = ("halves", "projection_core_grad", "projection_factor_grads")
_ARGUMENTS = {
    "project_tiles": "ProjectionTiles",
    "factor_grad_tiles": "FactorGradTiles",
    "core_grad_tiles": "CoreGradTiles",
}


class Code(NamedTuple):
    """Machine code of a kernel; `shared` with that which is asked for at the launch."""

    function: Function
    registers: int
    shared: int


class Launch(NamedTuple):
    """`arguments`: of Triton's kernels. `moved`: bytes that a small kernel moves; `serial`: how
    many times a thread of it waits for memory, beyond the first."""

    kernel: str
    blocks: int
    threads: int
    shared: int
    code: object  # what finds the machine code: a mangled name, or a kernel of `ahead_of_time`
    arguments: dict
    moved: int = 0
    serial: int = 0


def inputs(case, device):
    """Core, incoming gradient and factors."""
    n, k_x, sizes = case.n, case.shape.out_features, case.shape.factor_sizes

    def new(*shape):
        return torch.empty(shape, dtype=getattr(torch, case.dtype), device=device)

    return new(k_x, *sizes), new(n, k_x), [new(n, k) for k in sizes]


class _TorchKernels(TorchDispatchMode):
    """Counts what torch itself would launch: the bytes that each operation reads and writes."""

    def __init__(self):
        super().__init__()
        self.moved = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.name().removeprefix("aten::").split(".")[0]
        if not (func.is_view or name.startswith(("empty", "new_empty", "detach"))):
            tensors = [each for each in tree_leaves((args, result)) if torch.is_tensor(each)]
            self.moved.append((name, sum(each.numel() * each.itemsize for each in tensors)))
        return result


def of_triton(case, capability):
    """The launches of a case in their order, torch's own after Triton's."""
    core, grad, z = inputs(case, "meta")
    call = {
        "forward": lambda: projection.synthesis_projection(core, z),
        "factor-grads": lambda: projection.projection_factor_grads(
            core, grad, None, z, [True] * len(z)
        ),
        "core-grad": lambda: projection.projection_core_grad(grad, None, z),
    }[case.pass_]
    with _TorchKernels() as others:
        found = ahead_of_time.launches(capability, call)
    ours = [
        Launch(
            one.kernel.name, _product(one.grid), 32 * one.kernel.warps, 0, one.kernel,
            one.arguments,
            sum(a.numel() * a.itemsize for a in one.arguments.values() if torch.is_tensor(a)),
        )
        for one in found
    ]  # fmt: skip
    return ours + [
        Launch(f"torch {name}", 0, 0, 0, None, {}, moved) for name, moved in others.moved
    ]


def _product(numbers):
    total = 1
    for number in numbers:
        total *= number
    return total


def triton_code(launch, capability, folder):
    kernel = launch.code
    binary, shared = ahead_of_time.machine_code(
        kernel, ahead_of_time.FUNCTIONS[kernel.name], capability
    )
    path = folder / "triton.cubin"
    path.write_bytes(binary)
    return Code(_functions(path)[kernel.name], _usage(path)[kernel.name]["REG"], shared)


def of_native(case, multiprocessors, resident):
    """The launches of a case; `resident`: mangled name -> blocks that a multiprocessor holds."""
    # Memory that nothing touches: the launches are noted and not made.
    core, grad, z = inputs(case, "cpu")
    needs = [True] * len(z)
    with cuda_shim.native_on_the_shim() as device, cuda_shim.recording(resident.items()) as found:
        device.multiprocessors = multiprocessors
        if case.pass_ == "forward":
            OPS.synthesis_projection(core, z, "native")
        elif case.pass_ == "factor-grads":
            OPS.projection_factor_grads(core, grad, None, z, needs, "native")
        else:
            OPS.projection_core_grad(grad, None, z, "native")
    return [
        Launch(name_of(one.kernel), one.blocks, one.threads, one.shared, one.kernel, {})
        for one in found
    ]


def native_code(architecture, folder):
    """Mangled name -> Code of the kernels over tiles, by nvcc; shared memory at the launch is not
    yet in it."""
    lines = [f'#include "{name}.cuh"' for name in _HEADERS] + ["namespace ntensor::cuda {"]
    for precision in _PRECISIONS.values():
        for kernel, arguments in _ARGUMENTS.items():
            for columns in ("false",) if kernel == "core_grad_tiles" else ("16", "64"):
                last = ", false" if kernel == "project_tiles" else ""
                lines.append(
                    f"template __global__ void {kernel}<{precision}, {columns}{last}>"
                    f"(const {arguments}<typename {precision}::Storage>);"
                )
    source, path = folder / "tiles.cu", folder / f"{architecture}.cubin"
    source.write_text("\n".join([*lines, "}", ""]))
    number = architecture.removeprefix("sm_")
    subprocess.run(
        ["nvcc", "-std=c++20", "-O3", "--expt-relaxed-constexpr", "-cubin", "-gencode",
         f"arch=compute_{number},code=sm_{number}", f"-I{ROOT}/csrc/cuda", "-o", path, source],
        check=True,
    )  # fmt: skip
    usage = _usage(path)
    return {
        name: Code(function, usage[name]["REG"], usage[name]["SHARED"])
        for name, function in _functions(path).items()
    }


def _functions(cubin):
    found = functions(cubin, cuda_resources.program("nvdisasm"))
    return {function.name: function for function in found}


def _usage(cubin):
    tool = cuda_resources.program("cuobjdump")
    path = f"{Path(tool).parent}:{os.environ['PATH']}"
    text = subprocess.run(
        [tool, "-res-usage", cubin], capture_output=True, text=True, check=True,
        env={**os.environ, "PATH": path},
    ).stdout  # fmt: skip
    rows = re.findall(r"Function (\w+):\s*(.*)", text)
    return {
        name: {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", numbers)}
        for name, numbers in rows
    }


@functools.cache
def compiler_of(backend):
    """What compiles its kernels, with the version that the machine code depends on."""
    if backend == "triton":
        return f"Triton {triton.__version__}"
    text = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    return "nvcc " + re.search(r"release ([\d.]+)", text)[1]


def missing():
    """The tools that are not there, in words; empty where all are."""
    found = {name: cuda_resources.program(name) for name in ("cuobjdump", "nvdisasm")}
    found["nvcc"] = shutil.which("nvcc")
    return ", ".join(name for name, path in found.items() if path is None)
