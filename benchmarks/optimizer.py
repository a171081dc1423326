"""Benchmark of a training step with AdamW: a core's gradient in memory, and a step by its terms.

    python benchmarks/optimizer.py                      # the paper's cores
    python benchmarks/optimizer.py --quick              # small sizes, seconds; times mean nothing
    python benchmarks/optimizer.py --out benchmarks/results

A call is forward, backward and the optimizer's step of one layer, by the kernels of the library in
every row; the rows differ in what becomes of the core's gradient. `torch.optim.AdamW` has its fused
kernel. First every way has to move the core to the same place.
"""

from __future__ import annotations

import functools
import gc
import sys
from typing import TYPE_CHECKING, NamedTuple

from harness import options

if TYPE_CHECKING:
    from harness.ways import Way


class Case(NamedTuple):
    k_x: int
    sizes: tuple[int, ...]
    n: int

    @property
    def name(self) -> str:
        return f"{'x'.join(map(str, self.sizes))} -> {self.k_x}, n = {self.n}, float32"


CASES = [
    *(Case(12288, (9, 15, 80), n) for n in (1, 16, 64, 256)),
    *(Case(28125, (15, 80), n) for n in (16, 64)),
    Case(2000, (30, 40), 16),
]
QUICK = [Case(40, (3, 5, 8), 4), Case(30, (6, 50), 3)]
# Between the cores of two ways, of the length of the step.
SAME = 1e-3
RATE = 1e-3


def ways_of(case: Case) -> list[Way]:
    import torch

    import ntensor
    from harness.ways import Way

    generator = torch.Generator().manual_seed(0)
    start = torch.randn(case.k_x, *case.sizes, generator=generator)
    z = [torch.randn(case.n, k, generator=generator) for k in case.sizes]
    cotangent = torch.randn(case.n, case.k_x, generator=generator)
    probe = slice(None, None, max(1, start.numel() // 100_000))
    expected: list[torch.Tensor] = []

    def wrong(core: torch.Tensor) -> str:
        found = core.detach().flatten()[probe] - start.flatten()[probe]
        if not expected:
            expected.append(found)
        off = float((found - expected[0]).abs().max())
        return "" if off <= SAME * RATE else f"the core is off by {off:.1e}"

    def way(name: str, kind: str, optimizer_class, accumulates: bool, clears: bool = False) -> Way:
        core = torch.nn.Parameter(start.clone())
        if clears:
            core.grad = torch.zeros_like(core)
        optimizer = optimizer_class([core], lr=RATE)

        def call() -> torch.Tensor:
            x = ntensor.synthesis_projection(core, *z, accumulate_core_grad=accumulates)
            x.backward(cotangent)
            optimizer.step()
            optimizer.zero_grad(set_to_none=not clears)
            return core

        return Way(name, kind, call, wrong)

    fused = functools.partial(torch.optim.AdamW, fused=True)
    return [
        way("a new gradient, torch.optim.AdamW", "rival", fused, False),
        way("added to core.grad, torch.optim.AdamW", "rival", fused, True, clears=True),
        way("by its terms, ntensor.optim.AdamW", "ours", ntensor.optim.AdamW, True),
    ]


def main(argv: list[str] | None = None) -> int:
    given = options.parse_ways(argv, __doc__)
    options.prepare_process(given)
    import torch

    from harness import ways

    torch.set_num_threads(given.threads)
    rows: list[dict[str, object]] = []
    for case in QUICK if given.quick else CASES:
        if options.is_wanted(given, case.name):
            rows += ways.measure(case.name, ways_of(case), given)
            gc.collect()
    return ways.finish(rows, given, "optimizer", "a training step")


if __name__ == "__main__":
    sys.exit(main())
