"""Images a second of the face renderer, every map of a batch included, frontal ones too.

    python benchmarks/face_rendering.py [--device cuda] [--face-model ict_faces.npz] [--out FOLDER]

Writes `face_rendering.csv`, one row a face model, variation and size. With `--workers`, these
processes render with one thread each, as those of `ntensor.faces.data render` do; most persons of
the first batches are new, and painting them counts. Without, the best of `--repeat` batches.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time

import torch
from torch.utils.data import DataLoader

from harness.files import write_table
from harness.machine import describe
from harness.options import RESULTS, add_out
from ntensor.faces.configuration.face_source import VARIABLE
from ntensor.faces.data import Ranges
from ntensor.faces.datasets.generated import GeneratedFaces
from ntensor.faces.datasets.rendered import Faces
from ntensor.faces.datasets.wild import WildFaces
from ntensor.faces.morphable.face_models import load_face_model

VARIATIONS: dict[str, type[GeneratedFaces] | type[WildFaces]] = {
    "all": GeneratedFaces,
    "wild": WildFaces,
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--workers", type=int, help="processes; default: the threads, 0 on a GPU")
    parser.add_argument("--face-model", default=os.environ.get(VARIABLE), help="an ICT face file")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--repeat", type=int, default=10)
    add_out(parser, RESULTS)
    options = parser.parse_args()
    if options.workers is None:
        options.workers = options.threads if options.device == "cpu" else 0
    return options


def measure_batches(faces: Faces, n: int, repeat: int) -> float:
    best = float("inf")
    for number in range(repeat + 1):
        start = time.perf_counter()
        faces.batch(range(number * n, (number + 1) * n))
        if faces.device.type == "cuda":
            torch.cuda.synchronize(faces.device)
        if number:
            best = min(best, time.perf_counter() - start)
    return n / best


def measure_workers(faces: Faces, n: int, repeat: int, workers: int) -> float:
    # The first batches are not counted, and as many begin while the last counted ones are rendered.
    count = (repeat + 2) * workers
    batches = iter(DataLoader(Ranges(faces, 0, count * n, n), None, num_workers=workers))
    for _ in range(workers):
        next(batches)
    start = time.perf_counter()
    for _ in range(repeat * workers):
        next(batches)
    return repeat * workers * n / (time.perf_counter() - start)


def main() -> None:
    options = parse()
    torch.set_num_threads(1 if options.workers else options.threads)
    machine = describe(options.threads, torch.device(options.device))
    rows = []
    for source in filter(None, ("analytic", options.face_model)):
        face = load_face_model(source)
        for (variation, kind), size in itertools.product(VARIATIONS.items(), options.sizes):
            if kind is WildFaces and options.device != "cpu":
                continue
            faces = kind(face, size=size, device=options.device)
            given = faces, options.batch_size, options.repeat
            if options.workers:
                speed = measure_workers(*given, options.workers)
            else:
                speed = measure_batches(*given)
            print(f"{face.source:45} {variation:5} {size:4} px: {speed:8.1f} images/s", flush=True)
            rows.append(
                {
                    "face_model": face.source,
                    "variation": variation,
                    "size": size,
                    "batch_size": options.batch_size,
                    "workers": options.workers,
                    "images_a_second": round(speed, 1),
                }
            )
    options.out.mkdir(parents=True, exist_ok=True)
    write_table(options.out / "face_rendering.csv", rows, machine)


if __name__ == "__main__":
    main()
