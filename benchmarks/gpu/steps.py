"""The steps of `gpu_check.py` in order of worth."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from itertools import product

from gpu import cases
from gpu.programs import SANITIZERS
from gpu.step import Step
from harness.cases import FEATURE_SHAPES, PLAIN, ROTATIONS, Case
from harness.options import ROOT

TEST_FILES = ("test_gpu.py", "test_gpu_citizen.py", "test_gpu_large.py")
# Estimates, with what a process needs to begin: Triton compiles; a backward has more rivals.
CHECK_SECONDS = {"native": 15.0, "triton": 40.0, "reference": 15.0}
FORWARD_SECONDS, BACKWARD_SECONDS, AUTOTUNE_SECONDS = 15.0, 25.0, 150.0
TEST_SECONDS = {"test_gpu.py": 60.0, "test_gpu_citizen.py": 25.0, "test_gpu_large.py": 40.0}
SANITIZER_SECONDS = 100.0
LOOK, CHECKS, FIRST, TESTS, REST, SANITIZER = (
    "Build",
    "Correctness",
    "Benchmark, what matters most",
    "Tests",
    "Benchmark, the rest",
    "compute-sanitizer",
)


def all_steps(workers: int) -> list[Step]:
    """`workers`: the processes of a test."""
    first = [bench(case, FIRST) for case in cases.FIRST]
    names = {step.name for step in first}
    full = cases.full()
    tuned = [case for case in full if case.autotune]
    plain = [replace(case, autotune=False) for case in full]
    rest = [bench(case, REST) for case in [*plain, *rotations(), *tuned]]
    return [
        Step("build", LOOK, "look", 20.0),
        *checks(),
        *first,
        *tests(workers),
        *(step for step in rest if step.name not in names),
        *(
            Step(tool or "small calls", SANITIZER, "sanitizer", SANITIZER_SECONDS, {"tool": tool})
            for tool in ("", *SANITIZERS)
        ),
    ]


def checks() -> list[Step]:
    """Every operation by every backend in every dtype; the kernels first."""
    from gpu.correctness import BACKENDS, DTYPES, all_calls

    return [
        Step(
            f"{operation}, {backend}, {dtype}",
            CHECKS,
            "check",
            CHECK_SECONDS[backend],
            {
                "operation": operation,
                "backend": backend,
                "dtype": dtype,
                "cases": [call.case for call in calls],
            },
            table="correctness-gpu",
            beside=True,
        )
        for backends, dtypes in product((BACKENDS[:2], BACKENDS[2:]), (DTYPES[:2], DTYPES[2:]))
        for dtype, backend, (operation, calls) in product(dtypes, backends, all_calls().items())
    ]


def bench(case: Case, section: str) -> Step:
    suite = "synthesis" if case.operation == "synthesis_projection" else "rotation"
    what = [case.operation] * (suite == "rotation") + [case.layout, case.shape.name]
    what += [f"n={case.n}", case.dtype, case.pass_, "max-autotune" * case.autotune]
    seconds = BACKWARD_SECONDS if case.differentiates else FORWARD_SECONDS
    return Step(
        " ".join(filter(None, what)),
        section,
        "bench",
        AUTOTUNE_SECONDS if case.autotune else seconds,
        {"suite": suite, "case": {**asdict(case), "shape": case.shape.name}, "methods": None},
        table=f"{suite}-gpu",
    )


def rotations() -> list[Case]:
    return [
        Case(FEATURE_SHAPES["paper"], n, dtype, pass_, operation, layout)
        for n, dtype, pass_ in product((65536, 262144), cases.DTYPES, ("forward", "both"))
        for operation, layout in (*PLAIN, *ROTATIONS)
    ]


def tests(workers: int) -> list[Step]:
    """A step for each test function, with all its cases."""
    return [
        Step(
            f"{file}::{name}",
            TESTS,
            "tests",
            TEST_SECONDS[file],
            {"name": f"tests/{file}::{name}", "workers": workers},
        )
        for file in TEST_FILES
        for name in re.findall(r"^def (test_\w+)", (ROOT / "tests" / file).read_text(), re.M)
    ]
