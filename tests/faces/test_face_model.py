"""The built-in face, the choice of the source, and the interface of every source."""

import os
import sys
from pathlib import Path

import pytest
import torch

from ntensor.faces.common.errors import ConfigurationError
from ntensor.faces.configuration.face_source import VARIABLE
from ntensor.faces.morphable.analytic_face import make_analytic_face
from ntensor.faces.morphable.face_model import MATERIALS
from ntensor.faces.morphable.face_models import load_face_model

FACES = {"analytic": "analytic"}
if Path(os.environ.get(VARIABLE, "")).is_file():
    FACES["file"] = os.environ[VARIABLE]


@pytest.fixture(params=FACES, scope="module")
def face(request):
    return load_face_model(FACES[request.param])


def area_normals(face, points):
    a, b, c = (points[face.triangles[:, k]] for k in range(3))
    return torch.linalg.cross(b - a, c - a)


@pytest.mark.parametrize("count", [1000, 1777, 6000, 9375])
def test_any_vertex_count(count):
    face = make_analytic_face(count)
    assert face.mean.shape == (count, 3)
    assert face.shape_size == 3 * count
    assert face.triangles.unique().numel() == count


def test_sizes(face):
    assert face.identity_size >= 20 and face.expression_size >= 10
    assert len(face.expression_names) == face.expression_size
    assert face.basic_weights.shape == (7, face.expression_size)
    assert face.materials.shape == (len(face.mean), len(MATERIALS))
    assert face.landmarks68.unique().numel() == 68
    for values in (face.mean, face.identity_modes, face.expression_modes, face.materials):
        assert values.isfinite().all()
    assert face.materials.min() >= 0 and face.materials.max() <= 1
    assert face.basic_weights.min() >= 0 and face.basic_weights.max() <= 1


def test_is_linear(face, generator):
    a = torch.randn(3, face.identity_size, generator=generator)
    b = torch.rand(3, face.expression_size, generator=generator)
    wanted = (
        face.mean
        + torch.einsum("nk,kvc->nvc", a, face.identity_modes)
        + torch.einsum("nk,kvc->nvc", b, face.expression_modes)
    )
    torch.testing.assert_close(face.vertices(a, b), wanted, atol=1e-3, rtol=1e-5)
    fewer = a.clone()
    fewer[:, 5:] = 0
    torch.testing.assert_close(face.vertices(a[:, :5], b), face.vertices(fewer, b))


def test_modes_move_the_skin_by_millimetres(face):
    identity = face.identity_modes[:, face.shape_vertices].norm(dim=2).amax(1)
    expression = face.expression_modes[:, face.shape_vertices].norm(dim=2).amax(1)
    assert (identity > 0.2).all() and (identity < 30).all()
    assert (expression > 0.5).all() and (expression < 60).all()


def test_looks_towards_the_camera(face):
    """Nose in front, brows above mouth, the subject's right eye (points 36 to 41) at x < 0."""
    points = face.mean[face.landmarks68]
    assert points[30, 2] > points[:17, 2].max()
    assert points[17:27, 1].min() > points[48:, 1].max()
    assert (points[36:42, 0] < 0).all() and (points[42:48, 0] > 0).all()
    normals = area_normals(face, face.mean)
    x, _, z = face.mean[face.triangles].mean(1).unbind(1)
    front = (face.parts[face.triangles[:, 0]] == 0) & (x.abs() < 45) & (z > 25)
    # Nostrils, lids and the insides of the lips face away, and the ICT face has more of them.
    least = 0.93 if face.source.startswith("analytic") else 0.75
    assert (normals[front, 2] > 0).float().mean() > least


def test_mesh_is_consistent(face):
    """No degenerate triangle, and no edge that two triangles run through in the same direction."""
    t = face.triangles
    assert ((t[:, 0] != t[:, 1]) & (t[:, 1] != t[:, 2]) & (t[:, 2] != t[:, 0])).all()
    edges = torch.cat([t[:, [0, 1]], t[:, [1, 2]], t[:, [2, 0]]])
    assert len(edges.unique(dim=0)) == len(edges)


def test_is_mirror_symmetric():
    face = make_analytic_face()
    skin = face.mean[face.parts == 0]
    mirrored = skin * torch.tensor([-1.0, 1, 1])
    assert torch.cdist(mirrored, skin).amin(1).max() < 0.5


def test_blink_closes_the_eyes_and_jaw_opens_the_mouth(face):
    """By the distance of upper and lower landmarks, in millimetres."""

    def gap(name, upper, lower):
        weights = torch.zeros(2, face.expression_size)
        weights[1, face.expression_names.index(name)] = 1
        points = face.vertices(torch.zeros(2, face.identity_size), weights)
        points = points[:, face.landmarks68]
        return (points[:, upper] - points[:, lower])[..., 1].mean(1)

    eyes = gap("eyeBlink", [37, 38, 43, 44], [41, 40, 47, 46])
    assert eyes[0] > 5 and eyes[1] < 0.45 * eyes[0]
    mouth = gap("jawOpen", [61, 62, 63], [67, 66, 65])
    assert mouth[0] < 3 and mouth[1] > 15


def test_shape_is_a_mesh_of_its_own(face):
    triangles = face.shape_triangles()
    assert triangles.min() >= 0 and triangles.max() < face.shape_size // 3
    assert len(triangles) > 0.9 * face.shape_size // 3


def test_choice_of_the_source(monkeypatch, tmp_path):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert load_face_model().source == "analytic face, 6000 vertices"
    monkeypatch.setenv(VARIABLE, str(tmp_path / "absent.npz"))
    assert load_face_model("analytic").source == "analytic face, 6000 vertices"
    with pytest.raises(ConfigurationError, match=f"{VARIABLE} names .*absent.npz"):
        load_face_model()
    with pytest.raises(ConfigurationError, match=r"the argument names .*other.npz"):
        load_face_model(tmp_path / "other.npz")
    broken = tmp_path / "broken.npz"
    broken.write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"broken.npz: cannot be read"):
        load_face_model(broken)


def test_errors(face):
    a, b = torch.zeros(2, face.identity_size), torch.zeros(2, face.expression_size)
    with pytest.raises(ValueError, match="identity must have shape"):
        face.vertices(torch.zeros(2, face.identity_size + 1), b)
    with pytest.raises(ValueError, match="expression must have shape"):
        face.vertices(a, b[:, 1:])
    with pytest.raises(ValueError, match="identity has 2 rows and expression 1"):
        face.vertices(a, b[:1])
    with pytest.raises(ValueError, match="at least 1000, got 10"):
        make_analytic_face(10)


def test_importing_ntensor_imports_no_faces():
    import subprocess

    code = (
        "import sys, ntensor; assert not [m for m in sys.modules if m.startswith('ntensor.faces')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
