"""Benchmark of `synthesis_projection`: `x = core_(1) (z_1 (x) ... (x) z_M)` for n samples.

    python benchmarks/synthesis.py                      # the paper's 3-way shape, n = 16 and 64
    python benchmarks/synthesis.py --full --out benchmarks/results
    python benchmarks/synthesis.py --shape small64 --n 4096 --dtype bfloat16 --pass forward

README.md in this folder explains protocol and columns.
"""

from __future__ import annotations

import sys

import _cases
import _options


def cases_of(options) -> list[_cases.Case]:
    if options.full:
        return _options.selected(options, _cases.FULL_SYNTHESIS)
    if options.quick:
        return _options.selected(options, _cases.QUICK_SYNTHESIS)
    if not _options.names_cases(options):
        return _cases.DEFAULT_SYNTHESIS
    return _cases.synthesis_cases(
        options.shape or ["paper3"],
        tuple(options.n or (16, 64)),
        tuple(options.passes or ("forward", "both")),
        tuple(options.dtype or ("float32",)),
    )


def main(argv: list[str] | None = None) -> int:
    options = _options.parse(argv, __doc__, _cases.SHAPES, _cases.PASSES)
    _options.prepare_process(options)
    import _finish
    from _problem import ProjectionProblem, projection_reference
    from _rivals import methods
    from _runner import Suite, run

    result = run(
        cases_of(options), Suite(ProjectionProblem, projection_reference, methods), options
    )
    return _finish.finish(result, options, "synthesis")


if __name__ == "__main__":
    sys.exit(main())
