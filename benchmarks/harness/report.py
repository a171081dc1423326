"""Tables on the terminal and CSV files, from the rows."""

from __future__ import annotations

from itertools import groupby

from harness.runner import Result, Row
from harness.targets import outcomes

GRADIENT = {"fresh": "fresh", "adds": "adds to .grad", "overwrites": "overwrites .grad", "": ""}
LEGEND = """\
vs torch, vs limit: times faster than the best pure-torch method and than the fastest GEMM that is
given the Khatri-Rao product (above 1: faster); a method with a fresh gradient is compared with
torch's fresh ones. of roof: least time by the measured bandwidths and peak, over the median.
extra MB: peak memory beside the inputs and a reused .grad. error: largest relative Frobenius error
against float64."""
GPU_LEGEND = """\
On a GPU: cold-cache device time by events; graph: of a replayed CUDA graph, eager: of a plain call,
launch gaps included. host us: time that the host needs to issue an eager call."""


def print_result(result: Result) -> None:
    """One table a case, the machine first, the targets last."""
    for key, value in result.machine.items():
        if not key.startswith("roof_"):
            print(f"{key.replace('_', ' '):>14}  {value}")
    print(f"{'roof':>14}  {_roof_line(result)}")
    for case, rows in groupby(result.rows, key=lambda row: row.case):
        _print_case(case.title, list(rows))
    print(f"\n{LEGEND}")
    if result.on_gpu:
        print(GPU_LEGEND)
    for case in result.unreached:
        print(f"not reached in the given time: {case.title}")
    _print_targets(result)


def label(row: Row) -> str:
    """Name of a row's method with what it does with the gradient."""
    gradient = GRADIENT[row.method.gradient]
    return f"{row.method.name}, {gradient}" if gradient else row.method.name


def _roof_line(result: Result) -> str:
    rates = result.roof.rates
    if not rates:
        return f"not available ({result.roof.reason})"
    units = [
        f"{kind} {rate / 1e9:.1f} {'GB/s' if kind in ('read', 'write', 'copy') else 'GFLOP/s'}"
        for kind, rate in rates.items()
    ]
    return ", ".join(units) + (f" ({result.roof.reason})" if result.roof.reason else "")


def _print_case(title: str, rows: list[Row]) -> None:
    timed = [row for row in rows if row.right]
    micro = bool(timed) and min(row.median for row in timed) < 1e-3
    unit, scale = ("us", 1e6) if micro else ("ms", 1e3)
    heads = [unit, "p20", "p80", "calls", "vs torch", "vs limit", "of roof", "extra MB", "error"]
    on_gpu = any(row.timing for row in rows)
    if on_gpu:
        heads += ["host us", "timing"]
    print(f"\n{title}\n  {'method':<38}" + "".join(f"{head:>9}" for head in heads) + "  note")
    rank = {"ours": 0, "limit": 1}
    for row in sorted(rows, key=lambda r: (rank.get(r.method.kind, 2), r.median or float("inf"))):
        if row.status:
            print(f"  {label(row):<38}  {row.status}")
            continue
        cells = [
            *(_digits(scale * row.quantile(q)) for q in (0.5, 0.2, 0.8)),
            str(len(row.samples)),
            _digits(row.versus_torch),
            _digits(row.versus_limit),
            "-" if row.roof_fraction is None else f"{row.roof_fraction:.2f}",
            "-" if row.extra_bytes is None else f"{row.extra_bytes / 1e6:.1f}",
            f"{row.error:.1e}",
        ]
        if on_gpu:
            cells += [_digits(1e6 * row.host_seconds), row.timing]
        print(f"  {label(row):<38}" + "".join(f"{cell:>9}" for cell in cells) + f"  {row.note}")
    loads = [row.foreign_load for row in rows if row.foreign_load is not None]
    if loads and max(loads) > 0.03:
        print(f"  other processes took {100 * max(loads):.0f} % of the CPUs meanwhile")


def _print_targets(result: Result) -> None:
    lines = target_lines(result)
    if lines:
        print("\n".join(["", "targets" + " (of one H200)" * result.on_gpu, *lines]))


def target_lines(result: Result) -> list[str]:
    """One line a target that was measured."""
    sign = {
        "times": ("x", "at least"),
        "error": (" of the error", "at most"),
        "microseconds": (" us", "at most"),
        "copy": (" of copy bandwidth", "at least"),
        "write": (" of write bandwidth", "at least"),
        "products": (" arrays (n, K) beside the results", "below"),
    }
    lines = []
    for outcome in outcomes(result):
        target = outcome.target
        unit, bound = sign[target.kind]
        versus = f" over {_versus(target.versus)}" if target.versus else ""
        gradient = f" ({target.gradient})" if target.gradient else ""
        state = {True: "reached", False: "MISSED", None: "reported"}[outcome.reached]
        wanted = f", {bound} {target.bound:g}" if target.bound is not None else ""
        measured = f"{_digits(outcome.measured):>8}{unit}{wanted}"
        by = f", by {outcome.method}" if result.on_gpu else ""
        lines.append(f"  {state:<9}{measured}: {outcome.title}{gradient}{versus}{by}")
    return lines


def _versus(names: tuple[str, ...]) -> str:
    kinds = {"limit": "the GEMM limit", "torch": "the best torch way"}
    if len(names) == 1:
        return kinds.get(names[0], names[0])
    return "the best of " + ", ".join(names)


def _digits(value: float | None) -> str:
    """About three digits, without an exponent."""
    if value is None:
        return "-"
    return f"{value:.{max(0, 2 - len(str(int(value))) + 1)}f}"


def record(row: Row) -> dict[str, object]:
    """A row's line of the CSV, without the machine."""
    case, method = row.case, row.method

    def rounded(value: float | None, digits: int = 5) -> object:
        return "" if value is None else float(f"{value:.{digits}g}")

    def milliseconds(q: float) -> object:
        seconds = row.quantile(q)
        return rounded(None if seconds is None else 1e3 * seconds)

    device = {}
    if row.timing:
        device = {"timing": row.timing, "host_us": rounded(1e6 * row.host_seconds)}
    return {
        "operation": case.operation,
        "layout": case.layout,
        "shape": case.shape.name,
        "k_x": case.shape.out_features or "",
        "factor_sizes": "x".join(map(str, case.shape.factor_sizes)),
        "n": case.n,
        "dtype": case.dtype,
        "pass": case.pass_,
        "method": method.name,
        "kind": method.kind,
        "gradient": method.gradient,
        "status": row.status or "right",
        "note": row.note,
        "calls": len(row.samples),
        "median_ms": milliseconds(0.5),
        "p20_ms": milliseconds(0.2),
        "p80_ms": milliseconds(0.8),
        "minimum_ms": milliseconds(0),
        "times_faster_than_best_torch": rounded(row.versus_torch),
        "times_faster_than_gemm_limit": rounded(row.versus_limit),
        "fraction_of_roof": rounded(row.roof_fraction),
        "roof_ms": rounded(row.roof_seconds and 1e3 * row.roof_seconds),
        "gflops": rounded(row.gflops),
        "compulsory_gbytes_per_second": rounded(row.gbytes),
        "extra_bytes": "" if row.extra_bytes is None else row.extra_bytes,
        "error": rounded(row.error, 3),
        "errors": " ".join(f"{name}={error:.2e}" for name, error in row.errors.items()),
        "share_of_other_processes": rounded(row.foreign_load, 2),
        **device,
    }
