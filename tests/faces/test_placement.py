"""Faces beside the middle of larger pictures: how often they are found, and what is said of it."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from ntensor.faces import reconstruct
from ntensor.faces.common.errors import FacesError
from ntensor.faces.datasets.generated import GeneratedFaces
from ntensor.faces.evaluation.photographs import open_inputs, read_labels, read_photographs
from ntensor.faces.evaluation.settings import Evaluation
from ntensor.faces.media import images
from ntensor.faces.media.inputs import Inputs
from ntensor.faces.media.placement import Placement, Placer
from ntensor.faces.rendering.renderer import Camera
from ntensor.faces.training.runs import load_run
from small_runs import write_run

SIZE = 32
# Pictures of an evaluation are kept in eight bits.
ROUNDED = {"rtol": 0, "atol": 0.51 / 255}
# Pixels a side of the pictures that photographs are cut from, and of the face's square in them.
WIDE, SIDE = 160, 64


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose network has learnt nothing."""
    folder = tmp_path_factory.mktemp("run")
    return write_run(folder, size=SIZE, channels=(8, 16, 32))


@pytest.fixture(scope="module")
def inputs(run):
    model, configuration, _ = load_run(run)
    return Inputs(configuration, model=model)


@pytest.fixture(scope="module")
def photographs(inputs):
    """Pictures of unseen persons of many sizes, with the face's square anywhere in them."""
    camera = Camera()
    wide = Camera(camera.half_width * WIDE / SIDE, camera.center)
    drawn = GeneratedFaces(inputs.face_model, "test", WIDE, seed=5, camera=wide).batch(range(12))
    random = np.random.default_rng(1)
    made = []
    for image in drawn["image"]:
        (left, width), (top, height) = (cut(random) for _ in range(2))
        square = Placement(WIDE / 2 - left, WIDE / 2 - top, SIDE)
        made.append((image[:, top : top + height, left : left + width], square))
    return made


def cut(random):
    """Where a picture of the wide one's pixels begins, and its length: the face lies in it."""
    length = int(random.integers(90, WIDE + 1))
    first, last = (WIDE + SIDE) // 2 - length, (WIDE - SIDE) // 2
    return int(random.integers(max(0, first), min(WIDE - length, last) + 1)), length


def middle_of(image):
    height, width = image.shape[1:]
    return Placement(width / 2, height / 2, min(height, width))


def test_faces_are_found(inputs, photographs):
    found = [inputs.placer.find(image) for image, _ in photographs]
    right = [place.agrees(true) for place, (_, true) in zip(found, photographs, strict=True)]
    # The middle square, which was taken before, shows hardly one of them rightly.
    assert sum(middle_of(image).agrees(true) for image, true in photographs) <= 2
    assert sum(right) >= 10
    sure = [is_right for is_right, place in zip(right, found, strict=True) if place.sure]
    assert len(sure) >= 6 and sum(sure) >= len(sure) - 1


def test_a_picture_of_any_size_is_searched(inputs, photographs):
    image, true = photographs[0]
    large = torch.nn.functional.interpolate(image[None], scale_factor=4, mode="bicubic")[0]
    found = inputs.placer.find(large.clamp(0, 1))
    assert found.agrees(Placement(4 * true.x, 4 * true.y, 4 * true.side))


def test_nothing_is_sure_without_a_face(inputs):
    random = torch.Generator().manual_seed(3)
    for size in (3, 5, 8, 40):
        noise = torch.rand(1, 3, size, size, generator=random)
        smooth = torch.nn.functional.interpolate(noise, (100, 140), mode="bicubic")[0].clamp(0, 1)
        assert not inputs.placer.find(smooth).sure


@pytest.fixture(scope="module")
def sure(inputs, photographs):
    """A photograph whose face is found with confidence, and where it is."""
    return next(pair for pair in photographs if inputs.placer.find(pair[0]).sure)


def test_what_is_taken_and_told(inputs, sure, tmp_path, capsys):
    image, true = sure
    path = tmp_path / "a.png"
    found = inputs.placer.find(image)
    face = inputs.crop(image, path).image
    assert torch.equal(face, images.crop(image, SIZE, found.box)[0])
    assert capsys.readouterr().err.startswith(f"{path}: using the face at ")

    apart = (true.box[0] + 60, true.box[1], true.box[2] + 60, true.box[3])
    for box, warned in ((true.box, False), (apart, True)):
        face = inputs.crop(image, path, box=box).image
        assert torch.equal(face, images.crop(image, SIZE, box)[0])
        said = capsys.readouterr().err
        assert said.startswith(f"warning: {path}: the face seems to be at ") if warned else not said

    grey = torch.full((3, 90, 120), 0.5)
    assert torch.equal(inputs.crop(grey, path).image, images.crop(grey, SIZE)[0])
    warning = capsys.readouterr().err
    assert warning.startswith(f"warning: {path}: no face found with confidence; the middle")

    ready = images.crop(image, SIZE, apart)[0]
    assert inputs.crop(ready, path).image is ready and capsys.readouterr().err == ""


def test_a_well_placed_picture_stays_as_it_is(inputs, photographs, tmp_path, capsys):
    kept = 0
    for image, true in photographs:
        left, top = (max(0, round(edge)) for edge in true.box[:2])
        square = image[:, top : top + SIDE, left : left + SIDE]
        taken = inputs.crop(square, tmp_path / "a.png").image
        kept += torch.equal(taken, images.crop(square, SIZE)[0])
    told = capsys.readouterr().err.count(": using the face at ")
    assert kept == len(photographs) - told >= 10


def test_commands_place_pictures(run, sure, tmp_path, capsys):
    image, _ = sure
    path = tmp_path / "photo.png"
    images.save_image(path, image)
    words = [str(run), str(path), "--out", str(tmp_path / "out")]
    reconstruct.main(words)
    assert f"{path}: using the face at " in capsys.readouterr().err
    reconstruct.main([*words, "--place", "middle"])
    assert capsys.readouterr().err == ""


def test_without_a_face_model_nothing_is_looked_for(run, tmp_path, capsys):
    model, configuration, _ = load_run(run)
    data = dataclasses.replace(configuration.data, face_model="/nowhere/face.npz")
    lost = Inputs(dataclasses.replace(configuration, data=data), model=model)
    image = torch.rand(3, 40, 60)
    for _ in range(2):
        taken = lost.crop(image, tmp_path / "a.png").image
        assert torch.equal(taken, images.crop(image, SIZE)[0])
    said = capsys.readouterr().err
    assert said.count("warning: faces in pictures are not searched for: ") == 1


def test_boxes_and_landmarks_of_an_evaluation(run, inputs, sure, tmp_path, capsys):
    image, true = sure
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.png", "b.png"):
        images.save_image(photos / name, image)
    labels = tmp_path / "labels.csv"
    edges = ",".join(str(edge) for edge in true.box)
    labels.write_text(f"file,left,top,right,bottom\na.png,{edges}\nb.png,,,,\n")
    picture = torch.from_numpy(np.array(Image.open(photos / "a.png"))).permute(2, 0, 1) / 255
    boxed, middle = (images.crop(picture, SIZE, box)[0] for box in (true.box, None))
    for plain in (None, open_inputs(run, Evaluation(place="middle"))):
        found, _ = read_photographs(photos, labels, SIZE, plain)
        assert_close(found[slice(None)]["image"], torch.stack([boxed, middle]), **ROUNDED)
    assert open_inputs(run, Evaluation()).placer is not None
    found, _ = read_photographs(photos, labels, SIZE, inputs)
    assert_close(found[0:1]["image"][0], boxed, **ROUNDED)
    placed = inputs.placer.find(picture).box
    assert_close(found[1:2]["image"][0], images.crop(picture, SIZE, placed)[0], **ROUNDED)
    capsys.readouterr()

    points = images.find_reference_points(inputs.face_model, 5)[:, :2]
    points = points * torch.tensor([0.3, -0.3]) + torch.tensor([true.x, true.y])
    for name in ("a.txt", "b.txt"):
        (photos / name).write_text("\n".join(f"{x} {y}" for x, y in points.tolist()))
    aligned = open_inputs(run, Evaluation(landmarks=photos))
    found, _ = read_photographs(photos, None, SIZE, aligned)
    read = images.read_landmarks(photos, "a.png")
    wanted, _ = images.align(picture, read, inputs.face_model, SIZE)
    assert_close(found[0:1]["image"][0], wanted, **ROUNDED)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,left\na.png,1\n", "or all of left, top, right, bottom, got file, left"),
        ("file,left,top,right,bottom\na.png,1,2,x,4\n", "line 2: expected .* got 1, 2, x, 4"),
        ("file,left,top,right,bottom\na.png,1,2,,4\n", "line 2: expected .* got 1, 2, nothing, 4"),
        ("file,left,top,right,bottom\na.png,1,2,nan,4\n", "line 2: expected .* got 1, 2, nan, 4"),
    ],
)
def test_wrong_boxes_are_named(tmp_path, text, message):
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(FacesError, match=message):
        read_labels(path)


def test_every_network_places(tmp_path):
    for network in ("plain", "proof-of-concept"):
        folder = write_run(tmp_path / network, network, size=16)
        model, configuration, _ = load_run(folder)
        placer = Placer(model, Inputs(configuration).face_model)
        assert placer._describe(torch.rand(2, 3, 16, 16)).shape[0] == 2
