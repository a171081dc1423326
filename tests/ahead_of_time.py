"""Compiles the Triton kernels without a GPU and reports what the machine code takes.

    python tests/ahead_of_time.py [--all] [--capability 80 90] [--match TEXT] [--json FILE]

Every operation runs on tensors without memory, its launches are recorded instead of made, and what
would be launched is compiled. `TRITON_INTERPRET` must be unset. `--all` takes every size and dtype
of the documentation, else a part of them. The status is 1 where a kernel breaks a rule.
"""

import argparse
import collections
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ntensor.backends.triton import projection, rotation, synthesis

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}  # bytes a block may have
TENSOR_CORES = ("HMMA", "HGMMA")
# Kernels whose products belong on tensor cores.
PRODUCTS = ("hoisted", "formed", "factor_grads", "core_grad")

PAPER_3WAY, PAPER_2WAY = (12288, (9, 15, 80)), (28125, (15, 80))
SMALL = (64, (9, 15, 80))
SAMPLES = (1, 16, 64, 256, 1024, 4096)
HALF = (torch.bfloat16, torch.float16)
POINTERS = {
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
}


class Kernel(NamedTuple):
    """One specialisation: what decides the machine code."""

    name: str
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, object], ...]
    aligned: tuple[int, ...]
    warps: int
    stages: int


class Usage(NamedTuple):
    registers: int
    stack: int
    spills: int
    shared: int
    tensor_core: int
    copies: int


def specialise(kernel, arguments, constants, warps, stages):
    """As the launcher does: an integer 1 is a constant, a multiple of 16 is known to be one, but
    for arguments that the kernel excepts."""
    signature, fixed, aligned = [], [], []
    for place, (name, value) in enumerate(zip(kernel.arg_names, arguments, strict=False)):
        if isinstance(value, torch.Tensor):
            signature.append((name, POINTERS[value.dtype]))
            aligned.append(place)
        elif kernel.params[place].do_not_specialize:
            signature.append((name, "i32"))
        elif value == 1:
            signature.append((name, "constexpr"))
            fixed.append((name, 1))
        else:
            signature.append((name, "i32" if value < 2**31 else "i64"))
            if value % 16 == 0:
                aligned.append(place)
    for name, value in constants.items():
        signature.append((name, "constexpr"))
        fixed.append((name, value))
    return Kernel(kernel.fn.__name__, tuple(signature), tuple(fixed), tuple(aligned), warps, stages)


FUNCTIONS = {}


class Launch(NamedTuple):
    """A kernel that is launched: its programs, and its arguments by name."""

    kernel: Kernel
    grid: tuple[int, ...]
    arguments: dict[str, object]


def launches(capability, call):
    """What a call on tensors without memory launches at this capability, in order."""
    found = []

    def launch(made, *arguments):
        kernel, grid, constants = made
        FUNCTIONS[kernel.fn.__name__] = kernel
        constants = dict(constants)
        warps, stages = (constants.pop(f"num_{name}") for name in ("warps", "stages"))
        named = {**dict(zip(kernel.arg_names, arguments, strict=False)), **constants}
        one = specialise(kernel, arguments, constants, warps, stages)
        found.append(Launch(one, grid, named))

    with pytest.MonkeyPatch.context() as patch:
        for module in (projection, rotation, synthesis):
            patch.setattr(module, "launch", launch)
            patch.setattr(module, "capability", lambda device: capability)
        call()
    return found


def recorded(capability, calls):
    """Kernel -> the calls that launch it, in order, at this capability."""
    found = collections.defaultdict(list)
    for name, call in calls:
        for launch in launches(capability, call):
            found[launch.kernel].append(name)
    return found


def meta(*shape, dtype):
    return torch.empty(shape, dtype=dtype, device="meta")


def projection_calls(n, k_x, sizes, dtype):
    core = meta(k_x, *sizes, dtype=dtype)
    z, g = [meta(n, k, dtype=dtype) for k in sizes], meta(n, k_x, dtype=dtype)
    all_needed = [True] * len(sizes)
    text = f"{k_x}x{'x'.join(map(str, sizes))} n={n} {str(dtype).removeprefix('torch.')}"
    yield f"projection {text}", lambda: projection.synthesis_projection(core, z)
    yield f"with mean {text}", lambda: projection.synthesis_projection_with_mean(core, z)
    for second, name in ((None, ""), (g, " both")):
        yield (
            f"factor grads{name} {text}",
            lambda second=second: projection.projection_factor_grads(
                core, g, second, z, all_needed
            ),
        )
        yield (
            f"core grad{name} {text}",
            lambda second=second: projection.projection_core_grad(g, second, z),
        )
    yield f"core grad added {text}", lambda: projection.projection_core_grad_(core, g, None, z)


def grouped_calls(groups, n, k_x, sizes, dtype):
    core = meta(groups * k_x, *sizes, dtype=dtype)
    z = [meta(groups * n, k, dtype=dtype) for k in sizes]
    g, needs = meta(groups * n, k_x, dtype=dtype), [True] * len(sizes)
    shape = "x".join(map(str, (groups, k_x, *sizes)))
    text = f"{shape} n={n} {str(dtype).removeprefix('torch.')}"
    yield f"grouped projection {text}", lambda: projection.grouped_projection(core, z, groups)
    yield (
        f"grouped factor grads {text}",
        lambda: projection.grouped_projection_factor_grads(core, g, z, groups, needs),
    )
    yield (
        f"grouped core grad {text}",
        lambda: projection.grouped_projection_core_grad(g, z, groups),
    )


def feature_calls(n, dtype):
    z, R = [meta(n, k, dtype=dtype) for k in (9, 15, 80)], meta(n, 3, 3, dtype=dtype)
    text = f"n={n} {str(dtype).removeprefix('torch.')}"
    for factors in (z, z[1:]):
        y = meta(n, 10800 if len(factors) == 3 else 1200, dtype=dtype)
        needs = [True] * len(factors)
        yield f"synthesis {text}", lambda factors=factors: synthesis.synthesis(factors)
        yield (
            f"synthesis grads {text}",
            lambda y=y, factors=factors, needs=needs: synthesis.synthesis_grads(y, factors, needs),
        )
    for layout in ("column", "row"):
        yield f"rotation {text}", lambda layout=layout: rotation.rotation(y, R, layout)
        yield (
            f"rotation grad {text}",
            lambda layout=layout: rotation.rotation_matrix_grad(y, y, layout),
        )
        yield (
            f"rotated synthesis {text}",
            lambda layout=layout: rotation.rotated_synthesis(*z[1:], R, layout),
        )
        yield (
            f"rotated grads {text}",
            lambda layout=layout: rotation.rotated_synthesis_grads(
                y, *z[1:], R, layout, [True] * 3
            ),
        )


def documented(everything):
    """The calls of the documented sizes, or a part of them."""
    if everything:
        cores = (PAPER_3WAY, PAPER_2WAY, SMALL, (512, (9, 15, 80)), (100, (7, 11, 13)))
        for dtype in (*HALF, torch.float32, torch.float64):
            for n in (*SAMPLES, 63) if dtype is not torch.float64 else (16, 64):
                for k_x, sizes in cores:
                    yield from projection_calls(n, k_x, sizes, dtype)
                for k_x, sizes in (SMALL, (8, (8, 8))):
                    yield from grouped_calls(64, n, k_x, sizes, dtype)
                yield from feature_calls(n, dtype)
        return
    for dtype in (torch.bfloat16, torch.float32):
        yield from projection_calls(64, *PAPER_3WAY, dtype)
        yield from grouped_calls(64, 64, *SMALL, dtype)
    yield from list(projection_calls(4096, *PAPER_2WAY, torch.bfloat16))[1:2]
    yield from feature_calls(4096, torch.float32)


def machine_code(kernel, function, capability):
    """The binary of a kernel at a capability, and the bytes of shared memory that it asks for."""
    source = ASTSource(
        function,
        dict(kernel.signature),
        constexprs=dict(kernel.constants),
        attrs={(place,): [["tt.divisibility", 16]] for place in kernel.aligned},
    )
    options = {
        "num_warps": kernel.warps, "num_stages": kernel.stages, "enable_fp_fusion": True,
    }  # fmt: skip
    result = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    return result.asm["cubin"], result.metadata.shared


def compiled(kernel, function, capability):
    """The resources of a kernel at a capability, read from its machine code."""
    binary, shared = machine_code(kernel, function, capability)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        usage = tool("cuobjdump", "-res-usage", file.name)
        code = tool("nvdisasm", file.name)
    fields = dict(
        field.split(":") for field in usage.split() if field.startswith(("REG:", "STACK:"))
    )
    instructions = collections.Counter(
        word.split(".")[0]
        for line in code.splitlines()
        if "/*" in line
        for word in line.replace(";", " ").split()
        if word.isascii() and word[:1].isupper()
    )
    return Usage(
        registers=int(fields["REG"]),
        stack=int(fields["STACK"]),
        spills=instructions["STL"] + instructions["LDL"],
        shared=shared,
        tensor_core=sum(instructions[name] for name in TENSOR_CORES),
        copies=instructions["LDGSTS"],
    )


def tool(name, *arguments):
    command = [str(TOOLS / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def broken_rules(kernel, usage, capability):
    if usage.spills or usage.stack:
        yield f"spills: {usage.spills} instructions, {usage.stack} bytes of stack"
    if usage.shared > SHARED_LIMIT[capability]:
        yield f"{usage.shared} bytes of shared memory, the limit is {SHARED_LIMIT[capability]}"
    double = dict(kernel.constants)["ACC"] == triton.language.float64
    if kernel.name in PRODUCTS and not double and not usage.tensor_core:
        yield "no tensor-core instruction"


def described(kernel):
    """Type, block and flags in short."""
    types = dict(kernel.signature)
    pointer = next(kind for kind in types.values() if kind.startswith("*"))
    values = {
        name: value for name, value in kernel.constants if name.isupper() and name not in SYMBOLS
    }
    block = "x".join(str(value) for name, value in values.items() if name.startswith("B"))
    flags = [name.lower() for name, value in values.items() if value is True]
    kind = values.get("PRECISION", "")
    flags += [kind] if kind not in ("", "ieee") else []
    return f"{pointer[1:]} {block} {kernel.warps}w {kernel.stages}s {' '.join(flags)}"


SYMBOLS = ("ACC", "L", "P", "U", "V", "J")


def compile_one(job):
    kernel, capability = job
    return compiled(kernel, FUNCTIONS[kernel.name], capability)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="every documented size and dtype")
    parser.add_argument("--capability", type=int, nargs="+", default=[80, 90])
    parser.add_argument("--match", default="", help="only calls whose name contains this")
    parser.add_argument("--jobs", type=int, default=1, help="processes that compile")
    parser.add_argument("--json", type=Path, help="write the table to this file")
    options = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET") == "1":
        parser.error("TRITON_INTERPRET must be unset")

    jobs, callers = [], []
    for number in options.capability:
        calls = [each for each in documented(options.all) if options.match in f" {each[0]} "]
        found = recorded((number // 10, number % 10), calls)
        jobs += [(kernel, number) for kernel in found]
        callers += found.values()
    rows, failed = [], False
    print(f"triton {triton.__version__}, {len(jobs)} kernels")
    print(
        f"{'sm':4}{'kernel':22}{'type, block, warps, stages':52}reg stack spill shared mma ldgsts"
    )
    with ProcessPoolExecutor(options.jobs) as pool:
        for (kernel, number), usage, labels in zip(
            jobs, pool.map(compile_one, jobs), callers, strict=True
        ):
            broken = list(broken_rules(kernel, usage, number))
            failed |= bool(broken)
            print(
                f"{number:<4}{kernel.name:22}{described(kernel):52}{usage.registers:3} "
                f"{usage.stack:5} {usage.spills:5} {usage.shared:6} {usage.tensor_core:3} "
                f"{usage.copies:6}{'  BROKEN: ' + '; '.join(broken) if broken else ''}",
                flush=True,
            )
            rows.append(
                {
                    "capability": number,
                    "kernel": kernel.name,
                    "block": described(kernel),
                    "specialisation": str(kernel[1:]),
                    "calls": labels,
                    "broken": broken,
                    **usage._asdict(),
                }
            )
    if options.json:
        options.json.write_text(json.dumps({"triton": triton.__version__, "kernels": rows}))
    sys.exit(failed)


if __name__ == "__main__":
    main()
