"""What the pictures must satisfy: composition, geometry, light, and no holes."""

import pytest
import torch

from ntensor.faces.datasets import scenes
from ntensor.faces.datasets.generated import GeneratedFaces
from ntensor.faces.datasets.grids import make_grid
from ntensor.faces.morphable.analytic_face import make_analytic_face
from ntensor.faces.rendering import harmonics
from ntensor.faces.rendering.renderer import Renderer
from ntensor.faces.rendering.skin import draw_skin


@pytest.fixture(scope="module")
def faces():
    return GeneratedFaces(make_analytic_face())


@pytest.fixture(scope="module")
def batch(faces):
    return faces.batch(range(16))


def degrees(a, b, mask):
    """Mean angle between two normal maps within a mask."""
    cosine = (a * b).sum(1, keepdim=True).clamp(-1, 1)
    return torch.rad2deg(torch.arccos(cosine))[mask].mean()


def test_contract(faces, batch):
    n, size = 16, 64
    k_a, k_b, shape = (faces.sizes[name] for name in ("id_3dmm", "exp_3dmm", "shape"))
    wanted = dict.fromkeys(
        ("image", "normal", "albedo", "shading", "frontal_image", "frontal_normal"),
        (n, 3, size, size),
    ) | {
        "mask": (n, 1, size, size),
        "frontal_mask": (n, 1, size, size),
        "light": (n, 3, 9),
        "pose": (n, 3, 3),
        "id_3dmm": (n, k_a),
        "exp_3dmm": (n, k_b),
        "shape": (n, shape),
    }
    for name, extents in wanted.items():
        assert batch[name].shape == extents and batch[name].dtype == torch.float32, name
        assert batch[name].isfinite().all(), name
    assert batch["near_frontal"].dtype == torch.bool
    for name in ("identity", "expression", "pose_bin", "light_bin"):
        assert batch[name].shape == (n,) and batch[name].dtype == torch.int64
    for name in ("image", "mask", "albedo", "frontal_image", "frontal_mask"):
        assert batch[name].min() >= 0 and batch[name].max() <= 1, name


def test_image_is_composed_of_its_maps(batch):
    for prefix, background in (("", batch["background"]), ("frontal_", 0.0)):
        mask, albedo = batch[f"{prefix}mask"], batch[f"{prefix}albedo"]
        shading = harmonics.shading(batch[f"{prefix}normal"], batch["light"])
        composed = mask * (albedo * shading).clamp(0, 1) + (1 - mask) * background
        torch.testing.assert_close(batch[f"{prefix}image"], composed, atol=1e-5, rtol=0)
    inside = batch["mask"] > 0
    expected = harmonics.shading(batch["normal"], batch["light"]) * inside
    torch.testing.assert_close(batch["shading"], expected)


def test_normals_are_unit_in_the_mask_and_zero_outside(batch):
    for prefix in ("", "frontal_"):
        length = batch[f"{prefix}normal"].norm(dim=1, keepdim=True)
        inside = batch[f"{prefix}mask"] > 0
        torch.testing.assert_close(length[inside], torch.ones(int(inside.sum())))
        assert (length[~inside] == 0).all()


def test_pose_is_a_rotation_and_its_angles_come_back(batch):
    pose = batch["pose"]
    torch.testing.assert_close(pose @ pose.transpose(1, 2), torch.eye(3).expand(16, 3, 3))
    torch.testing.assert_close(torch.linalg.det(pose), torch.ones(16))
    torch.testing.assert_close(scenes.rotation_to_angles(pose), batch["angles"], atol=1e-3, rtol=0)


def test_directions_of_the_pose():
    """Positive yaw moves the nose to the image's right, positive pitch up."""
    nose = torch.tensor([0.0, 0, 1])
    angles = torch.tensor([[30.0, 0, 0], [0, 20, 0], [0, 0, 10]])
    right, up, _ = scenes.angles_to_rotation(angles) @ nose
    assert right[0] > 0.4 and abs(right[1]) < 1e-6
    assert up[1] > 0.3 and abs(up[0]) < 1e-6
    chin = scenes.angles_to_rotation(angles)[2] @ torch.tensor([0.0, 1, 0])
    assert chin[0] < 0


def test_frontal_maps_belong_to_the_unposed_face(faces, batch):
    drawn = faces.draw(range(16))
    still = scenes.Scenes(**{**vars(drawn), "angles": torch.zeros(16, 3)})
    again = faces.render(still)
    for name in ("image", "normal", "albedo", "mask"):
        wanted = again[name]
        if name == "image":
            wanted = wanted - (1 - again["mask"]) * again["background"]
        torch.testing.assert_close(batch[f"frontal_{name}"], wanted, atol=1e-5, rtol=0)


def test_shape_projects_onto_the_picture(faces, batch):
    """The posed vertices lie in the mask, and the mask's box is theirs."""
    points = batch["shape"].unflatten(1, (-1, 3)) @ batch["pose"].transpose(1, 2)
    camera = faces.renderer.camera
    scale = 64 / (2 * camera.half_width)
    column = (points[..., 0] - camera.center[0]) * scale + 32
    for mask, x in zip(batch["mask"][:, 0], column, strict=True):
        columns = (mask > 0).any(0).nonzero()[:, 0]
        assert abs(float(x.min().clamp(min=0)) - int(columns.min())) < 1.6
        assert abs(float(x.max().clamp(max=64)) - int(columns.max()) - 1) < 1.6


def holes(mask):
    """Pixels outside the mask that have it on their left and right, above and below."""
    inside = mask[:, 0] >= 0.5
    found = ~inside
    for dim in (1, 2):
        found &= inside.cummax(dim).values & inside.flip(dim).cummax(dim).values.flip(dim)
    return int(found.sum())


def test_holes_are_found():
    ring = torch.ones(1, 1, 9, 9)
    ring[:, :, 4, 3:5] = 0
    assert holes(ring) == 2


@pytest.mark.parametrize("size", [64, 256])
def test_no_holes(size):
    """Wide open mouths and eyes, every pose: nothing behind the head shows inside the face."""
    face = make_analytic_face()
    poses = [(y, p, 0.0) for y in (-60, 0, 35) for p in (-20, 15)]
    every = make_grid([0, 1], face.basic_names, poses, [0], face, size)
    indices = torch.arange(len(every))[:: 1 if size == 64 else 17]
    mask = every.batch(indices)["mask"]
    assert mask.mean() > 0.3
    assert holes(mask) == 0


def test_normals_are_the_surface_of_a_ball():
    """A sphere's normals are known at every pixel, sign by sign."""
    face = make_analytic_face()
    renderer = Renderer(face)
    center = torch.tensor([0.0, 0, -30])
    ball = torch.nn.functional.normalize(face.mean - center, dim=1) * 80 + center
    light = harmonics.ambient(torch.ones(1, 3))
    maps = renderer.draw(ball[None], [torch.eye(3)[None]], draw_skin([0]), light)[0]
    scale = renderer.camera.half_width / 32
    x = (torch.arange(64) + 0.5 - 32) * scale + renderer.camera.center[0]
    y = (32 - torch.arange(64) - 0.5) * scale + renderer.camera.center[1]
    nx, ny = torch.meshgrid(x / 80, y / 80, indexing="xy")
    inside = (nx**2 + ny**2 < 0.6) & (maps.mask[0, 0] > 0.9)
    wanted = torch.stack([nx, ny, (1 - nx**2 - ny**2).clamp(min=0).sqrt()])
    angle = torch.rad2deg(torch.arccos((maps.normal[0] * wanted).sum(0).clamp(-1, 1)))
    assert inside.sum() > 500
    assert angle[inside].median() < 3


def test_azimuth_sign_in_pictures(faces):
    """Light at azimuth A > 0 comes from the image's left: the face's left half is brighter."""
    drawn = faces.draw(range(8))
    lamp = harmonics.direction_of(torch.full((8,), 60.0), torch.zeros(8))
    light = harmonics.directional(lamp, torch.ones(8, 3))
    still = scenes.Scenes(**{**vars(drawn), "angles": torch.zeros(8, 3), "light": light})
    shading = faces.render(still)["shading"].mean(1)
    assert (shading[:, :, :28].mean((1, 2)) > 2 * shading[:, :, 36:].mean((1, 2))).all()


def test_photometric_stereo_gives_the_normals(faces):
    """Normals recovered from shadings under known lamps: exact, and wrong if an axis is flipped."""
    drawn = faces.draw(range(2))
    azimuth = torch.tensor([-40.0, 40, 0, 0, 15, -25])
    elevation = torch.tensor([0.0, 10, 35, -35, 20, -20])
    lamps = harmonics.direction_of(azimuth, elevation)
    light = harmonics.directional(lamps, torch.ones(6, 3))
    light[:, :, [0, *range(4, 9)]] = 0  # only the linear part, which a normal explains exactly
    light[:, :, 0] = 2
    shadings = []
    for k in range(6):
        one = scenes.Scenes(**{**vars(drawn), "light": light[k].expand(2, 3, 9)})
        shadings.append(faces.render(one)["shading"][:, 0])
    batch = faces.render(drawn)
    measured = torch.stack(shadings) - 2 * harmonics.C4
    solved = torch.linalg.lstsq(lamps, measured.flatten(1)).solution.unflatten(1, (2, 64, 64))
    solved = torch.nn.functional.normalize(solved.transpose(0, 1), dim=1)
    mask = batch["mask"] == 1
    assert degrees(solved, batch["normal"], mask) < 0.5
    for axis in (0, 1):
        flipped = solved.clone()
        flipped[:, axis] *= -1
        assert degrees(flipped, batch["normal"], mask) > 20


def test_mean_face_beats_flipped_faces(faces):
    """Control of the axes: the mean face's normals are far nearer than with x or y flipped."""
    drawn = faces.draw(range(12))
    still = scenes.Scenes(**{**vars(drawn), "angles": torch.zeros(12, 3)})
    batch = faces.render(still)
    mean = torch.nn.functional.normalize(batch["normal"].mean(0, keepdim=True), dim=1)
    mask = (batch["mask"] == 1) & (mean.norm(dim=1, keepdim=True) > 0)
    error = degrees(batch["normal"], mean.expand_as(batch["normal"]), mask)
    for axis in (0, 1):
        flipped = mean.clone()
        flipped[:, axis] *= -1
        assert degrees(batch["normal"], flipped.expand_as(batch["normal"]), mask) > 1.8 * error


def test_size_changes_only_the_resolution():
    face = make_analytic_face()
    small, large = (GeneratedFaces(face, size=s).batch([5]) for s in (32, 128))
    for name in ("image", "albedo", "mask", "normal"):
        reduced = torch.nn.functional.avg_pool2d(large[name], 4)
        assert (reduced - small[name]).abs().mean() < 0.02, name


def test_eyes_lips_and_brows_are_seen(faces):
    """In the albedo of neutral faces: iris darker than sclera, lips redder, brows darker."""
    drawn = faces.draw(range(4))
    still = scenes.Scenes(
        **{
            **vars(drawn),
            "angles": torch.zeros(4, 3),
            "id_3dmm": torch.zeros_like(drawn.id_3dmm),
            "exp_3dmm": torch.zeros_like(drawn.exp_3dmm),
        }
    )
    large = GeneratedFaces(faces.face_model, size=256)
    albedo = large.render(still)["albedo"]
    points = faces.face_model.mean[faces.face_model.landmarks68]
    camera, scale = large.renderer.camera, 128 / large.renderer.camera.half_width

    def colour(x, y):
        column = round(128 + (float(x) - camera.center[0]) * scale)
        row = round(128 - (float(y) - camera.center[1]) * scale)
        return albedo[:, :, row - 1 : row + 2, column - 1 : column + 2].mean((2, 3))

    eye = points[36:42].mean(0)
    pupil, sclera = colour(eye[0], eye[1]), colour(eye[0] - 8.5, eye[1])
    assert (pupil.mean(1) < 0.75 * sclera.mean(1)).all()
    cheek, lip = colour(-42, -8), colour(0, points[57, 1] + 3)
    assert ((lip[:, 0] / lip[:, 1]) > (cheek[:, 0] / cheek[:, 1])).all()
    brow = colour(*points[19, :2])
    assert (brow.mean(1) < cheek.mean(1)).all()


def test_errors():
    face = make_analytic_face()
    with pytest.raises(ValueError, match="size and samples must be positive, got 0, 2"):
        Renderer(face, 0)
    with pytest.raises(ValueError, match=r"each pose must have shape \(1, 3, 3\), got \(3, 3\)"):
        Renderer(face).draw(face.mean[None], [torch.eye(3)], draw_skin([0]), torch.zeros(1, 3, 9))
