"""Benchmark of `ntensor.bilinear` beside `torch.nn.functional.bilinear` and what replaces it.

    python benchmarks/bilinear.py                       # 64 x 64 -> 64, n = 32 and 512
    python benchmarks/bilinear.py --full --out benchmarks/results
    python benchmarks/bilinear.py --shape square256 --n 128

README.md in this folder explains protocol and columns.
"""

from __future__ import annotations

import sys

import _cases
import _options

PASSES = ("forward", "backward", "both")


def cases_of(options) -> list[_cases.Case]:
    if options.full:
        return _options.selected(options, _cases.FULL_BILINEAR)
    if not options.quick and not _options.names_cases(options):
        return _cases.DEFAULT_BILINEAR
    shapes = options.shape or ["quick" if options.quick else "square64"]
    return [
        _cases.Case(_cases.BILINEAR_SHAPES[shape], n, dtype, pass_)
        for shape in shapes
        for dtype in options.dtype or ("float32",)
        for pass_ in options.passes or ("forward", "both")
        for n in options.n or ((5,) if options.quick else (32, 512))
    ]


def main(argv: list[str] | None = None) -> int:
    options = _options.parse(argv, __doc__, _cases.BILINEAR_SHAPES, PASSES)
    _options.prepare_process(options)
    import _finish
    from _bilinear_rivals import methods
    from _device import missing_device
    from _problem import ProjectionProblem, projection_reference
    from _runner import Suite, run

    if reason := missing_device(options.device):
        print(reason)
        return _finish.NO_DEVICE
    suite = Suite(ProjectionProblem, projection_reference, methods)
    result = run(cases_of(options), suite, options, lambda r: _finish.save(r, options, "bilinear"))
    return _finish.finish(result, options, "bilinear")


if __name__ == "__main__":
    sys.exit(main())
