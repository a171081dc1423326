"""Every operation of the library on a GPU at small sizes, each result against float64 on the CPU.

What `gpu_check.py` runs under compute-sanitizer. Exit code 1 and a line for each wrong result.
"""

from __future__ import annotations

import argparse
import sys

import torch

from gpu.correctness import DTYPES, all_calls, check, why_not

BACKENDS = ("native", "triton")
# Operands of more elements take too long under the tools.
MOST_ELEMENTS = 40_000


def check_all(device: torch.device, names: tuple[str, ...], dtypes: tuple[str, ...]) -> int:
    """The number of wrong calls. Prints a line for each, and the number of right ones."""
    right = wrong = 0
    calls = [call for some in all_calls().values() for call in some]
    for backend in names:
        for dtype in dtypes:
            for call in (call for call in calls if call.elements <= MOST_ELEMENTS):
                named = f"{backend} {dtype} {call.operation} {call.case}"
                if reason := why_not(call, backend, dtype, device):
                    print(f"not run: {named}: {reason}", flush=True)
                    continue
                try:
                    rows = check(call, backend, dtype, device)
                except RuntimeError as error:
                    wrong += 1
                    print(f"wrong: {named}: {error}", flush=True)
                    continue
                bad = [row for row in rows if row["status"] != "right"]
                right, wrong = right + (not bad), wrong + bool(bad)
                if bad:
                    shown = ", ".join(f"{row['result']} {row['error']:.1e}" for row in bad)
                    print(f"wrong: {named}: errors {shown}", flush=True)
    print(f"{right} calls right, {wrong} wrong", flush=True)
    return wrong


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--backend", nargs="+", default=BACKENDS)
    options = parser.parse_args(argv)
    return int(check_all(torch.device(options.device), tuple(options.backend), DTYPES[:2]) > 0)


if __name__ == "__main__":
    sys.exit(main())
