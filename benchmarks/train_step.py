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
import sys

from harness import options

PARTS = ("streams", "step")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = options.parser_of(__doc__)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--n", nargs="+", type=int, help="images of a step; default: 16 64")
    parser.add_argument("--backend", choices=options.BACKENDS, default="auto")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(argv)
    given.n = given.n or ([3, 5] if given.quick else [16, 64])
    given.seconds = given.seconds or (0.2 if given.quick else 20.0)
    return given


def main(argv: list[str] | None = None) -> int:
    given = parse(argv)
    options.prepare_process(given)
    import torch

    from harness.files import write_table
    from harness.machine import describe
    from rivals.train_step import run

    torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    rows = run(given, device)
    path = options.path_of(given, "train_step", "csv")
    write_table(path, rows, describe(given.threads, device))
    print(f"\nwritten: {path}")
    wrong = [row for row in rows if row["status"]]
    for row in wrong:
        print(f"{row['part']} n={row['n']} {row['method']}: {row['status']}")
    return int(any(row["method"].startswith("ntensor") for row in wrong))


if __name__ == "__main__":
    sys.exit(main())
