"""Summary of runs of the preset `tiny`: means and spreads over seeds, for each rotation layout.

    for seed in 0 1 2; do
        python -m ntensor.faces.train --preset tiny --training.seed $seed --out build/tiny-$seed
        python -m ntensor.faces.evaluate build/tiny-$seed
    done
    python benchmarks/faces_tiny.py build/tiny-0 build/tiny-1 build/tiny-2

Reads `configuration.json` and `evaluation.json` of each run. Writes `faces_tiny.json`, where every
number of the evaluations is a mean, a standard deviation (of n - 1) and the values, and
`faces_tiny.png`, the last pictures of the first run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

from harness.machine import describe
from harness.options import RESULTS, add_out

# Rows of the printed table: title, path in an evaluation.
SHOWN = (
    ("squared error", "squared_error/network/image"),
    ("squared error, mean image", "squared_error/mean image/image"),
    ("normals, degrees", "angular_error/network/mean"),
    ("normals, mean face", "angular_error/mean face/mean"),
    *(
        (f"{code} -> {factor}", f"accuracy/{code}/{factor}/random")
        for code in ("z_p", "z_exp", "z_id")
        for factor in ("pose", "expression", "identity")
    ),
)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders, trained and evaluated")
    add_out(parser, RESULTS)
    return parser.parse_args(argv)


def read(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Configuration and evaluation of a run."""
    found = []
    for name, maker in (("configuration", "train"), ("evaluation", "evaluate")):
        path = run / f"{name}.json"
        try:
            found.append(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, json.JSONDecodeError) as error:
            raise SystemExit(
                f"error: {path}: wanted what python -m ntensor.faces.{maker} writes, got {error}"
            ) from error
    return found[0], found[1]


def spread(found: list[Any]) -> Any:
    """Mean, standard deviation and values wherever the evaluations have a number."""
    first = found[0]
    if isinstance(first, dict):
        shared = [key for key in first if all(key in each for each in found)]
        return {key: spread([each[key] for each in found]) for key in shared}
    if isinstance(first, int | float) and not isinstance(first, bool):
        std = statistics.stdev(found) if len(found) > 1 else None
        return {"mean": statistics.fmean(found), "std": std, "values": found}
    return first if all(each == first for each in found) else found


def differing(configurations: list[dict[str, Any]]) -> set[str]:
    """Entries, but for seed and layout, in which the runs differ."""
    flat = [
        {
            f"{section}.{name}": value
            for section, rows in each.items()
            for name, value in rows.items()
        }
        for each in configurations
    ]
    free = ("training.seed", "model.rotation")
    # An entry that an earlier version wrote and a later one did not is the same in both.
    return {
        name
        for first, other in itertools.combinations(flat, 2)
        for name in first.keys() & other.keys()
        if first[name] != other[name]
    }.difference(free)


def number(table: dict[str, Any], path: str) -> str:
    """The entry as mean +- deviation."""
    entry: Any = table
    for key in path.split("/"):
        entry = entry.get(key, {})
    if "mean" not in entry:
        return "-"
    deviation = "" if entry["std"] is None else f" +- {entry['std']:.4f}"
    return f"{entry['mean']:.4f}{deviation}"


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    runs = [read(run) for run in options.runs]
    others = differing([configuration for configuration, _ in runs])
    if others:
        raise SystemExit(f"error: the runs differ in {', '.join(sorted(others))}")
    layouts: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for configuration, evaluation in runs:
        row = (configuration["training"]["seed"], evaluation)
        layouts.setdefault(configuration["model"]["rotation"], []).append(row)
    summary: dict[str, Any] = {
        "machine": describe(torch.get_num_threads(), torch.device("cpu")),
        "configuration": runs[0][0],
    }
    for layout, rows in layouts.items():
        evaluations = [evaluation for _, evaluation in rows]
        wanted = ("step", "faces", "samples", "squared_error", "angular_error", "accuracy")
        summary[layout] = {"seeds": [seed for seed, _ in rows]} | spread(
            [{key: each[key] for key in wanted if key in each} for each in evaluations]
        )
    options.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(summary, indent=1) + "\n"
    (options.out / "faces_tiny.json").write_text(text, encoding="utf-8")
    heads = [f"{layout}, seeds {summary[layout]['seeds']}" for layout in layouts]
    print(f"{'':28}" + "".join(f"{head:>28}" for head in heads))
    for title, path in SHOWN:
        print(f"{title:28}" + "".join(f"{number(summary[layout], path):>28}" for layout in layouts))
    pictures = sorted((options.runs[0] / "pictures").glob("step-*.png"))
    if not pictures:
        raise SystemExit(f"error: {options.runs[0] / 'pictures'}: wanted pictures, got none")
    (options.out / "faces_tiny.png").write_bytes(pictures[-1].read_bytes())
    return 0


if __name__ == "__main__":
    sys.exit(main())
