"""Images a second of the face renderer, every map of a batch included, frontal ones too.

    python benchmarks/face_rendering.py [--device cuda] [--face-model ict_faces.npz] [--out FOLDER]

Writes `face_rendering.csv`, one row a face model and size; the best of `--repeat` batches.
"""

from __future__ import annotations

import argparse
import os
import time

import torch

from harness.files import write_table
from harness.machine import describe
from harness.options import RESULTS, add_out
from ntensor.faces.configuration.face_source import VARIABLE
from ntensor.faces.datasets.generated import GeneratedFaces
from ntensor.faces.morphable.face_models import load_face_model


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--face-model", default=os.environ.get(VARIABLE), help="an ICT face file")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--repeat", type=int, default=10)
    add_out(parser, RESULTS)
    return parser.parse_args()


def images_a_second(faces: GeneratedFaces, n: int, repeat: int) -> float:
    best = float("inf")
    for number in range(repeat + 1):
        start = time.perf_counter()
        faces.batch(range(number * n, (number + 1) * n))
        if faces.device.type == "cuda":
            torch.cuda.synchronize(faces.device)
        if number:
            best = min(best, time.perf_counter() - start)
    return n / best


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    machine = describe(options.threads, torch.device(options.device))
    rows = []
    for source in filter(None, ("analytic", options.face_model)):
        face = load_face_model(source)
        for size in options.sizes:
            faces = GeneratedFaces(face, size=size, device=options.device)
            speed = images_a_second(faces, options.batch_size, options.repeat)
            print(f"{face.source:55} {size:4} px: {speed:8.1f} images/s", flush=True)
            rows.append(
                {
                    "face_model": face.source,
                    "size": size,
                    "batch_size": options.batch_size,
                    "images_a_second": round(speed, 1),
                }
            )
    options.out.mkdir(parents=True, exist_ok=True)
    write_table(options.out / "face_rendering.csv", rows, machine)


if __name__ == "__main__":
    main()
