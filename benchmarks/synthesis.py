"""Benchmark of `synthesis_projection`: `x = core_(1) (z_1 (x) ... (x) z_M)` for n samples.

    python benchmarks/synthesis.py  # a first look: the paper's 3-way shape, n = 16
    python benchmarks/synthesis.py --full --out benchmarks/results
    python benchmarks/synthesis.py --shape small64 --n 4096 --dtype bfloat16 --pass forward
    python benchmarks/synthesis.py --device cuda        # the same on a GPU

README.md in this folder explains protocol and columns.
"""

from __future__ import annotations

import sys

import _cases
import _options


def cases_of(options) -> list[_cases.Case]:
    on_gpu = _options.on_gpu(options)
    if options.full:
        full = _cases.FULL_GPU_SYNTHESIS if on_gpu else _cases.FULL_SYNTHESIS
        return _options.selected(options, full)
    if options.quick:
        quick = _cases.QUICK_GPU_SYNTHESIS if on_gpu else _cases.QUICK_SYNTHESIS
        return _options.selected(options, quick)
    if not _options.names_cases(options):
        return _cases.DEFAULT_GPU_SYNTHESIS if on_gpu else _cases.DEFAULT_SYNTHESIS
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
    from _device import missing_device
    from _problem import ProjectionProblem, projection_reference
    from _rivals import methods
    from _runner import Suite, run

    if reason := missing_device(options.device):
        print(reason)
        return _finish.NO_DEVICE
    suite = Suite(ProjectionProblem, projection_reference, methods)
    cases = _options.autotuned(options, cases_of(options))
    result = run(cases, suite, options, lambda r: _finish.save(r, options, "synthesis"))
    return _finish.finish(result, options, "synthesis")


if __name__ == "__main__":
    sys.exit(main())
