"""The cases of `synthesis.py` on a GPU."""

from __future__ import annotations

from dataclasses import replace

from harness.cases import Case, projections

SIZES = (16, 64, 256, 1024, 4096)
DTYPES = ("bfloat16", "float32")
PASSES = ("forward", "factor-grads", "core-grad", "mean", "both", "mean-both")
HALF = ("bfloat16",)

DEFAULT = projections("paper3", (64, 1024), ("forward", "both"), HALF)
# Beside those of a CPU.
QUICK = [
    *projections("quick3", (5,), ("factor-grads", "core-grad")),
    *projections("quick3", (70,), ("forward", "both", "mean-both"), HALF),
]
# What the kernels have to hold, each with its rivals; `tiny` shows what a call costs the host.
FIRST = [
    *projections("paper3", (64, 16), ("forward",), HALF),
    *projections("paper3", (64,), ("factor-grads", "core-grad"), HALF),
    *projections("paper3", (64,), ("forward",)),
    *projections("paper2", (64,), ("forward",), HALF),
    *projections("paper3", (1024,), ("forward",), HALF),
    *projections("paper3", (64,), ("factor-grads", "core-grad")),
    *projections("tiny", (4,), ("forward",)),
]


def full() -> list[Case]:
    """What the targets speak of comes first, for runs that end before the list does."""
    autotuned = [
        *projections("paper3", (64, 1024), ("mean-both",), HALF),
        *projections("paper3", (64, 1024), ("forward",), HALF),
    ]
    first = [
        *projections("paper3", (16, 64), ("forward", "factor-grads"), HALF),
        *projections("paper3", (4096,), ("forward",), HALF),
        *projections("paper3", (64, 1024, 4096), ("mean",), HALF),
        *projections("paper3", (64,), ("core-grad",), HALF),
        *projections("paper3", (16, 64), ("forward", "factor-grads")),
        *projections("paper3", (64,), ("core-grad",)),
        *projections("paper2", (64,), ("forward",), DTYPES),
        *projections("tiny", (4,), ("forward", "both")),
        *projections("paper3", (4096,), ("both",), HALF),
        *projections("paper3", (64, 1024), ("mean-both", "forward"), HALF),
    ]
    rest = [
        *projections("paper3", SIZES, PASSES, DTYPES),
        *projections("paper2", (16, 64), ("forward", "both"), HALF),
        *projections("paper2", (16,), ("forward",)),
    ]
    return [
        replace(case, autotune=True) if case in autotuned else case
        for case in dict.fromkeys([*first, *rest])
    ]
