"""Benchmark of `contract`: editing with one code fixed, at the paper's 3-way core.

    python benchmarks/contract.py
    python benchmarks/contract.py --quick               # a small core; times mean nothing
    python benchmarks/contract.py --out benchmarks/results

Two kinds of cases: the contraction itself beside the ways of torch, and one edit, the projection of
one sample, by the whole core or by a core into which the fixed code was contracted before.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from harness import options

if TYPE_CHECKING:
    from harness.ways import Way

CORE, QUICK = (12288, 9, 15, 80), (64, 3, 5, 16)
NAMES = ("", "lighting", "expression", "identity")


def contraction(core, z, mode: int) -> list[Way]:
    """The library beside the ways of torch."""
    import torch

    import ntensor
    from harness.ways import Way

    letters = "xabc"
    formula = f"{letters},{letters[mode]}->{letters.replace(letters[mode], '')}"

    def by_tensordot() -> torch.Tensor:
        return torch.tensordot(core, z[mode], dims=([mode], [0]))

    wrong = close_to(by_tensordot())
    return [
        Way("ntensor.contract", "ours", lambda: ntensor.contract(core, z[mode], mode), wrong),
        Way("torch.tensordot", "rival", by_tensordot, wrong),
        Way("torch.einsum", "rival", lambda: torch.einsum(formula, core, z[mode]), wrong),
    ]


def edit(core, z, mode: int) -> list[Way]:
    """The projection of one sample with the code of `mode` fixed."""
    import ntensor
    from harness.ways import Way

    every = [row[None] for row in z[1:]]
    others = [row for place, row in enumerate(every, 1) if place != mode]
    fixed = ntensor.contract(core, z[mode], mode)

    def whole():
        return ntensor.synthesis_projection(core, *every)

    def rest(core):
        return ntensor.synthesis_projection(core, *others)

    wrong = close_to(whole())
    return [
        Way("the rest, by the contracted core", "ours", lambda: rest(fixed), wrong),
        Way(
            "contract, then the rest",
            "ours",
            lambda: rest(ntensor.contract(core, z[mode], mode)),
            wrong,
        ),
        Way("the whole projection", "rival", whole, wrong),
    ]


def close_to(expected):
    def wrong(result) -> str:
        error = float((result - expected).double().norm() / expected.double().norm())
        return "" if error <= 1e-5 else f"relative error {error:.1e}"

    return wrong


def main(argv: list[str] | None = None) -> int:
    given = options.parse_ways(argv, __doc__)
    options.prepare_process(given)
    import torch

    from harness import ways
    from harness.roof import measure_roof

    torch.set_num_threads(given.threads)
    sizes = QUICK if given.quick else CORE
    generator = torch.Generator().manual_seed(0)
    core = torch.randn(sizes, generator=generator)
    z = [torch.randn(extent, generator=generator) for extent in sizes]
    rates = measure_roof(given.threads, {"float32"}).rates
    shape = "x".join(map(str, sizes))
    rows: list[dict[str, object]] = []
    kinds = {f"contract {shape}, {{}}": contraction, f"one edit of {shape}, {{}} fixed": edit}
    for kind, ways_of in kinds.items():
        for mode in range(1, len(sizes)):
            case = kind.format(f"mode {mode} ({NAMES[mode]})")
            if not options.is_wanted(given, case):
                continue
            least = None
            if ways_of is contraction and rates:
                written = core.nbytes / sizes[mode] / rates["write"]
                least = core.nbytes / rates["read"] + written
            rows += ways.measure(case, ways_of(core, z, mode), given, least)
    return ways.finish(rows, given, "contract", "a call")


if __name__ == "__main__":
    sys.exit(main())
