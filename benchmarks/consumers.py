"""Benchmark of two models over the library: TuckER's scores and a tensor fusion layer.

    python benchmarks/consumers.py                      # at the papers' sizes
    python benchmarks/consumers.py --shape fusion --n 32 256

The whole layer is timed, forward and with the gradients of all its parameters and inputs: TuckER
with the product that scores every entity, the fusion with the appended ones and its bias. The plain
forms are those that the papers' implementations use, and what replaces them. README.md in this
folder explains protocol and columns.
"""

from __future__ import annotations

import sys

import _cases
import _options

PASSES = ("forward", "backward", "both")


def cases_of(options) -> list[_cases.Case]:
    shapes = options.shape or (
        ["tucker-quick", "fusion-quick"]
        if options.quick
        else ["tucker-fb15k237", "tucker-wn18rr", "fusion"]
    )
    return [
        _cases.Case(
            _cases.CONSUMER_SHAPES[shape], n, dtype, pass_, operation=shape.partition("-")[0]
        )
        for shape in shapes
        for dtype in options.dtype or ("float32",)
        for pass_ in options.passes or ("forward", "both")
        for n in options.n or ((5,) if options.quick else (32,) if shape == "fusion" else (128,))
    ]


def main(argv: list[str] | None = None) -> int:
    options = _options.parse(argv, __doc__, _cases.CONSUMER_SHAPES, PASSES)
    _options.prepare_process(options)
    import _finish
    from _consumer_rivals import LayerProblem, methods, reference
    from _device import missing_device
    from _runner import Suite, run

    if reason := missing_device(options.device):
        print(reason)
        return _finish.NO_DEVICE
    suite = Suite(LayerProblem, reference, methods)
    result = run(cases_of(options), suite, options, lambda r: _finish.save(r, options, "consumers"))
    return _finish.finish(result, options, "consumers")


if __name__ == "__main__":
    sys.exit(main())
