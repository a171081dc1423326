"""Benchmark of a training step of the paper's face model: `ntensor` beside plain torch operations.

    python benchmarks/train_step.py                     # both parts, n = 16 and 64
    python benchmarks/train_step.py --part streams      # streams 1 and 3 alone
    python benchmarks/train_step.py --quick             # small sizes, seconds; times mean nothing

`streams`: forward and backward of `B_(1)(z_exp (x) z_id)` and of `Q_(1)` with both outputs, given
incoming gradients. `step`: forward and backward of the whole network with every term of eq. 8
to 14, and of the discriminator. Gradients of the cores are added into `.grad`, which exists, or
written over it; clearing it and the optimizer are timed apart, being the same for all.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from pathlib import Path

import _options

PARTS = ("streams", "step")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--n", nargs="+", type=int, help="images of a step; default: 16 64")
    parser.add_argument("--quick", action="store_true", help="small sizes, for CI")
    parser.add_argument(
        "--backend", choices=("auto", "native", "triton", "reference"), default="auto"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="default: all cores")
    parser.add_argument("--huge-pages", action="store_true", help="with THP_MEM_ALLOC_ENABLE=1")
    parser.add_argument("--seconds", type=float, help="time for a case's samples; default: 20")
    parser.add_argument("--repeats", type=int, help="exactly this many rounds")
    parser.add_argument("--out", type=Path, default=_options.DEFAULT_OUT, metavar="DIR")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    options.n = options.n or ([3, 5] if options.quick else [16, 64])
    options.seconds = options.seconds or (0.2 if options.quick else 20.0)
    _options.prepare_process(options)
    import torch

    from _machine import describe
    from _train_step import run

    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    rows = run(options, device)
    machine = describe(options.threads, device)
    options.out.mkdir(parents=True, exist_ok=True)
    huge = "-huge-pages" if os.environ.get("THP_MEM_ALLOC_ENABLE") == "1" else ""
    path = options.out / f"train_step{huge}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0], *machine])
        writer.writeheader()
        writer.writerows({**row, **machine} for row in rows)
    print(f"\nwritten: {path}")
    wrong = [row for row in rows if row["status"]]
    for row in wrong:
        print(f"{row['part']} n={row['n']} {row['method']}: {row['status']}")
    return int(any(row["method"].startswith("ntensor") for row in wrong))


if __name__ == "__main__":
    sys.exit(main())
