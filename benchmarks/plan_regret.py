"""What the choice of plans costs: every candidate of random sizes is timed beside the chosen one.

    python benchmarks/plan_regret.py                    # 30 sizes, a new seed
    python benchmarks/plan_regret.py --cases 200 --seed 1 --threads 1 --level portable

Regret is the time of the chosen plan over that of the fastest candidate, for the projection, the
gradients of the factors and that of the core. The prices of `ntensor/backends/native/prices.py`
were set by these figures. Prints quantiles and the cases where the choice costs most.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time

from harness.sizes import Limits, Sizes, draw

LIMITS = Limits(1 << 22, 1 << 28)
LONGEST = 0.3  # seconds of one candidate's samples
SAMPLES = 7


def seconds(call) -> float:
    """The least of a few samples."""
    call()
    best, end = float("inf"), time.perf_counter() + LONGEST
    for _ in range(SAMPLES):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
        if time.perf_counter() > end:
            break
    return best


def regrets(case: Sizes, generator) -> dict[str, tuple[float, str]]:
    """By part: the regret, and the times of all candidates in words."""
    import torch

    from ntensor.backends.native import library, plans, projection, ways

    n, k_x, extents = case.n, case.k_x, case.extents
    core = torch.randn((k_x, *extents), generator=generator)
    factors = [torch.randn((n, k), generator=generator) for k in extents]
    grad = torch.randn((n, k_x), generator=generator)
    needs = [True] * len(extents)
    work = core.numel() * n
    threads = library.threads_for(work, library.MULTIPLY_ADDS_A_THREAD)
    order = library.kernel_order(extents)
    planned = extents if order is None else tuple([extents[place] for place in order])
    sizes = plans.Sizes(library.simd_level(), 0, n, planned, k_x, threads)
    parts = {
        "forward": (
            lambda: projection.synthesis_projection(core, factors),
            ways.projection(sizes, False),
        ),
        "factor gradients": (
            lambda: projection.projection_grads(core, grad, None, factors, False, needs),
            ways.factor_grads(sizes, True, False, tuple(needs), True),
        ),
        "core gradient": (
            lambda: projection.projection_core_grad(grad, None, factors),
            ways.core_grad(sizes, True, False),
        ),
    }
    found = {}
    for part, (call, table) in parts.items():
        least = min(table.values())
        times = {}
        for place, (name, price) in enumerate(table.items()):
            if price > 20 * least:
                continue  # never near
            with plans.force_plan(place):
                times[name] = seconds(call)
        chosen = min(table, key=table.__getitem__)
        words = ", ".join(f"{name}: {1e6 * each:.0f} us" for name, each in times.items())
        found[part] = times[chosen] / min(times.values()), f"{chosen} of {words}"
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=30)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--level", default=None, help="SIMD level, by default the best one")
    parser.add_argument("--worst", type=int, default=4, help="how many to print")
    options = parser.parse_args(argv)
    seed = random.SystemRandom().randrange(1 << 20) if options.seed is None else options.seed
    import torch

    from ntensor.backends.native import library

    if options.threads:
        torch.set_num_threads(options.threads)
    level = library.force_simd_level(options.level or library.simd_level())
    rows: dict[str, list] = {}
    with level:
        print(f"seed {seed}, {torch.get_num_threads()} threads, level {library.simd_level()}")
        for place in range(options.cases):
            source = random.Random(f"{seed} regret {place}")
            case = draw("forward", source, LIMITS)
            generator = torch.Generator().manual_seed(source.randrange(1 << 30))
            for part, (regret, words) in regrets(case, generator).items():
                rows.setdefault(part, []).append((regret, case, words))
    for part, found in rows.items():
        values = sorted(regret for regret, _, _ in found)
        at90 = values[int(0.9 * (len(values) - 1))]
        print(
            f"{part}: median {statistics.median(values):.2f}, p90 {at90:.2f}, most {values[-1]:.2f}"
        )
        for regret, case, words in sorted(found, key=lambda row: -row[0])[: options.worst]:
            print(f"    {regret:.2f}  n {case.n}, k_x {case.k_x}, {case.extents}: {words}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
