"""Small good files of each kind that the faces read."""

import numpy as np
from PIL import Image

from ntensor.faces.morphable.ict_convert import BASIC, PARTS


def write_ict(path, vertices=60, modes=3, expressions=("jawOpen", "eyeBlink")):
    rng = np.random.default_rng(0)
    part = np.arange(vertices) % len(PARTS)
    np.savez_compressed(
        path,
        mean=rng.normal(0, 50, (vertices, 3)).astype(np.float32),
        triangles=rng.integers(0, vertices, (40, 3)).astype(np.int32),
        part=part.astype(np.uint8),
        part_names=np.array([name for name, _, _ in PARTS]),
        landmarks68=rng.integers(0, vertices, 68).astype(np.int32),
        id_q=rng.integers(-99, 99, (modes, 3, vertices)).astype(np.int16),
        id_step=np.float32(0.005),
        expr_q=rng.integers(-99, 99, (len(expressions), 3, vertices)).astype(np.int16),
        expr_step=np.float32(0.005),
        expr_names=np.array(expressions),
        basic_names=np.array(list(BASIC)),
        basic_weights=rng.random((7, len(expressions))).astype(np.float32),
        face_count=np.int32(40),
        narrow_face_count=np.int32(30),
        shape9375=np.arange(50, dtype=np.int32),
        eye_dir=rng.normal(0, 1, (vertices, 3)).astype(np.float32),
        eye_gaze_front=np.array([[1, 0, 1], [0, 1, 1]], np.float32),
        **{f"paint_{n}": np.zeros(vertices, np.uint8) for n in ("lips", "brows", "lash", "scalp")},
        ao=np.zeros(vertices, np.uint8),
    )


def write_pictures(folder):
    folder.mkdir()
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 255, (20, 24, 3), np.uint8)) for _ in range(3)]
    for name in ("a.png", "b.jpg", "c.webp", "d.bmp", "e.ppm"):
        frames[0].save(folder / name)
    frames[0].save(folder / "f.gif", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "g.tif", save_all=True, append_images=frames[1:])
    angles = np.linspace(0, 6, 5)
    lines = [f"{12 + 5 * np.cos(a):.3f} {10 + 6 * np.sin(a):.3f}" for a in angles]
    (folder / "a.txt").write_text("\n".join(lines))
    (folder / "a.pts").write_text("version: 1\nn_points: 5\n{\n" + "\n".join(lines) + "\n}\n")
    points = ", ".join(f"[{line.replace(' ', ', ')}]" for line in lines)
    (folder / "a.json").write_text(f'{{"a.png": [{points}], "b.jpg": [{points}]}}')
    (folder / "labels.csv").write_text("file,identity,pose\na.png,1,left\nb.jpg,2,right\n")


def write_mesh(path):
    points = np.random.default_rng(0).normal(0, 1, (8, 3))
    lines = [f"v {x:.4f} {y:.4f} {z:.4f}" for x, y, z in points] + ["f 1 2 3", "f 4/1 5/2 6/3"]
    path.write_text("\n".join(lines))
