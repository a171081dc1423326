"""Every example beside its published form: time of a step and memory, at the examples' own sizes.

    python benchmarks/gallery.py [--threads 2] [--out FOLDER] [EXAMPLE ...]

Writes `gallery.csv`, one row a form.
"""

from __future__ import annotations

import argparse
import importlib
import sys

import torch

from harness.files import write_table
from harness.machine import ForeignLoad, describe
from harness.options import ROOT, add_out

EXAMPLES = ROOT / "examples"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("examples", nargs="*", help="names of files in examples/; default: all")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    add_out(parser)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    if str(EXAMPLES) not in sys.path:
        sys.path.insert(0, str(EXAMPLES))
    names = options.examples or [
        path.stem for path in sorted(EXAMPLES.glob("*.py")) if path.stem != "side_by_side"
    ]
    rows = [row for name in names for row in measure(name)]
    options.out.mkdir(parents=True, exist_ok=True)
    write_table(options.out / "gallery.csv", rows, describe(options.threads, torch.device("cpu")))


def measure(name: str) -> list[dict[str, object]]:
    import side_by_side

    forms = importlib.import_module(name).example()
    with ForeignLoad() as load:
        times = side_by_side.medians(forms)
    rows: list[dict[str, object]] = []
    for form, step in forms.items():
        seen = side_by_side.memory(step)
        rows.append(
            {
                "example": name,
                "form": form,
                "step_ms": round(times[form] * 1e3, 2),
                "speed": round(times["published"] / times[form], 2),
                "peak_mb": round(seen.peak / 1e6, 1),
                "largest_tensor_mb": round(seen.largest / 1e6, 1),
                "share_of_other_processes": None if load.share is None else round(load.share, 2),
            }
        )
        print(*(f"{value!s:>22}" for value in rows[-1].values()), flush=True)
    return rows


if __name__ == "__main__":
    main()
