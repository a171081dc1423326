"""Which lines and branches of the CPU kernels the tests reached, by dtype, from gcov's files.

    python tests/core_coverage.py BUILD_FOLDER

Run on the object files of a build with `CXXFLAGS=--coverage` after its tests. A line of a template
counts once for each storage type that it is compiled for, SIMD levels together. A branch counts
where an outcome of a condition is never taken at any level in any type. What is missing stands in
`UNREACHED` with its reason, or is printed as missing one.
"""

import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from ntensor import _cpu

ROOT = Path(__file__).resolve().parents[1]
LEAST = 0.98
STORAGE = re.compile(r"\b(float16|bfloat16|double|float)\b")
EXCLUDED = {"cpu/roofline.cpp": "the loops that measure the machine: no plan, no index"}
DISPATCH = "which levels there are is decided by the machine and the build"
IN_PLACE = "float16 is always widened first"
HALF = "half types are always widened first"
STRIDED = "where a factor is rotated, other types read the gradient by its strides"
HEAD = "the head of a lambda; its body is reached"
UNROLLED = "a loop of a constant number of steps"
EMPTY = "what is assigned to is empty, so that nothing is freed"
INLINED = "inlined more than once, and not each copy takes every way"
NOT_AHEAD = "the factors' gradients ask for nothing ahead"
TORCH = "left to torch's product: larger problems than are run with counters"
REFUSED = "one of the outcomes of several tests that refuse alike"
SET_UP = "direct calls are set up before the first"
UNSHARED = "a core of 8 to 24 MB beside 193 samples: in the fuzz without coverage's bound"
UNPACKED = "many rows beside a core of over 24 MB: in the fuzz without coverage's bound"
FAILURE = "torch or the interpreter fails"
INTERFACE = "torch publishes the interface as it is described here"
WORKER = "cpu/projection_factor_grads_worker.h"
# (file, part of the line): the storage types, and why no test reaches the line with them; no types:
# why an outcome of its condition is never taken.
UNREACHED: dict[tuple[str, str], tuple[str, str]] = {
    ("check.h", "require("): ("", "one of the outcomes of several tests that raise alike"),
    ("binding.h", "scratch + t * one"): ("", "every job that comes in stacks takes scratch"),
    ("binding.h", "[](const auto& use, int dtype, int64_t n, int64_t K"): ("any", HEAD),
    ("cpu/sample.h", "[&](int64_t i, int64_t p, int64_t at, int64_t count)"): ("any", HEAD),
    ("cpu/tile.h", "walk.ahead_of(begin"): ("float", NOT_AHEAD),
    ("cpu/tile.h", "__builtin_prefetch(ahead + i * a_row)"): ("float", NOT_AHEAD),
    ("cpu/tile.h", "k < in.depth"): ("", INLINED),
    ("cpu/tile.h", "k + line <= in.depth"): ("", INLINED),
    ("cpu/tile.h", "i < line; i += 4"): ("", INLINED),
    ("cpu/projection_few.h", "dot_rows<S, Rows, Samples>("): ("", INLINED),
    ("cpu/projection_few.h", "if (x_mean_) fold<"): ("", INLINED),
    ("cpu/projection_few.h", "if (plan_.is_short) return"): ("", INLINED),
    ("cpu/projection_slabs.h", "if (along_hoisted) {"): ("", INLINED),
    ("cpu/projection_slabs.h", "if (x_mean) fold("): ("", INLINED),
    ("cpu/projection_slabs.h", "c < Vectors; ++c"): ("", UNROLLED),
    ("cpu/projection_slabs.h", "i < Rows; ++i"): ("", UNROLLED),
    ("cpu/tile.h", "i < Rows; ++i"): ("", UNROLLED),
    ("cpu/tile.h", "c < Vectors; ++c"): ("", UNROLLED),
    ("cpu/tile.h", "c < lines_of_b(Ahead); ++c"): ("", UNROLLED),
    ("cpu/rows.h", "v < full; ++v"): ("", UNROLLED),
    ("cpu/rotated_pieces.h", "static_cast<const T*>(job.grad.data)"): ("bfloat16 float16", HALF),
    ("cpu/rotated_synthesis.cpp", "static_cast<const S*>(job.grad.data)"): (
        *("bfloat16 float16", HALF),
    ),
    ("cpu/rotated_synthesis.cpp", "job.grad.row_stride, job.grad.col_stride}"): (
        *("bfloat16 float16", HALF),
    ),
    ("cpu/rotated_synthesis.cpp", "widen_row<S>(job.grad, s + r, 0, K"): ("float double", STRIDED),
    ("cpu/rotated_synthesis.cpp", "continue;"): ("float double", STRIDED),
    ("cpu/rotation.cpp", "static_cast<const T*>(job."): ("bfloat16 float16", HALF),
    ("cpu/direct.cpp", "if (!plan.passes[0])"): ("", TORCH),
    ("cpu/direct_gradients.h", "if (!x_plan.passes[0])"): ("", TORCH),
    ("cpu/direct_gradients.h", "if (!core_plan.passes[0])"): ("", TORCH),
    ("cpu/direct_operands.h", "__builtin_mul_overflow(bytes"): ("", REFUSED),
    ("cpu/direct_by_torch.cpp", "|| !around"): ("", SET_UP),
    ("cpu/direct_modes.cpp", "job.find_plans("): ("", TORCH),
    ("cpu/direct_modes.cpp", "return nullptr;"): ("any", TORCH),
    ("cpu/direct_modes.cpp", "count_ < 3 || count_ > most_direct"): ("", REFUSED),
    ("cpu/direct_modes.cpp", "mode >= count_ ||"): ("", REFUSED),
    ("cpu/direct_modes.cpp", "tensor_.view.ndim != count_"): ("", REFUSED),
    ("cpu/direct_features.cpp", "R.view.shape[0] != n"): ("", REFUSED),
    ("cpu/bindings.cpp", ""): (
        *("any", "measuring of the machine, huge pages from 32 MB on, words about the build"),
    ),
    ("cpu/projection_factor_grads_plan.h", "shares_tiles = packs &&"): ("", UNSHARED),
    ("cpu/dispatch.cpp", "__builtin_cpu_supports"): ("any", DISPATCH),
    ("cpu/dispatch.cpp", "if (!level.runs_here())"): ("", DISPATCH),
    ("cpu/dispatch.cpp", "static const Available"): ("", "a static's guard: made by one thread"),
    ("cpu/dispatch.cpp", "level == nullptr"): ("", "the module always names a level"),
    ("cpu/projection_factor_grads_plan.h", "const Matrix& main_grad()"): ("float16", IN_PLACE),
    (WORKER, "= plan_.main_grad()"): ("float16", IN_PLACE),
    (WORKER, "G_row = grad.row_stride"): ("float16", IN_PLACE),
    (WORKER, "static_cast<const G_type*>"): ("float16", IN_PLACE),
    ("cpu/projection_core_grad.cpp", "% vector_bytes == 0;"): ("", "torch aligns fresh memory"),
    ("cpu/projection_slabs.h", "if (vectors == "): ("", "the widest tile alone leaves a rest"),
    (WORKER, "switch (wanted)"): ("", UNPACKED),
    (WORKER, "case "): ("float double", UNPACKED),
    (WORKER, "Prefetch::none>(in, add_each"): ("float double", UNPACKED),
    (WORKER, "Prefetch::b_two_lines>(in"): ("float double", UNPACKED),
    (WORKER, "break;"): ("float double", UNPACKED),
    ("cpu/projection_factor_grads_plan.h", "most_packed_core_bytes;"): ("", UNPACKED),
    ("cpu/direct_run.h", "catch (const std::exception&)"): ("any", FAILURE),
    ("cpu/direct_run.h", "PyErr_Clear();"): ("any", INTERFACE),
    ("cpu/direct.cpp", "PyErr_Clear();"): ("any", INTERFACE),
    ("cpu/direct.cpp", "return false;"): ("any", INTERFACE),
    ("cpu/direct.cpp", "if (!api"): ("", INTERFACE),
    ("cpu/direct.cpp", "while (api &&"): ("", INTERFACE),
    ("cpu/direct.cpp", "PyModule_AddFunctions"): ("", FAILURE),
    ("cpu/direct_modes.cpp", "PyModule_AddFunctions"): ("", FAILURE),
    ("cpu/direct_operands.h", "if (!around)"): ("", "set up where the package is imported"),
    ("cpu/direct_operands.h", "around->api->describe("): ("", FAILURE),
    ("cpu/direct_operands.h", "if (!view.strides"): ("", INTERFACE),
    ("cpu/direct_plan.h", "if (!memory)"): ("", "memory is there"),
    ("cpu/direct_plan.h", "own_ = allocate(bytes);"): ("", EMPTY),
    ("cpu/joined_grad.h", "if (last > 0) scale ="): ("", INLINED),
    ("cpu/direct_plan.h", "for (int64_t i = 0; names[i]"): ("", "only known levels are forced"),
    ("cpu/direct_plan.h", "a level that there is"): ("any", "only known levels are forced"),
    ("cpu/direct_plan.h", "static auto* const plans"): ("", "a static's guard: made with the GIL"),
    ("cpu/direct_plan.h", "plans->size() > 4096"): ("", "more sizes than one process tests"),
    ("cpu/simd.h", "switch (dtype)"): ("", "the module has checked the dtype"),
}


def reports(folder):
    """gcov's reports of the object files, but of SIMD levels that this machine cannot run."""
    levels = {f"ntensor_{level}.dir" for level in _cpu.simd_levels()} | {"ntensor_generic.dir"}
    for data in sorted(folder.rglob("*.gcda")):
        if "cpu" in data.parts and "_cpu.dir" not in data.parts and not levels & set(data.parts):
            continue
        command = ["gcov", "--json-format", "--branch-probabilities", "--stdout", str(data)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=True)
        for text in done.stdout.splitlines():
            yield json.loads(text)


def collect(folder):
    """{(file, line): {storage: count}} and {(file, line): {number of outcomes: [count each]}}."""
    lines, branches = defaultdict(lambda: defaultdict(int)), defaultdict(dict)
    for report in reports(folder):
        for file in report["files"]:
            path = (Path(report["current_working_directory"]) / file["file"]).resolve()
            if "csrc" not in path.parts:
                continue
            name = "/".join(path.parts[path.parts.index("csrc") + 1 :])
            if name in EXCLUDED:
                continue
            storage = {
                function["name"]: storage_of(function["demangled_name"])
                for function in file["functions"]
            }
            for line in file["lines"]:
                at = name, line["line_number"]
                lines[at][storage.get(line.get("function_name"), "any")] += line["count"]
                taken = [b["count"] for b in line["branches"] if not b["throw"]]
                before = branches[at].get(len(taken), [0] * len(taken))
                branches[at][len(taken)] = [x + y for x, y in zip(before, taken, strict=True)]
    return lines, branches


def storage_of(function):
    """The storage type that a function is compiled for: the first that its name holds."""
    found = STORAGE.search(function)
    return found.group(1) if found else "any"


def is_open(outcomes):
    """Whether no compiled form of a line, told apart by their outcomes, took all of its own."""
    return not any(all(counts) for counts in outcomes.values())


def main(folder):
    lines, branches = collect(folder)
    counts = [count for counts in lines.values() for count in counts.values()]
    share = sum(count > 0 for count in counts) / len(counts)
    opened = sorted(at for at, outcomes in branches.items() if is_open(outcomes))
    print(f"csrc/cpu: {share:.2%} of {len(counts)} lines by storage type, ", end="")
    print(f"{1 - len(opened) / len(branches):.2%} of {len(branches)} conditions")
    unknown = 0
    for at in sorted(lines):
        storages = [storage for storage, count in lines[at].items() if count == 0]
        what = [f"not reached ({', '.join(sorted(storages))})"] * bool(storages)
        what += ["an outcome not taken"] * (at in opened and not storages)
        text = (ROOT / "csrc" / at[0]).read_text().splitlines()[at[1] - 1].strip()
        if not what or text == "}":  # of a block: what is cleaned up where a statement raises
            continue
        reason = next(
            (
                why
                for (file, part), (types, why) in UNREACHED.items()
                if file == at[0] and part in text and set(storages) <= set(types.split())
            ),
            None,
        )
        print(f"  {at[0]}:{at[1]}: {text}\n    {what[0]}: {reason or 'NO REASON IS GIVEN'}")
        unknown += reason is None
    print(f"{unknown} of these without a reason")
    if share < LEAST:
        raise SystemExit(f"wanted {LEAST:.0%} of the lines")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
