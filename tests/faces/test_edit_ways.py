"""Ways of editing that the paper does not have: detail, warp, follow; on an untrained network."""

import dataclasses

import pytest
import torch

from ntensor.faces import edit, editing
from ntensor.faces.baselines import LandmarkFit, warp_by_flow
from ntensor.faces.common.errors import ConfigurationError
from ntensor.faces.media import videos
from ntensor.faces.media.inputs import Inputs, stack_pictures
from ntensor.faces.runs.opened import OpenedRun, Options
from ntensor.faces.training.runs import load_run
from small_runs import HAPPY, SAD, picture, write_run


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.mark.parametrize("command", ["expression", "light"])
def test_detail_keeps_the_picture_and_adds_the_change(run, tmp_path, command):
    edit.main([command, str(run), "--target", HAPPY, "--source", SAD, "--detail",
               "--out", str(tmp_path)])  # fmt: skip
    model, configuration, _ = load_run(run)
    images = [Inputs(configuration).read_one(words).image[None] for words in (HAPPY, SAD)]
    target, source = (editing.encode(model, image) for image in images)
    edited = getattr(editing, f"transfer_{command}")(model, target, source)["image"]
    plain = editing.decode(model, target)["image"]
    wanted = images[0] + edited - plain
    if command == "expression":
        wanted = editing.replace_changed(images[0], plain, edited)
    found = picture(tmp_path / f"{command}_000.png")
    assert (found - wanted[0].clamp(0, 1)).abs().max() <= 0.5 / 255 + 1e-5


def test_what_changes_is_decoded_and_the_rest_stays():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, 64, 64, generator=generator)
    plain = (image + 0.02 * torch.randn(image.shape, generator=generator)).clamp(0, 1)
    edited = plain.clone()
    edited[:, :, 40:56, 20:44] = 1 - edited[:, :, 40:56, 20:44]
    found = editing.replace_changed(image, plain, edited)
    assert torch.equal(found[:, :, :14], image[:, :, :14])
    inside = (slice(None), slice(None), slice(44, 52), slice(26, 38))
    # Decoded where the change is large against the error, put right where colours are wrong.
    assert (found - edited)[inside].abs().mean() < 0.2 * (image - edited)[inside].abs().mean()
    shifted = editing.replace_changed(image - 0.1, plain - 0.1, edited - 0.1)
    assert (shifted - (found - 0.1).clamp(0, 1))[inside].abs().max() < 1e-4
    # A network that errs as much as it changes is believed less.
    doubtful = editing.replace_changed(image, plain.flip(3), edited.flip(3))
    moved = [(x - image)[inside].abs().mean() for x in (doubtful, found)]
    assert moved[0] < 0.8 * moved[1]


def test_warp_moves_the_picture(run, tmp_path):
    words = ["expression", str(run), "--target", HAPPY, "--source", SAD, "--out", str(tmp_path)]
    edit.main([*words, "--warp"])
    model, configuration, _ = load_run(run)
    reader = Inputs(configuration)
    images = [reader.read_one(name).image[None] for name in (HAPPY, SAD)]
    target, source = (editing.encode(model, image) for image in images)
    wanted, _, _ = editing.warp_expression(model, reader.face_model, images[0], target, source)
    found = picture(tmp_path / "expression_000.png")
    assert (found - wanted[0]).abs().max() <= 0.5 / 255 + 1e-5
    with pytest.raises(SystemExit, match=r"^error: detail and warp exclude each other"):
        edit.main([*words, "--warp", "--detail"])


@pytest.mark.parametrize("way", ["warp", "detail"])
def test_video_of_the_picture_itself(run, tmp_path, way):
    edit.main(["video", str(run), "--template", HAPPY, "--drive", "generated:test:5", "--most", "3",
               f"--{way}", "--out", str(tmp_path)])  # fmt: skip
    model, configuration, _ = load_run(run)
    reader = Inputs(configuration)
    image = reader.read_one(HAPPY).image[None]
    frames = stack_pictures(videos.read_driving_frames(reader, "generated:test:5", 3))
    codes = editing.encode(model, image), editing.encode(model, frames)
    if way == "warp":
        wanted, _, _ = editing.warp_expression(model, reader.face_model, image, *codes)
    else:
        plain = editing.decode(model, codes[0])["image"].expand(3, -1, -1, -1)
        made = editing.transfer_expression(model, *codes)["image"]
        wanted = editing.replace_changed(image.expand_as(made), plain, made)
    assert len(wanted) == 3
    for number, frame in enumerate(wanted):
        found = picture(tmp_path / "frames" / f"{number:05d}.png")
        assert (found - frame).abs().max() <= 0.5 / 255 + 1e-5


def test_warp_of_an_expression_onto_itself_moves_nothing(run):
    model, configuration, _ = load_run(run)
    reader = Inputs(configuration)
    image = reader.read_one(HAPPY).image[None]
    target = editing.encode(model, image)
    _, _, movement = editing.warp_expression(model, reader.face_model, image, target, target)
    assert float(movement.abs().max()) == 0
    with pytest.raises(ConfigurationError, match=r"coefficients of identity .* the .* has"):
        face = dataclasses.replace(
            reader.face_model, identity_modes=reader.face_model.identity_modes[:3]
        )
        editing.warp_expression(model, face, image, target, target)


def test_true_coefficients_give_the_fit_s_picture(run, monkeypatch):
    model, configuration, _ = load_run(run)
    reader = Inputs(configuration)
    faces = [reader.read_one(name) for name in (HAPPY, SAD)]
    codes = [editing.encode(model, face.image[None]) for face in faces]
    fits = []
    for code, face in zip(codes, faces, strict=True):
        code.codes["z_p"] = face.truth["pose"].flatten(1)
        fits.append(
            LandmarkFit(face.truth["id_3dmm"], face.truth["exp_3dmm"], face.truth["pose"],
                        torch.ones(1), torch.zeros(1, 2))
        )  # fmt: skip
    given = iter([face.truth for face in faces])

    def regress(codes):
        found = next(given)
        names = ("id_3dmm", "exp_3dmm")
        return {name: model.statistics.standardise(name, found[name]) for name in names}

    monkeypatch.setattr(model, "regress", regress)
    found, normal, movement = editing.warp_expression(
        model, reader.face_model, faces[0].image[None], *codes
    )
    wanted, _, normals = warp_by_flow(
        reader.face_model, faces[0].image[None], fits[0], fits[0].with_expression(fits[1])
    )
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-3)
    torch.testing.assert_close(normal, normals, rtol=0, atol=1e-3)
    assert movement.shape == (1, 68, 2) and movement.abs().max() > 0.5


@pytest.mark.parametrize("command", ["pose", "identity"])
def test_the_identity_follows_the_pose(run, tmp_path, command):
    edit.main([command, str(run), "--target", HAPPY, "--source", SAD, "--follow",
               "--out", str(tmp_path)])  # fmt: skip
    found = OpenedRun(run, Options())
    images = [found.inputs.read_one(words).image[None] for words in (HAPPY, SAD)]
    target, source = (editing.encode(found.model, image) for image in images)
    assert found.leak.shape == (9, 4) and found.leak.abs().max() > 1e-3
    wanted = getattr(editing, f"transfer_{command}")(
        found.model, target, source, mask="normals", leak=found.leak
    )["image"][0].clamp(0, 1)
    written = picture(tmp_path / f"{command}_000.png")
    assert (written - wanted).abs().max() <= 0.5 / 255 + 1e-5
