"""Random realistic sizes by a printed seed: the library beside the best plain form of each case.

    python benchmarks/sweep.py                                   # 20 cases a kind, a new seed
    python benchmarks/sweep.py --cases 500 --seed 1 2 --out benchmarks/results
    python benchmarks/sweep.py --quick                           # small sizes, nothing is timed

Extents, the batch and the rows of the core are log-uniform; the library's result is compared with
float64, then timed in turns with every plain form of torch that suits the case. Prints quantiles of
`time of the fastest plain form / time of ntensor`, and the worst. Kinds that are not run keep the
rows that the tables have of them.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import torch

from harness.files import read_table, replaced, write_table
from harness.machine import ForeignLoad, describe
from harness.options import add_out
from harness.sizes import FULL, GROUPED, KINDS, QUICK, WITH_K_X, differentiates, draw
from harness.sweep_plot import write_plot
from rivals.sweep import PART, largest_error, problem

# A case counts as lost where the library is slower than this part of the fastest plain form's
# speed, and by more than so many seconds.
LOST, LOST_SECONDS = 0.9, 20e-6
ROUNDS, SECONDS = 5, 0.1  # at least so many turns, and about so many seconds a case
MOST_ROUNDS = 200
# A plain form that takes this many times the time of another is not the fastest: no more of it.
TOO_SLOW = 5
AT_ONCE = 50  # cases between two writings of the table
# What each row has of the machine; the rest stands in the rows of the summary.
OF_A_CASE = ("date", "commit", "processor", "threads", "simd")
CLASSES = {"k_x": (1, 4, 16, 64), "n": (1, 4, 16), "groups": (1, 4, 16)}


def measure(calls: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Median seconds of each, by turns in a new order each time."""
    first = {name: min(_seconds(call, 1) for _ in range(2)) for name, call in calls.items()}
    limit = TOO_SLOW * min(took for name, took in first.items() if name != "ntensor")
    names = [name for name, took in first.items() if name == "ntensor" or took <= limit]
    inner = {name: max(1, min(200, int(5e-4 / first[name]))) for name in names}
    samples: dict[str, list[float]] = {name: [] for name in names}
    order = random.Random(0)
    end = time.perf_counter() + seconds
    for turn in range(MOST_ROUNDS):
        if turn >= ROUNDS and time.perf_counter() > end:
            break
        for name in order.sample(names, len(names)):
            calls[name]()
            samples[name].append(_seconds(calls[name], inner[name]))
    return {name: statistics.median(each) for name, each in samples.items()}


def _seconds(call: Callable[[], object], times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


def run(kind: str, seed: int, place: int, options: argparse.Namespace) -> dict[str, object]:
    """One case, as a row of the table; `status` is empty where the result is right."""
    source = random.Random(f"{seed} {kind} {place}")
    sizes = draw(kind, source, QUICK if options.quick else FULL)
    generator = torch.Generator().manual_seed(source.randrange(1 << 30))
    row = {
        "kind": kind,
        "seed": seed,
        "case": place,
        "dtype": options.dtype,
        "groups": sizes.groups if kind in GROUPED else "",
        "n": sizes.n,
        "k_x": sizes.k_x if kind in WITH_K_X else "",
        "extents": "x".join(map(str, sizes.extents)),
        "mode": sizes.mode if kind in ("mttkrp", "mttkrp-weights") else "",
        "layout": sizes.layout,
        "status": "",
    }
    with torch.set_grad_enabled(differentiates(kind)):
        case = problem(kind, sizes, options.dtype, generator, options.compile, options.einsum)
        try:
            found = case.calls["ntensor"]()
        except (RuntimeError, TypeError, ValueError) as raised:
            return {**row, "status": f"{type(raised).__name__}: {raised}"}
        error = largest_error(found, case.exact(), case.terms())
        del found
        if error > PART[options.dtype]:
            return {**row, "status": f"error {error:.1e} of the terms"}
        if options.quick:
            return row
        medians = measure(case.calls, options.seconds)
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


def summary(rows: list[dict]) -> dict[str, object]:
    """Quantiles of the ratio; of no rows their number alone."""
    if not rows:
        return {"cases": 0}
    ratios = sorted(row["ratio"] for row in rows)

    def at(part: float) -> float:
        return ratios[min(len(ratios) - 1, int(part * len(ratios)))]

    return {
        "cases": len(rows),
        "least": ratios[0],
        "p10": at(0.1),
        "median": round(statistics.median(ratios), 4),
        "p90": at(0.9),
        "lost": sum(map(is_lost, rows)),
    }


def foreign_load(rows: list[dict]) -> float | str:
    """Share of the CPUs' time that other processes took, "" where the system does not say."""
    loads = [row["foreign_load"] for row in rows if row["foreign_load"] != ""]
    return round(statistics.mean(loads), 3) if loads else ""


def size_class(name: str, size: int) -> str:
    below = 0
    for most in CLASSES[name]:
        if size <= most:
            return f"{name} {most}" if most == below + 1 else f"{name} {below + 1} to {most}"
        below = most
    return f"{name} over {below}"


def summaries(rows: list[dict]) -> list[dict[str, object]]:
    """A row a kind, then one a seed where there are several, and one a class of sizes."""
    table = []

    def add(kind: str, seed: object, sizes: str, group: list[dict]) -> None:
        timed = [row for row in group if "ratio" in row]
        found = {"kind": kind, "seed": seed, "sizes": sizes, **summary(timed)}
        if timed:
            found["lost_share"] = round(found["lost"] / len(timed), 4)
            found["foreign_load"] = foreign_load(timed)
        table.append(found)

    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    for kind in dict.fromkeys(row["kind"] for row in rows):
        group = [row for row in rows if row["kind"] == kind]
        add(kind, "all", "all", group)
        for seed in seeds if len(seeds) > 1 else ():
            add(kind, seed, "all", [row for row in group if row["seed"] == seed])
        for name, bounds in CLASSES.items():
            for size in (*bounds, bounds[-1] + 1):
                label = size_class(name, size)
                members = [
                    row for row in group if row[name] and size_class(name, row[name]) == label
                ]
                if members:
                    add(kind, "all", label, members)
    return table


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--cases", type=int, default=20, help="of each kind")
    parser.add_argument("--seed", nargs="+", type=int, help="default: a new one, printed")
    parser.add_argument("--dtype", choices=PART, default="float32")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="a case, about")
    parser.add_argument("--threads", type=int, help="default: torch's")
    parser.add_argument("--compile", action="store_true", help="torch.compile too: seconds a case")
    parser.add_argument("--einsum", action="store_true", help="torch.einsum by opt_einsum too")
    parser.add_argument("--quick", action="store_true", help="small sizes, results alone")
    parser.add_argument("--worst", type=int, default=8, help="how many to print")
    add_out(parser)
    options = parser.parse_args(argv)
    if options.einsum and not torch.backends.opt_einsum.is_available():
        parser.error("--einsum: opt_einsum is not installed")
    options.seed = options.seed or [random.SystemRandom().randrange(1 << 20)]
    options.threads = options.threads or torch.get_num_threads()
    return options


def print_summary(kind: str, rows: list[dict], worst: int) -> None:
    timed = [row for row in rows if "ratio" in row]
    if not timed:
        return
    found = {"kind": kind, **summary(timed)}
    parts = (f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in found.items())
    load = foreign_load(timed) or 0.0
    note = f"  (other processes took {load:.0%})" if load > 0.03 else ""
    print("  ".join(parts) + note, flush=True)
    for row in sorted(timed, key=lambda row: row["ratio"])[:worst]:
        hidden = ("kind", "dtype", "foreign_load")
        print("   ", {k: v for k, v in row.items() if k not in hidden and v != ""}, flush=True)


def batches(options: argparse.Namespace) -> Iterable[tuple[str, int, range]]:
    for seed in options.seed:
        for kind in options.kinds:
            for start in range(0, options.cases, AT_ONCE):
                yield kind, seed, range(start, min(start + AT_ONCE, options.cases))


def kept(path: Path, kinds: Iterable[str]) -> list[dict]:
    """The rows of other kinds that a table has, their numbers read."""
    return [
        {name: number(value) for name, value in row.items()}
        for row in read_table(path)
        if row["kind"] not in kinds
    ]


def number(text: str) -> str | int | float:
    for read in (int, float):
        with suppress(ValueError):
            return read(text)
    return text


def of_all_kinds(earlier: list[dict], rows: list[dict], machine: dict) -> list[dict]:
    """Earlier rows and new ones, which get the machine, in the order of the kinds."""
    rows = [*earlier, *({**row, **machine} for row in rows)]
    return sorted(rows, key=lambda row: list(KINDS).index(row["kind"]))


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    torch.set_num_threads(options.threads)
    machine = describe(options.threads, torch.device("cpu"))
    of_a_case = {name: machine[name] for name in OF_A_CASE}
    options.out.mkdir(parents=True, exist_ok=True)
    table, summary_table, picture = (
        options.out / name for name in ("sweep.csv", "sweep_summary.csv", "sweep.png")
    )
    rows: list[dict] = []
    earlier = kept(table, options.kinds)
    for kind, seed, places in batches(options):
        if not places.start and kind == options.kinds[0]:
            print(f"seed {seed}, {options.threads} threads", flush=True)
        with ForeignLoad() as load:
            found = [run(kind, seed, place, options) for place in places]
        share = "" if load.share is None else round(load.share, 3)
        rows += [{**row, "foreign_load": share} for row in found]
        for row in found:
            if row["status"]:
                print(f"WRONG: {row}", flush=True)
        write_table(table, of_all_kinds(earlier, rows, of_a_case))
        if places.stop == options.cases:
            done = [row for row in rows if (row["kind"], row["seed"]) == (kind, seed)]
            print_summary(kind, done, options.worst)
    if len(options.seed) > 1:
        print(f"seeds {', '.join(map(str, options.seed))}")
        for kind in options.kinds:
            print_summary(kind, [row for row in rows if row["kind"] == kind], options.worst)
    earlier_summaries = kept(summary_table, options.kinds)
    write_table(summary_table, of_all_kinds(earlier_summaries, summaries(rows), machine))
    timed = [row for row in of_all_kinds(earlier, rows, of_a_case) if row.get("ratio", "") != ""]
    if timed:
        with replaced(picture) as path:
            write_plot(timed, machine, is_lost, path)
    print(f"written: {table}, {summary_table}" + (f", {picture}" if timed else ""))
    wrong = sum(bool(row["status"]) for row in rows)
    print(f"{len(rows)} cases, {wrong} wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
