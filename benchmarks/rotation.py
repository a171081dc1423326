"""Benchmark of `rotation` and `rotated_synthesis`, both layouts.

    python benchmarks/rotation.py                       # 15x80, n = 4096
    python benchmarks/rotation.py --full --out benchmarks/results

README.md in this folder explains protocol and columns.
"""

from __future__ import annotations

import sys

import _cases
import _options

PASSES = ("forward", "backward", "both")


def cases_of(options) -> list[_cases.Case]:
    passes = tuple(options.passes or ("forward", "both"))
    dtypes = tuple(options.dtype or ("float32",))
    shapes = options.shape or ["quick" if options.quick else "paper"]
    sizes = (5,) if options.quick else (4096, 65536) if options.full else (4096,)
    return [
        case
        for shape in shapes
        for case in _cases.rotation_cases(
            _cases.ROTATION_SHAPES[shape], tuple(options.n or sizes), passes, dtypes
        )
    ]


def main(argv: list[str] | None = None) -> int:
    options = _options.parse(argv, __doc__, _cases.ROTATION_SHAPES, PASSES)
    _options.prepare_process(options)
    import _finish
    from _rotation_rivals import RotationProblem, methods, rotation_reference
    from _runner import Suite, run

    result = run(cases_of(options), Suite(RotationProblem, rotation_reference, methods), options)
    return _finish.finish(result, options, "rotation")


if __name__ == "__main__":
    sys.exit(main())
