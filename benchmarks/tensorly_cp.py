"""Benchmark of CP-ALS, end to end: TensorLy alone and with `ntensor` registered.

    python benchmarks/tensorly_cp.py                    # 300^3 rank 32, 100^4 rank 16, twenty more
    python benchmarks/tensorly_cp.py --quick            # small sizes, seconds; times mean nothing
    python benchmarks/tensorly_cp.py --out benchmarks/results
    python benchmarks/tensorly_cp.py --numpy            # twenty shapes, TensorLy on NumPy

A call is `tensorly.decomposition.parafac` from a given start, a fixed number of iterations, the
error of each among them, as by TensorLy's default. First every way has to reach the same fit.
"""

from __future__ import annotations

import functools
import sys
import time
from copy import deepcopy
from typing import TYPE_CHECKING, NamedTuple

from harness import options

if TYPE_CHECKING:
    from harness.ways import Way


class Case(NamedTuple):
    sizes: tuple[int, ...]
    rank: int
    iterations: int

    @property
    def name(self) -> str:
        sizes = "x".join(map(str, self.sizes))
        return f"{sizes}, rank {self.rank}, {self.iterations} iterations, float32"


LEARNING = 0.03  # seconds of calls after each registration, where a call is shorter
CASES = [Case((300,) * 3, 32, 5), Case((100,) * 4, 16, 2)]
# Shapes of every kind, a few seconds each: TensorLy on torch alone beside the library.
MANY = [
    Case(sizes, rank, 5)
    for sizes, rank in (
        *(((3, 300, 300), 8), ((12, 300, 300), 16), ((30, 200, 200), 16), ((300, 300, 3), 8)),
        *(((300, 12, 300), 16), ((50, 50, 50), 5), ((100, 100, 100), 10), ((100, 100, 100), 64)),
        *(((512, 256, 3, 3), 32), ((64, 32, 5, 5), 16), ((20, 30, 40), 1), ((1000, 50, 20), 8)),
        *(((20, 50, 1000), 8), ((8, 18, 41, 311), 33), ((10,) * 5, 6), ((60, 400, 90), 3)),
        *(((200, 200, 2), 4), ((2, 200, 200), 4), ((40,) * 4, 8), ((150, 7, 150), 20)),
    )
]
# TensorLy on NumPy alone beside the library; tiny and degenerate ones among them.
NUMPY = [
    Case(sizes, rank, 5)
    for sizes, rank in (
        *(((3, 3, 3), 2), ((5, 6, 7), 3), ((30, 40), 3), ((10, 10, 10), 4), ((8, 8, 8, 8), 4)),
        *(((1, 200, 200), 4), ((200, 1, 200), 4), ((2, 200, 200), 4), ((200, 200, 2), 4)),
        *(((3, 4, 5000), 3), ((20, 30, 40), 1), ((30, 30, 30), 5), ((50, 50, 50), 5)),
        *(((100, 100, 100), 10), ((100, 100, 100), 64), ((1000, 50, 20), 8)),
        *(((512, 256, 3, 3), 32), ((10,) * 5, 6), ((40,) * 4, 8), ((12, 300, 300), 16)),
    )
]
SECONDS_OF_MANY = 1.5
QUICK = [Case((12, 13, 80), 4, 3), Case((6, 7, 8, 40), 3, 3)]
# Noise beside the planted tensor, of its norm: what no fit can reach.
NOISE = 0.1
# Between the relative errors of two ways: rounding, over few iterations.
SAME_FIT = 1e-4


def ways_of(case: Case, every: bool = True, numpy: bool = False) -> list[Way]:
    """All ways, or TensorLy's own and the library's, on torch or on NumPy."""
    import tensorly
    import torch
    from tensorly.decomposition import parafac

    from harness.problem import khatri_rao
    from harness.ways import Way
    from ntensor.integrations import tensorly as by_ntensor

    generator = torch.Generator().manual_seed(0)

    def factors() -> list[torch.Tensor]:
        return [torch.rand(extent, case.rank, generator=generator) for extent in case.sizes]

    with tensorly.backend_context("pytorch"):
        tensor = tensorly.cp_to_tensor((None, factors())).contiguous()
    noise = torch.randn(case.sizes, generator=generator)
    tensor += noise.mul_(NOISE * tensor.norm() / noise.norm())
    del noise
    start = factors()
    expected: list[float] = []
    notes: list[str] = []

    def fit_of(found) -> float:
        """The relative error of the fit; TensorLy's own is a difference of large float32 sums."""
        weights, columns = found[0]
        leading, *others = (torch.as_tensor(factor) for factor in columns)
        product = khatri_rao([factor.T for factor in others])
        off = total = 0.0
        for given, row in zip(tensor, leading * torch.as_tensor(weights), strict=True):
            off += float((given.flatten() - row @ product).square().sum(dtype=torch.float64))
            total += float(given.square().sum(dtype=torch.float64))
        return (off / total) ** 0.5

    def wrong(found) -> str:
        fit = fit_of(found)
        notes.append(f"relative error {fit:.6f}")
        if not expected:
            expected.append(fit)
        off = abs(fit - expected[0])
        return "" if off <= SAME_FIT else f"relative error {fit:.6f}, wanted {expected[0]:.6f}"

    def decompose(backend: str, tenalg: str, given, begin) -> object:
        # TensorLy 0.9 cannot leave a tenalg.backend_context.
        tensorly.tenalg.set_backend(tenalg)
        with tensorly.backend_context(backend):
            return parafac(
                given,
                case.rank,
                n_iter_max=case.iterations,
                init=(None, deepcopy(begin)),  # TensorLy 0.9 writes to what it is given
                tol=-1.0,  # never met: by rounding alone one way would stop before another
                return_errors=True,
            )

    registered: list[object] = [None]

    def register(share_partials: bool | None, call) -> None:
        """None: TensorLy alone. Python forgets where methods were found when a class gets another
        one, and learns it again within some calls, which a program makes once."""
        if registered[0] is share_partials:
            return
        by_ntensor.unregister()
        if share_partials is not None:
            by_ntensor.register(share_partials=share_partials)
        registered[0] = share_partials
        end = time.perf_counter() + LEARNING
        while not every and time.perf_counter() < end:
            call()

    array, begin = tensor.numpy().copy(), [f.numpy().copy() for f in start]
    # The memory that numpy was shown is shared: the tensor of the library's rows is another.
    tensor = tensor.clone()
    start = [f.clone() for f in start]

    def note(_) -> str:
        return notes[-1]

    def on_torch() -> object:
        return decompose("pytorch", "core", tensor, start)

    def with_numpy() -> object:
        return decompose("numpy", "core", array, begin)

    # A program registers once, so that is not timed.
    def way(name, call, share_partials: bool | None = None, numpy=False) -> Way:
        kind = "rival" if share_partials is None else "ours"
        prepare = functools.partial(register, share_partials, call)
        return Way(name, kind, call, wrong, numpy, note, prepare)

    alone = way("TensorLy, torch", on_torch)
    ours = way("ntensor registered", on_torch, True)
    on_numpy = way("TensorLy, numpy", with_numpy, numpy=True)
    if numpy:
        return [on_numpy, way("ntensor registered, numpy", with_numpy, True, numpy=True)]
    if not every:
        return [alone, ours]
    return [
        alone,
        way(
            "TensorLy, torch, einsum tenalg",
            lambda: decompose("pytorch", "einsum", tensor, start),
        ),
        on_numpy,
        ours,
        way("ntensor registered, no shared partials", on_torch, False),
    ]


def main(argv: list[str] | None = None) -> int:
    numpy = "TensorLy on NumPy alone, its list of shapes"
    given = options.parse_ways(argv, __doc__, numpy=numpy)
    options.prepare_process(given)
    import torch

    from harness import ways
    from ntensor.integrations import tensorly as by_ntensor

    torch.set_num_threads(given.threads)
    rows: list[dict[str, object]] = []
    for case in QUICK if given.quick else NUMPY if given.numpy else [*CASES, *MANY]:
        if not options.is_wanted(given, case.name):
            continue
        every = case in CASES or case in QUICK
        if given.numpy or not every:
            given.seconds = min(given.seconds, SECONDS_OF_MANY)
        rows += ways.measure(case.name, ways_of(case, every, given.numpy), given)
        by_ntensor.unregister()
    name = "tensorly_numpy" if given.numpy else "tensorly_cp"
    return ways.finish(rows, given, name, "a decomposition")


if __name__ == "__main__":
    sys.exit(main())
