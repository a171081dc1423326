"""Pictures from files: their modes, their landmarks, and where alignment brings a face."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from ntensor.faces.common.errors import ImageError
from ntensor.faces.datasets import scenes
from ntensor.faces.media import images, videos
from ntensor.faces.morphable.analytic_face import make_analytic_face
from ntensor.faces.reading import read_picture


@pytest.fixture(scope="module")
def face():
    return make_analytic_face(1000)


def gradient(width=12, height=10):
    """Columns of rising grey."""
    row = np.linspace(0, 255, width).round().astype(np.uint8)
    return np.repeat(row[None], height, 0)


def shown(image):
    return (image * 255).round().to(torch.uint8)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "RGBA", "LA", "CMYK", "I;16"])
def test_modes_become_colours(tmp_path, mode):
    grey = gradient()
    image = Image.fromarray(grey)
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    elif mode == "1":
        grey = np.where(grey > 127, 255, 0).astype(np.uint8)
        image = Image.fromarray(grey).convert("1")
    elif mode == "P":
        image = image.convert("RGB").quantize(256)
    elif mode != "L":
        image = image.convert("RGB").convert("RGBA").convert(mode) if mode == "LA" else (
            image.convert("RGB").convert(mode))  # fmt: skip
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    found = read_picture(path)
    assert found.shape == (3, 10, 12) and found.dtype == torch.float32
    wanted = torch.from_numpy(grey).expand(3, -1, -1)
    difference = (shown(found).int() - wanted.int()).abs().max()
    assert difference <= (4 if mode == "P" else 0)


def test_transparent_places_are_white(tmp_path):
    pixels = np.zeros((10, 10, 4), np.uint8)
    pixels[:, 5:, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = read_picture(tmp_path / "a.png")
    assert (found[:, :, :5] == 1).all() and (found[:, :, 5:] == 0).all()


def test_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(gradient()).save(tmp_path / "a.png", exif=exif)
    found = read_picture(tmp_path / "a.png")
    assert found.shape == (3, 12, 10)
    assert found[0, 0, 0] < found[0, -1, 0]


def test_what_is_refused(tmp_path):
    text = tmp_path / "a.png"
    text.write_text("no picture")
    cut = tmp_path / "cut.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).save(cut)
    cut.write_bytes(cut.read_bytes()[:-2000])
    Image.fromarray(gradient().astype(np.float32)).save(tmp_path / "a.tif")
    Image.fromarray(gradient(4, 4)).save(tmp_path / "small.png")
    reasons = {
        text: "not a picture of a supported format",
        cut: "cannot be read",
        tmp_path / "a.tif": "got mode 'F', whose range is unknown",
        tmp_path / "small.png": r"expected at least 8 x 8 pixels, got \(4, 4\)",
        tmp_path / "absent.png": "the file does not exist",
        tmp_path: "got a folder",
    }
    for path, reason in reasons.items():
        with pytest.raises(ImageError, match=reason):
            read_picture(path)


def test_folders(tmp_path):
    with pytest.raises(ImageError, match="the folder has no pictures"):
        images.list_images(tmp_path)
    for name in ("b.png", "a.JPG", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in images.list_images(tmp_path)] == ["a.JPG", "b.png"]
    (tmp_path / "folder.png").mkdir()
    for name, kind in (("c", "GIF"), ("d.dat", "GIF"), ("e.jp2", "JPEG2000")):
        Image.fromarray(gradient(16, 16)).save(tmp_path / name, kind)
        assert read_picture(tmp_path / name).shape == (3, 16, 16)
    found = [path.name for path in images.list_images(tmp_path)]
    assert found == ["a.JPG", "b.png", "c", "d.dat", "e.jp2"]
    with pytest.raises(ImageError, match="expected a folder of pictures"):
        images.list_images(tmp_path / "absent")


def test_landmark_files(tmp_path):
    points = torch.rand(5, 2) * 50
    lines = "\n".join(f"{x:.5f} {y:.5f}" for x, y in points.tolist())
    (tmp_path / "a.txt").write_text(lines)
    (tmp_path / "b.txt").write_text(lines.replace(" ", ", "))
    (tmp_path / "c.pts").write_text(f"version: 1\nn_points: 5\n{{\n{lines}\n}}\n")
    (tmp_path / "d.json").write_text(json.dumps({"a.png": points.tolist()}))
    read = images.read_landmarks
    tolerance = {"rtol": 0, "atol": 1e-4}
    assert_close(read(tmp_path / "a.txt"), points, **tolerance)
    assert_close(read(tmp_path / "b.txt"), points, **tolerance)
    assert_close(read(tmp_path / "c.pts"), points - 1, **tolerance)
    assert_close(read(tmp_path / "d.json", "a.png"), points, **tolerance)
    assert_close(read(tmp_path, "c.jpg"), points - 1, **tolerance)
    (tmp_path / "e.txt").write_text("1 2\n3 4\n")
    (tmp_path / "f.txt").write_text("1 x\n" * 5)
    (tmp_path / "g.txt").write_text("1 nan\n" * 5)
    reasons = {
        ("e.txt", None): "expected 5 or 68 landmarks of two numbers, got 2",
        ("f.txt", None): "f.txt: cannot be read .*'x'",
        ("g.txt", None): "landmarks must be numbers from",
        ("absent.txt", None): "the file does not exist",
        ("d.json", "z.png"): "has no landmarks for z.png",
    }
    for (name, image), reason in reasons.items():
        with pytest.raises(ImageError, match=reason):
            read(tmp_path / name, image)
    with pytest.raises(ImageError, match=r"has no landmarks z.txt or z.pts"):
        read(tmp_path, "z.png")


def photograph(face, count, angles, scale, origin):
    """Landmarks (count, 2) of the mean face in some other camera's picture."""
    points = images.find_reference_points(face, count)
    turned = points @ scenes.angles_to_rotation(torch.tensor([angles]))[0].T
    return turned[:, :2] * torch.tensor([scale, -scale]) + torch.tensor(origin)


@pytest.mark.parametrize("count", [5, 68])
@pytest.mark.parametrize(
    ("angles", "scale", "origin"),
    [
        ((0.0, 0.0, 0.0), 64 / 208, (31.5, 34.0)),
        ((0.0, 0.0, 30.0), 1.7, (300.0, 200.0)),
        ((35.0, -12.0, -20.0), 0.6, (90.0, 100.0)),
        ((-50.0, 10.0, 75.0), 3.0, (411.0, 502.0)),
    ],
)
def test_landmarks_land_where_the_camera_of_the_data_has_them(face, count, angles, scale, origin):
    landmarks = photograph(face, count, angles, scale, origin)
    _, moved = images.align(torch.rand(3, 40, 50), landmarks, face, 64)
    upright = scenes.angles_to_rotation(torch.tensor([[*angles[:2], 0.0]]))[0]
    wanted = images.project(images.find_reference_points(face, count) @ upright.T, 64)
    assert_close(moved, wanted, rtol=0, atol=2e-2)


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_the_picture_moves_with_its_landmarks(face, scale):
    landmarks = photograph(face, 68, (20.0, 0.0, 25.0), scale, (150.0 * scale, 140.0 * scale))
    size = int(300 * scale)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    for row in (8, 30, 54):
        point = landmarks[row]
        blob = (-((x - point[0]) ** 2 + (y - point[1]) ** 2) / (2 * (5 * scale) ** 2)).exp()
        found, moved = images.align(blob.expand(3, -1, -1), landmarks, face, 128)
        weights = found[0] / found[0].sum()
        places = torch.arange(128.0)
        centre = torch.stack([(weights.sum(0) * places).sum(), (weights.sum(1) * places).sum()])
        assert_close(centre, moved[row], rtol=0, atol=0.1)


def test_known_camera_is_found(face):
    landmarks = photograph(face, 68, (25.0, 8.0, -40.0), 2.5, (70.0, 80.0))
    R, scale, origin = images.fit_camera(landmarks, images.find_reference_points(face, 68))
    assert_close(
        R, scenes.angles_to_rotation(torch.tensor([[25.0, 8.0, -40.0]]))[0], rtol=0, atol=1e-4
    )
    assert scale == pytest.approx(2.5, abs=1e-4)
    assert_close(origin, torch.tensor([70.0, 80.0]), rtol=0, atol=1e-2)


def test_landmarks_of_no_face_are_refused(face):
    line = torch.stack([torch.arange(5.0), 2 * torch.arange(5.0)], 1)
    for points in (line, torch.ones(5, 2)):
        with pytest.raises(ImageError, match="in one place or on one line"):
            images.align(torch.rand(3, 20, 20), points, face, 16)


def test_five_of_68(face):
    points = images.reduce_to_five(face.mean[face.landmarks68])
    eyes, nose, mouth = points[:2], points[2], points[3:]
    assert eyes[0, 0] < 0 < eyes[1, 0] and mouth[0, 0] < 0 < mouth[1, 0]
    assert eyes[:, 1].min() > nose[1] > mouth[:, 1].max() and nose[2] > eyes[:, 2].max()


def test_crop():
    image = torch.arange(80.0).view(1, 8, 10).expand(3, -1, -1) / 80
    same, _ = images.crop(image[:, :, :8], 8)
    assert torch.equal(same, image[:, :, :8])
    middle, moved = images.crop(image, 8, landmarks=torch.tensor([[1.0, 0.0]]))
    assert_close(middle, image[:, :, 1:9])
    assert_close(moved, torch.tensor([[0.0, 0.0]]))
    part, moved = images.crop(image, 4, (2, 3, 6, 7), torch.tensor([[2.0, 3.0]]))
    assert_close(part, image[:, 3:7, 2:6])
    assert_close(moved, torch.tensor([[0.0, 0.0]]))
    half, moved = images.crop(image, 4, (0, 0, 8, 8), torch.tensor([[0.5, 0.5]]))
    assert_close(moved, torch.tensor([[0.0, 0.0]]))
    assert half[0, 1, 1] == pytest.approx(float(image[0, 2:4, 2:4].mean()), abs=0.01)
    wide, _ = images.crop(image, 8, (1, 3, 9, 5))
    assert_close(wide, image[:, :, 1:9])
    for box, reason in (((4, 4, 4, 6), "a positive area"), ((20, 0, 30, 5), "outside the picture")):
        with pytest.raises(ImageError, match=reason):
            images.crop(image, 4, box)


def test_projection_is_the_renderers():
    from ntensor.faces.rendering import harmonics
    from ntensor.faces.rendering.renderer import Renderer
    from ntensor.faces.rendering.skin import draw_skin

    face = make_analytic_face(1500)
    identity = torch.zeros(1, face.identity_size)
    vertices = face.vertices(identity, torch.zeros(1, face.expression_size))
    R = scenes.angles_to_rotation(torch.tensor([[30.0, 10.0, 15.0]]))
    light = harmonics.ambient(torch.ones(1, 3))
    mask = Renderer(face, 128).draw(vertices, [R], draw_skin([0]), light)[0].mask[0, 0]
    places = images.project(vertices[0] @ R[0].T, 128)
    inside = ((places >= 0) & (places <= 127)).all(1)
    columns, rows = places[inside].round().long().T
    # Every vertex lies on the drawn face, and they reach its edges.
    near = torch.nn.functional.max_pool2d(mask[None, None], 3, 1, 1)[0, 0]
    assert (near[rows, columns] > 0).all()
    covered = mask.nonzero()
    assert abs(int(covered[:, 1].min()) - int(columns.min())) <= 1
    assert abs(int(covered[:, 0].max()) - int(rows.max())) <= 1


def test_warp_without_motion_changes_nothing_and_moves_a_point(face):
    landmarks = images.project(face.mean[face.landmarks68], 64)
    image = torch.rand(3, 64, 64)
    assert_close(videos.warp_by_landmarks(image, landmarks, landmarks), image, rtol=0, atol=2e-2)
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    nose = landmarks[30]
    blob = (-((x - nose[0]) ** 2 + (y - nose[1]) ** 2) / 8).exp().expand(3, -1, -1)
    moved = landmarks + torch.tensor([3.0, -2.0])
    found = videos.warp_by_landmarks(blob, landmarks, moved)[0]
    weights = found / found.sum()
    centre = torch.stack([(weights * x).sum(), (weights * y).sum()])
    assert_close(centre, nose + torch.tensor([3.0, -2.0]), rtol=0, atol=0.3)


def test_animations_hold_their_frames(tmp_path):
    frames = [torch.full((6, 8, 3), 60 * k, dtype=torch.uint8) for k in range(4)]
    for name in ("a.gif", "a.webp"):
        videos.write_film(tmp_path / name, frames, 2, 10)
        with Image.open(tmp_path / name) as film:
            assert film.size == (16, 12) and film.n_frames == 4
            for k in range(4):
                film.seek(k)
                assert abs(int(np.array(film.convert("RGB")).mean()) - 60 * k) <= 3
    with pytest.raises(ImageError, match="expected frames and a rate above 0, got 0"):
        videos.write_film(tmp_path / "b.gif", [], 1, 10)
    assert math.isclose(Image.open(tmp_path / "a.gif").info["duration"], 100)
