"""The converter from a checkout of ICT-FaceKit, on a stand-in with its topology."""

import numpy as np
import pytest

from ntensor.faces.morphable import ict_convert
from ntensor.faces.morphable.ict_face import load_ict_face, main


def write(path, vertices, faces=()):
    lines = [
        "mtllib material.mtl",
        *(f"v {x:.9f} {y:.9f} {z:.9f}" for x, y, z in vertices),
        "vt 0 0",
    ]
    lines += ["f " + " ".join(f"{v + 1}/1" for v in face) for face in faces]
    path.write_text("\n".join(lines))


@pytest.fixture(scope="module", autouse=True)
def few_expressions():
    """Parsing 28 files takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ict_convert, "EXPRESSIONS", ("eyeBlink", "jawOpen", "mouthSmile"))
        yield


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """Random points, eyeballs of 1.5 cm, one quad, one triangle to a part that is dropped."""
    folder = tmp_path_factory.mktemp("kit") / "FaceXModel"
    folder.mkdir()
    rng = np.random.default_rng(0)
    neutral = rng.normal(0, 4, (ict_convert.SOURCE_VERTICES, 3))
    for name, first, last in ict_convert.PARTS[-2:]:
        away = rng.normal(0, 1, (last - first, 3))
        away /= np.linalg.norm(away, axis=1, keepdims=True)
        neutral[first:last] = 1.5 * away + [3 if "left" in name else -3, 3, 2]
    write(
        folder / "generic_neutral_mesh.obj", neutral, [(0, 1, 2, 3), (4, 5, 25000), (6, 7, 21500)]
    )
    for k in range(2):
        moved = neutral.copy()
        moved[k] += [0.1, 0.2, -0.3]
        write(folder / f"identity{k:03d}.obj", moved)
    for side, height in (("L", 0.25), ("R", 0.5)):
        moved = neutral.copy()
        moved[9, 1] += height
        write(folder / f"eyeBlink_{side}.obj", moved)
    for name in ict_convert.EXPRESSIONS:
        if name != "eyeBlink":
            (folder / f"{name}.obj").hardlink_to(folder / "identity001.obj")
    return folder.parent


@pytest.fixture(scope="module")
def arrays(checkout):
    return ict_convert.convert(checkout / "FaceXModel")


def test_convert(checkout, tmp_path):
    out = tmp_path / "face.npz"
    main([str(checkout), "--out", str(out)])
    face = load_ict_face(out, identity_modes=2)
    neutral, _ = ict_convert.read_obj(checkout / "FaceXModel" / "generic_neutral_mesh.obj")
    shift = 10 * neutral[list(ict_convert.LANDMARKS)].mean(0) + [0, 5, -40]
    np.testing.assert_allclose(face.mean[:9409], 10 * neutral[:9409] - shift, atol=1e-4)
    modes = np.zeros((2, len(face.mean), 3))
    modes[0, 0] = modes[1, 1] = [1, 2, -3]
    np.testing.assert_allclose(face.identity_modes, modes, atol=0.0026)
    blink = np.zeros((len(face.mean), 3))
    blink[9, 1] = 7.5
    at = face.expression_names.index("eyeBlink")
    np.testing.assert_allclose(face.expression_modes[at], blink, atol=0.0026)
    assert face.shape_size == 3 * 9375 and face.expression_size == 3
    assert face.landmarks68.tolist() == list(ict_convert.LANDMARKS)
    # The quad and the triangle within kept parts, whose vertices are renumbered.
    assert len(face.triangles) == 3 and [6, 7, 21500] in face.triangles.tolist()
    balls = face.eye_direction.norm(dim=1)
    assert (balls > 0).sum() == 2 * 770
    np.testing.assert_allclose(balls[balls > 0], 1, atol=1e-5)


@pytest.mark.parametrize("shape", ["face", "narrow", "all", "other"])
def test_choice_of_the_shape(arrays, tmp_path, shape):
    out = tmp_path / "face.npz"
    np.savez(out, **arrays)
    if shape == "other":
        with pytest.raises(ValueError, match=r"shape must be one of shape9375, face.*got 'other'"):
            load_ict_face(out, 2, shape)
        with pytest.raises(ValueError, match=r"identity_modes must be 1\.\.2, got 80"):
            load_ict_face(out)
    else:
        face = load_ict_face(out, 1, shape)
        wanted = {"face": 9409, "narrow": 6706, "all": len(face.mean)}[shape]
        assert face.shape_size == 3 * wanted and face.identity_size == 1


def test_quads_are_split_on_their_shorter_diagonal():
    points = np.array([[0, 0, 0], [1, 0, 0], [3, 3, 0], [0, 1, 0]], float)
    assert ict_convert.triangulate(points, [[0, 1, 2, 3]]).tolist() == [[0, 1, 3], [1, 2, 3]]
    points[2] = [0.5, 0.5, 0]
    assert ict_convert.triangulate(points, [[0, 1, 2, 3]]).tolist() == [[0, 1, 2], [0, 2, 3]]
    assert ict_convert.triangulate(points, [[0, 1, 2]]).tolist() == [[0, 1, 2]]


def test_distance_to_a_polygon():
    square = np.array([[0, 0], [2, 0], [2, 2], [0, 2]], float)
    points = np.array([[1, 1], [1, 0.5], [3, 1], [-3, -4]])
    np.testing.assert_allclose(ict_convert._measure_inside(points, square), [1, 0.5, -1, -5])


def test_errors(checkout, tmp_path):
    with pytest.raises(SystemExit, match=r"generic_neutral_mesh.obj: the file does not exist"):
        main([str(tmp_path), "--out", str(tmp_path / "face.npz")])
    write(tmp_path / "generic_neutral_mesh.obj", np.zeros((5, 3)))
    with pytest.raises(ValueError, match="must have 26719 vertices, got 5"):
        ict_convert.convert(tmp_path)
    np.savez(tmp_path / "other.npz", mean=np.zeros(3))
    with pytest.raises(ValueError, match=r"other.npz: no array triangles, part, "):
        load_ict_face(tmp_path / "other.npz")
