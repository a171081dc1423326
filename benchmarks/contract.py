"""Benchmark of `contract`: editing with one code fixed, at the paper's 3-way core.

    python benchmarks/contract.py
    python benchmarks/contract.py --quick               # a small core; times mean nothing
    python benchmarks/contract.py --out benchmarks/results

Two kinds of cases: the contraction itself beside the ways of torch, and one edit, the projection of
one sample, by the whole core or by a core into which the fixed code was contracted before.
"""

from __future__ import annotations

import sys

import _options
import _ways

CORE, QUICK = (12288, 9, 15, 80), (64, 3, 5, 16)
NAMES = ("", "lighting", "expression", "identity")


def contraction(core, z, mode: int) -> list[_ways.Way]:
    """The library beside the ways of torch."""
    import torch

    import ntensor

    letters = "xabc"
    formula = f"{letters},{letters[mode]}->{letters.replace(letters[mode], '')}"

    def by_tensordot() -> torch.Tensor:
        return torch.tensordot(core, z[mode], dims=([mode], [0]))

    wrong = close_to(by_tensordot())
    return [
        _ways.Way("ntensor.contract", "ours", lambda: ntensor.contract(core, z[mode], mode), wrong),
        _ways.Way("torch.tensordot", "rival", by_tensordot, wrong),
        _ways.Way("torch.einsum", "rival", lambda: torch.einsum(formula, core, z[mode]), wrong),
    ]


def edit(core, z, mode: int) -> list[_ways.Way]:
    """The projection of one sample with the code of `mode` fixed."""
    import ntensor

    every = [row[None] for row in z[1:]]
    others = [row for place, row in enumerate(every, 1) if place != mode]
    fixed = ntensor.contract(core, z[mode], mode)

    def whole():
        return ntensor.synthesis_projection(core, *every)

    def rest(core):
        return ntensor.synthesis_projection(core, *others)

    wrong = close_to(whole())
    return [
        _ways.Way("the rest, by the contracted core", "ours", lambda: rest(fixed), wrong),
        _ways.Way(
            "contract, then the rest",
            "ours",
            lambda: rest(ntensor.contract(core, z[mode], mode)),
            wrong,
        ),
        _ways.Way("the whole projection", "rival", whole, wrong),
    ]


def close_to(expected):
    def wrong(result) -> str:
        error = float((result - expected).double().norm() / expected.double().norm())
        return "" if error <= 1e-5 else f"relative error {error:.1e}"

    return wrong


def main(argv: list[str] | None = None) -> int:
    options = _ways.parse(argv, __doc__)
    _options.prepare_process(options)
    import torch

    torch.set_num_threads(options.threads)
    sizes = QUICK if options.quick else CORE
    generator = torch.Generator().manual_seed(0)
    core = torch.randn(sizes, generator=generator)
    z = [torch.randn(extent, generator=generator) for extent in sizes]
    rates = _ways.roof(options).rates
    shape = "x".join(map(str, sizes))
    rows: list[dict[str, object]] = []
    kinds = {f"contract {shape}, {{}}": contraction, f"one edit of {shape}, {{}} fixed": edit}
    for kind, ways in kinds.items():
        for mode in range(1, len(sizes)):
            case = kind.format(f"mode {mode} ({NAMES[mode]})")
            if options.case and not any(text in case for text in options.case):
                continue
            least = None
            if ways is contraction and rates:
                written = core.nbytes / sizes[mode] / rates["write"]
                least = core.nbytes / rates["read"] + written
            rows += _ways.measure(case, ways(core, z, mode), options, least)
    return _ways.finish(rows, options, "contract", "a call")


if __name__ == "__main__":
    sys.exit(main())
