"""Random realistic sizes by a printed seed: the library beside the best plain form of each case.

    python benchmarks/sweep.py                                   # 20 cases a kind, a new seed
    python benchmarks/sweep.py --cases 500 --seed 1 --out benchmarks/results
    python benchmarks/sweep.py --quick                           # results are checked, times mean nothing

Extents, the batch and the rows of the core are log-uniform; each case is timed in turns with every
plain form of torch that suits it, and compared with float64 before. Prints quantiles of
`time of the fastest plain form / time of ntensor`, and the worst cases.
"""

from __future__ import annotations

import argparse
import csv
import math
import random
import statistics
import sys
import time
from pathlib import Path

import _options
from _files import replaced

KINDS = ("forward", "both", "bilinear", "bilinear-both", "mttkrp", "mttkrp-weights", "mttkrp-all")
MOST_ELEMENTS = 1 << 23  # of the core, of the synthesis of the batch, and of the result
MOST_PRODUCTS = 1 << 30  # n k_x K
MOST_BETWEEN = 1 << 25  # elements that a plain form may hold between two products
# A case counts as lost where it is slower than this part of the fastest plain form, and by more
# than so many seconds.
LOST, LOST_SECONDS = 0.9, 20e-6
ROUNDS, SECONDS = 5, 0.1  # at least so many turns, and about so many seconds a case


def draw(kind: str, random: random.Random, elements: int, products: int) -> dict:
    """The sizes of one case: `extents`, and `n`, `k_x` or `rank`, `mode`."""

    def size(most: int) -> int:
        return round(math.exp(random.uniform(0, math.log(most))))

    if kind.startswith("mttkrp"):
        extents = [size(700) for _ in range(random.randint(3, 4))]
        sizes = {"n": size(64), "mode": random.randrange(len(extents))}
        k_x = 1
    else:
        extents = [size(700) for _ in range(2 if "bilinear" in kind else random.randint(2, 4))]
        sizes = {"n": size(4096)}
        k_x = size(4000)
    while True:
        K, n = math.prod(extents), sizes["n"]
        if max(k_x, n) * K <= elements and n * k_x <= elements and n * k_x * K <= products:
            return {**sizes, "k_x": k_x, "extents": tuple(extents)}
        what = random.randrange(len(extents) + 2)
        if what < len(extents):
            extents[what] = max(1, extents[what] * 2 // 3)
        elif what == len(extents):
            sizes["n"] = max(1, n * 2 // 3)
        else:
            k_x = max(1, k_x * 2 // 3)


def outer(factors):
    """The synthesis of the batch, by broadcast products."""
    y = factors[0]
    for z in factors[1:]:
        y = (y.unsqueeze(2) * z.unsqueeze(1)).flatten(1)
    return y


def broadcast(core, *factors):
    return outer(factors) @ core.flatten(1).T


def last_first(core, *factors):
    """The last factor by one product for all rows, then one factor after the other."""
    n, k_x = factors[0].shape[0], core.shape[0]
    left = factors[-1] @ core.reshape(-1, core.shape[-1]).T
    for z in factors[-2::-1]:
        left = (left.view(n, -1, z.shape[1]) @ z.unsqueeze(2)).squeeze(2)
    return left.view(n, k_x)


def rows_one_by_one(core, *factors):
    import torch

    rest = outer(factors[1:])
    return torch.stack(
        [((factors[0] @ row.flatten(1)) * rest).sum(-1) for row in core.unbind(0)], 1
    )


def bilinear(core, *factors):
    import torch

    return torch.nn.functional.bilinear(*factors, core)


def unfolding(tensor, factors, mode):
    product = None
    for place, factor in enumerate(factors):
        if place != mode:
            product = (
                factor
                if product is None
                else (product.unsqueeze(1) * factor.unsqueeze(0)).flatten(0, 1)
            )
    return tensor.movedim(mode, 0).reshape(tensor.shape[mode], -1) @ product


def last_mode_first(tensor, factors, mode):
    """The last mode (the first where it is the one that stays) by one product, then the others."""
    shape, rank = tensor.shape, factors[0].shape[1]
    if mode == tensor.dim() - 1:
        left = tensor.view(shape[0], -1).T @ factors[0]
        left = left.view(*shape[1:], rank)
        for factor in factors[1:-1]:
            left = (left * factor.view(-1, *(1,) * (left.dim() - 2), rank)).sum(0)
        return left
    left = (tensor.view(-1, shape[-1]) @ factors[-1]).view(*shape[:-1], rank)
    for place in range(tensor.dim() - 2, mode, -1):
        left = (left * factors[place]).sum(-2)
    for place in range(mode):
        left = (left * factors[place].view(-1, *(1,) * (left.dim() - 2), rank)).sum(0)
    return left


def ways(kind: str, case: dict, generator) -> tuple[dict, dict]:
    """The library's call and the plain forms, each of no arguments; and the same in float64."""
    import torch

    import ntensor

    def tensors(*shapes):
        return [torch.randn(shape, generator=generator) for shape in shapes]

    n, extents = case["n"], case["extents"]
    if kind.startswith("mttkrp"):
        tensor, *factors, weights = tensors(extents, *((k, n) for k in extents), (n,))
        weights = weights if kind.endswith("weights") else None
        modes = range(len(extents)) if kind.endswith("all") else (case["mode"],)

        def by(function):
            def call(tensor=tensor, factors=factors, weights=weights):
                found = [function(tensor, factors, mode) for mode in modes]
                return found if weights is None else [each * weights for each in found]

            return call

        def ours():
            if kind.endswith("all"):
                return ntensor.mttkrp_all(tensor, factors)
            return [ntensor.mttkrp(tensor, factors, case["mode"], weights)]

        def exact():
            wide = [each.double() for each in factors]
            return by(unfolding)(
                tensor.double(), wide, None if weights is None else weights.double()
            )

        forms = {"unfolding": by(unfolding)}
        if n * math.prod(extents) // min(extents[0], extents[-1]) <= MOST_BETWEEN:
            forms["last first"] = by(last_mode_first)
        return {"ntensor": ours, **forms}, exact

    core, *factors = tensors((case["k_x"], *extents), *((n, k) for k in extents))
    (cotangent,) = tensors((n, case["k_x"]))
    forms = {"broadcast": broadcast}
    if n * case["k_x"] * math.prod(extents[:-1]) <= MOST_BETWEEN:
        forms["last first"] = last_first
    if case["k_x"] <= 4:
        forms["row by row"] = rows_one_by_one
    if "bilinear" in kind:
        # The kind asks how a user of torch's own layer fares, who calls nothing else.
        forms = {"F.bilinear": bilinear}
    ours = ntensor.synthesis_projection
    if "bilinear" in kind:
        def ours(core, *factors):
            return ntensor.bilinear(*factors, core)

    values = [core, *factors]
    if kind.endswith("both"):
        values = [each.requires_grad_() for each in values]

    def calling(function, values=values, cotangent=cotangent):
        def call():
            result = function(*values)
            if not kind.endswith("both"):
                return [result]
            return [result.detach(), *torch.autograd.grad(result, values, cotangent)]

        return call

    def exact():
        wide = [each.detach().double().requires_grad_(each.requires_grad) for each in values]
        return calling(broadcast, wide, cotangent.double())()

    return {"ntensor": calling(ours), **{k: calling(v) for k, v in forms.items()}}, exact


def largest_error(found, wanted) -> float:
    """Of all results, relative to their norms."""
    return max(
        float((a.double() - b).norm() / (b.norm() + 1e-300))
        for a, b in zip(found, wanted, strict=True)
    )


def measure(calls: dict, seconds: float) -> dict[str, float]:
    """Median seconds of each, by turns in a new order each time."""
    order = random.Random(0)
    inner, samples = {}, {name: [] for name in calls}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        inner[name] = max(1, min(200, int(5e-4 / (time.perf_counter() - start))))
    end = time.perf_counter() + seconds
    for turn in range(200):
        if turn >= ROUNDS and time.perf_counter() > end:
            break
        for name in order.sample(list(calls), len(calls)):
            calls[name]()
            start = time.perf_counter()
            for _ in range(inner[name]):
                calls[name]()
            samples[name].append((time.perf_counter() - start) / inner[name])
    return {name: statistics.median(each) for name, each in samples.items()}


def run(kind: str, place: int, options) -> dict:
    """One case, as a row of the table; `status` is empty where the result is right."""
    import torch

    source = random.Random(f"{options.seed} {kind} {place}")
    limits = (1 << 16, 1 << 20) if options.quick else (MOST_ELEMENTS, MOST_PRODUCTS)
    case = draw(kind, source, *limits)
    generator = torch.Generator().manual_seed(source.randrange(1 << 30))
    calls, exact = ways(kind, case, generator)
    row = {
        "kind": kind,
        "case": place,
        "n": case["n"],
        "k_x": case["k_x"],
        "extents": "x".join(map(str, case["extents"])),
        "mode": case.get("mode", ""),
        "status": "",
    }
    with torch.set_grad_enabled(kind.endswith("both")):
        error = largest_error(calls["ntensor"](), exact())
        if not error <= 1e-3:
            return {**row, "status": f"relative error {error:.1e}"}
        if options.quick:
            return row
        medians = measure(calls, options.seconds)
    ours = medians.pop("ntensor")
    rival = min(medians, key=medians.__getitem__)
    return {
        **row,
        "ours_us": round(1e6 * ours, 2),
        "rival": rival,
        "rival_us": round(1e6 * medians[rival], 2),
        "ratio": round(medians[rival] / ours, 4),
    }


def is_lost(row: dict) -> bool:
    return row["ratio"] < LOST and row["ours_us"] - row["rival_us"] > 1e6 * LOST_SECONDS


def summary(kind: str, rows: list[dict]) -> dict:
    ratios = sorted(row["ratio"] for row in rows)
    at = lambda part: ratios[min(len(ratios) - 1, int(part * len(ratios)))]
    return {
        "kind": kind,
        "cases": len(rows),
        "least": ratios[0],
        "p10": at(0.1),
        "median": statistics.median(ratios),
        "p90": at(0.9),
        "lost": sum(map(is_lost, rows)),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--cases", type=int, default=20, help="of each kind")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="a case, about")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--quick", action="store_true", help="small sizes, results alone")
    parser.add_argument("--worst", type=int, default=8, help="how many to print")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args(argv)
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1 << 20)
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    print(f"seed {options.seed}, {torch.get_num_threads()} threads", flush=True)
    wrong = 0
    every = []
    for kind in options.kinds:
        rows = [run(kind, place, options) for place in range(options.cases)]
        for row in rows:
            if row["status"]:
                wrong += 1
                print(f"WRONG: {row}")
        every += rows
        rows = [row for row in rows if "ratio" in row]
        if not rows:
            continue
        print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in summary(kind, rows).items()), flush=True)
        lost = sorted(rows, key=lambda row: row["ours_us"] - row["rival_us"])
        for row in sorted(rows, key=lambda row: row["ratio"])[: options.worst]:
            print("   ", {k: v for k, v in row.items() if k not in ("kind", "status")})
    if options.out:
        names = list(dict.fromkeys(name for row in every for name in row))
        with replaced(options.out / "sweep.csv") as path, open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(every)
    print(f"{len(every)} cases, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
