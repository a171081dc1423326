"""Converts a checkout of ICT-FaceKit, `FaceXModel/*.obj`, to the ICT face file."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from ntensor.faces.common.errors import DamagedData
from ntensor.faces.reading import parsing, read_text

from .analytic_surface import scalp_weight, smoothstep

# Vertex ranges kept from the source's topology: name, first, one past the last. Irises, tear fluid,
# blend and occlusion meshes and lashes cannot be rendered without refraction or transparency.
PARTS = (
    ("face", 0, 9409),
    ("head_neck", 9409, 11248),
    ("mouth_socket", 11248, 13294),
    ("eye_socket_left", 13294, 13678),
    ("eye_socket_right", 13678, 14062),
    ("gums_tongue", 14062, 17039),
    ("teeth_upper", 17039, 19247),
    ("teeth_lower", 19247, 21451),
    ("eyeball_left", 21451, 22221),
    ("eyeball_right", 23021, 23791),
)
SOURCE_VERTICES = 26719
FACE, NARROW, SHAPE = 9409, 6706, 9375
LANDMARKS = (
    1225, 1888, 1052, 367, 1719, 1722, 2199, 1447, 966, 3661, 4390, 3927, 3924, 2608, 3272, 4088,
    3443, 268, 493, 1914, 2044, 1401, 3615, 4240, 4114, 2734, 2509, 978, 4527, 4942, 4857, 1140,
    2075, 1147, 4269, 3360, 1507, 1542, 1537, 1528, 1518, 1511, 3742, 3751, 3756, 3721, 3725, 3732,
    5708, 5695, 2081, 0, 4275, 6200, 6213, 6346, 6461, 5518, 5957, 5841, 5702, 5711, 5533, 6216,
    6207, 6470, 5517, 5966,
)  # fmt: skip
# Left and right are combined, and gaze and mouthClose left out, which gives the paper's 28.
EXPRESSIONS = (
    "browDown", "browInnerUp", "browOuterUp", "cheekPuff", "cheekSquint", "eyeBlink", "eyeSquint",
    "eyeWide", "jawForward", "jawLeft", "jawOpen", "jawRight", "mouthDimple", "mouthFrown",
    "mouthFunnel", "mouthLeft", "mouthLowerDown", "mouthPress", "mouthPucker", "mouthRight",
    "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper", "mouthSmile",
    "mouthStretch", "mouthUpperUp", "noseSneer",
)  # fmt: skip
BASIC: dict[str, dict[str, float]] = {
    "neutral": {},
    "happy": {"mouthSmile": 0.9, "cheekSquint": 0.5, "eyeSquint": 0.3, "jawOpen": 0.15},
    "sad": {"browInnerUp": 0.8, "mouthFrown": 0.9, "mouthShrugLower": 0.4},
    "surprise": {"browInnerUp": 0.9, "browOuterUp": 0.9, "eyeWide": 0.9, "jawOpen": 0.55},
    "anger": {"browDown": 1.0, "mouthPress": 0.7, "eyeSquint": 0.5, "noseSneer": 0.5},
    "disgust": {"noseSneer": 1.0, "mouthUpperUp": 0.7, "browDown": 0.6, "cheekSquint": 0.5},
    "fear": {"browInnerUp": 1.0, "eyeWide": 1.0, "mouthStretch": 0.8, "jawOpen": 0.25},
}
_MILLIMETRES = 10.0  # the source's unit is taken to be one centimetre
_MOST_OBJ = 64_000_000
_STEP = 0.005  # of the quantised modes, millimetres
_KEPT_BULGE = 0.35  # share of the cornea's height that is kept, so that the lids close over it


def read_obj(path: Path, faces: bool = False) -> tuple[Any, list[list[int]]]:
    """Reads the vertices (V, 3) of a Wavefront OBJ file and, with `faces`, its polygons.

    Polygons are zero-based.

    Raises:
        DamagedData: the file is not valid.
    """
    lines = read_text(path, _MOST_OBJ).splitlines()
    with parsing(path):
        numbers = [line[2:].split()[:3] for line in lines if line.startswith("v ")]
        vertices = np.array(numbers, dtype=np.float64).reshape(-1, 3)
        polygons = []
        if faces:
            rows = (line[2:].split() for line in lines if line.startswith("f "))
            polygons = [[int(corner.split("/")[0]) - 1 for corner in row] for row in rows]
        if not np.isfinite(vertices).all():
            raise ValueError("vertices must be finite")
        if any(not 0 <= corner < len(vertices) for polygon in polygons for corner in polygon):
            raise ValueError(f"polygons must be of the vertices 1 to {len(vertices)}")
    return vertices, polygons


def triangulate(vertices: Any, polygons: list[list[int]]) -> Any:
    """Triangles (T, 3): quads are split on the shorter diagonal, larger polygons into fans."""
    triangles = []
    for p in polygons:
        if len(p) == 4:
            a, b, c, d = p
            short = np.sum((vertices[a] - vertices[c]) ** 2) <= np.sum(
                (vertices[b] - vertices[d]) ** 2
            )
            triangles += [(a, b, c), (a, c, d)] if short else [(a, b, d), (b, c, d)]
        else:
            triangles += [(p[0], p[k], p[k + 1]) for k in range(1, len(p) - 1)]
    return np.array(triangles, np.int64).reshape(-1, 3)


def convert(checkout: str | Path) -> dict[str, Any]:
    """Computes the arrays of an ICT face file.

    Material weights are derived from the landmarks, since the source has none.

    Args:
        checkout: the folder of ICT-FaceKit, or its `FaceXModel`.

    Returns:
        dict of arrays, as read by `load_ict_face`.

    Raises:
        DamagedData: a file is missing, unreadable, or of another topology.
    """
    root = Path(checkout)
    root = root / "FaceXModel" if (root / "FaceXModel").is_dir() else root
    neutral, polygons = _read(root / "generic_neutral_mesh.obj", faces=True)
    kept = np.concatenate([np.arange(first, last) for _, first, last in PARTS])
    place = np.full(SOURCE_VERTICES, -1)
    place[kept] = np.arange(len(kept))
    triangles = place[triangulate(neutral, polygons)]
    triangles = triangles[(triangles >= 0).all(1)]
    shift = _MILLIMETRES * neutral[list(LANDMARKS)].mean(0) + (0, 5, -40)
    part = np.repeat(np.arange(len(PARTS)), [last - first for _, first, last in PARTS])
    mean = _MILLIMETRES * neutral[kept] - shift
    identities = sorted(root.glob("identity[0-9][0-9][0-9].obj"))
    if not identities:
        raise DamagedData(root, None, "no file identity000.obj")
    modes = [_MILLIMETRES * (_read(path)[0] - neutral)[kept] for path in identities]
    expressions = [
        _MILLIMETRES * _read_expression(root, name, neutral)[kept] for name in EXPRESSIONS
    ]
    id_q, id_step = _quantise(np.stack(modes))
    expr_q, expr_step = _quantise(np.stack(expressions))
    landmarks = place[list(LANDMARKS)]
    eyes = _find_eyes(mean, part)
    return {
        "mean": (mean - eyes["eye_dir"] * eyes["cornea_lift"][:, None]).astype(np.float32),
        "triangles": triangles.astype(np.int32),
        "part": part.astype(np.uint8),
        "part_names": np.array([name for name, _, _ in PARTS]),
        "landmarks68": landmarks.astype(np.int32),
        "source_index": kept.astype(np.int32),
        "id_q": id_q,
        "id_step": id_step,
        "expr_q": expr_q,
        "expr_step": expr_step,
        "expr_names": np.array(EXPRESSIONS),
        "basic_names": np.array(list(BASIC)),
        "basic_weights": np.array(
            [[mix.get(name, 0.0) for name in EXPRESSIONS] for mix in BASIC.values()], np.float32
        ),
        "face_count": np.int32(FACE),
        "narrow_face_count": np.int32(NARROW),
        "shape9375": _choose_shape(mean, landmarks),
        "origin_shift": shift.astype(np.float32),
        **eyes,
        **_paint(mean, part, landmarks, eyes["eye_dir"]),
    }


def _read(path: Path, faces: bool = False) -> tuple[Any, list[list[int]]]:
    vertices, polygons = read_obj(path, faces)
    if len(vertices) != SOURCE_VERTICES:
        raise DamagedData(path, None, f"must have {SOURCE_VERTICES} vertices, got {len(vertices)}")
    return vertices, polygons


def _read_expression(root: Path, name: str, neutral: Any) -> Any:
    whole = root / f"{name}.obj"
    paths = [whole] if whole.exists() else [root / f"{name}_{side}.obj" for side in "LR"]
    return sum(_read(path)[0] - neutral for path in paths)


def _quantise(modes: Any) -> tuple[Any, Any]:
    step = max(_STEP, float(np.abs(modes).max()) / 32767)
    return np.rint(modes / step).astype(np.int16).transpose(0, 2, 1), np.float32(step)


def _choose_shape(mean: Any, landmarks: Any) -> Any:
    """The 9375 vertices of the face nearest to the landmarks' centroid."""
    distance = np.linalg.norm(mean[:FACE] - mean[landmarks].mean(0), axis=1)
    return np.sort(np.argsort(distance, kind="stable")[:SHAPE]).astype(np.int32)


def _find_eyes(mean: Any, part: Any) -> dict[str, Any]:
    direction, lift = np.zeros_like(mean), np.zeros(len(mean))
    gaze = np.zeros((2, 3))
    names = [name for name, _, _ in PARTS]
    for side, name in enumerate(("eyeball_left", "eyeball_right")):
        chosen = part == names.index(name)
        points = mean[chosen]
        rear = points[points[:, 2] < np.median(points[:, 2])]
        system = np.concatenate([2 * rear, np.ones((len(rear), 1))], 1)
        solution = np.linalg.lstsq(system, (rear**2).sum(1), rcond=None)[0]
        center = solution[:3]
        radius = np.sqrt(solution[3] + center @ center)
        away = points - center
        length = np.linalg.norm(away, axis=1)
        direction[chosen] = away / length[:, None]
        bulge = np.clip(length - radius, 0, None) * (away[:, 2] > 0)
        lift[chosen] = (1 - _KEPT_BULGE) * bulge
        axis = (direction[chosen] * bulge[:, None] ** 2).sum(0)
        # The cornea's axis points a few degrees outwards; scaling x makes the gaze look frontal.
        gaze[side] = axis * (0.59, 1, 1)
    gaze /= np.linalg.norm(gaze, axis=1, keepdims=True)
    return {
        "eye_dir": direction.astype(np.float32),
        "cornea_lift": lift.astype(np.float32),
        "eye_gaze_front": gaze.astype(np.float32),
    }


def _paint(mean: Any, part: Any, landmarks: Any, eye_dir: Any) -> dict[str, Any]:
    points = mean[landmarks]
    skin = part <= 1
    front = (part == 0) * smoothstep(-20, 0, mean[:, 2])
    flat = mean[:, :2]
    lips = _measure_inside(flat, points[48:60, :2])
    brows = np.minimum(
        _measure_distance(flat, points[17:22, :2]), _measure_distance(flat, points[22:27, :2])
    )
    rims = [np.concatenate([points[k : k + 6], points[k : k + 1]]) for k in (36, 42)]
    lash = np.minimum(*(_measure_distance(mean, rim) for rim in rims))
    names = [name for name, _, _ in PARTS]
    inner = np.isin(part, [k for k, name in enumerate(names) if "teeth" in name or "gums" in name])
    sky = np.where(skin, 1.0, np.where(inner, 0.6, 0.45))
    eye = part >= names.index("eyeball_left")
    sky[eye] = 1 - 0.45 * smoothstep(0.05, 0.5, eye_dir[eye, 1])
    x, y, z = np.abs(mean[:, 0]), mean[:, 1], mean[:, 2]
    ears = smoothstep(73, 77, x) * (np.abs(y - 22) < 40) * (z > -70)
    weights = {
        "paint_lips": front * smoothstep(-1, 1.5, lips),
        "paint_brows": front * np.exp(-((brows / 3.8) ** 3)),
        "paint_lash": front * np.exp(-((lash / 2.0) ** 2)),
        "paint_scalp": skin * scalp_weight(mean) * (1 - ears),
        "ao": sky,
    }
    return {name: np.rint(255 * value).astype(np.uint8) for name, value in weights.items()}


def _measure_distance(points: Any, line: Any) -> Any:
    """Distance of points (m, d) to a polyline with vertices (k, d)."""
    best = np.full(len(points), np.inf)
    for a, b in itertools.pairwise(line):
        t = np.clip((points - a) @ (b - a) / max((b - a) @ (b - a), 1e-12), 0, 1)
        best = np.minimum(best, np.linalg.norm(points - a - t[:, None] * (b - a), axis=1))
    return best


def _measure_inside(points: Any, polygon: Any) -> Any:
    """Signed distance to a polygon's boundary, positive inside."""
    closed = np.concatenate([polygon, polygon[:1]])
    crossings = np.zeros(len(points), bool)
    x, y = points.T
    for (ax, ay), (bx, by) in itertools.pairwise(closed):
        spans = (ay > y) != (by > y)
        crossings ^= spans & (x < ax + (y - ay) * (bx - ax) / (by - ay if by != ay else 1.0))
    return np.where(crossings, 1, -1) * _measure_distance(points, closed)
