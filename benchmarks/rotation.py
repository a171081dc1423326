"""Benchmark of `rotation` and `rotated_synthesis`, both layouts; on a GPU of `synthesis` too.

    python benchmarks/rotation.py                       # 15x80, n = 4096
    python benchmarks/rotation.py --full --out benchmarks/results
    python benchmarks/rotation.py --device cuda         # n = 65536

README.md in this folder explains protocol and columns.
"""

from __future__ import annotations

import sys

import _cases
import _options

PASSES = ("forward", "backward", "both")


def cases_of(options) -> list[_cases.Case]:
    on_gpu = _options.on_gpu(options)
    passes = tuple(options.passes or ("forward", "both"))
    dtypes = tuple(options.dtype or (_cases.GPU_DTYPES if on_gpu else ("float32",)))
    shapes = options.shape or ["quick" if options.quick else "paper"]
    sizes = (5,) if options.quick else (4096, 65536) if options.full else (4096,)
    if on_gpu:
        sizes = (70,) if options.quick else (65536, 262144) if options.full else (65536,)
    lists = [_cases.plain_synthesis_cases] * on_gpu + [_cases.rotation_cases]
    return [
        case
        for shape in shapes
        for n in options.n or sizes
        for listed in lists
        for case in listed(_cases.ROTATION_SHAPES[shape], (n,), passes, dtypes)
    ]


def main(argv: list[str] | None = None) -> int:
    options = _options.parse(argv, __doc__, _cases.ROTATION_SHAPES, PASSES)
    _options.prepare_process(options)
    import _finish
    from _device import missing_device
    from _rotation_rivals import RotationProblem, methods, rotation_reference
    from _runner import Suite, run

    if reason := missing_device(options.device):
        print(reason)
        return _finish.NO_DEVICE
    suite = Suite(RotationProblem, rotation_reference, methods)
    result = run(cases_of(options), suite, options, lambda r: _finish.save(r, options, "rotation"))
    return _finish.finish(result, options, "rotation")


if __name__ == "__main__":
    sys.exit(main())
