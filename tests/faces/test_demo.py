"""The page to try a run: what it shows without a browser, and the page itself in one."""

import dataclasses
import io
import socket
import sys

import pytest
import torch
import trimesh
from PIL import Image

from demo_runs import pictures_in, write_run
from ntensor.faces import demo, editing
from ntensor.faces.common.errors import ConfigurationError, ImageError
from ntensor.faces.data import render
from ntensor.faces.editing.session import Session
from ntensor.faces.media.inputs import Face
from ntensor.faces.networks.model import build
from ntensor.faces.page.parts import (
    MAPS,
    SIDES,
    SLIDERS,
    START,
    Demo,
    find_texture_places,
    to_pixels,
)
from ntensor.faces.writing.sheet import to_colours

MIXED = {"identity": 0.3, "expression": 1.2, "pose": 0.4, "light": 0.7}


@pytest.fixture
def session(shown):
    return shown.start()[0]


@pytest.mark.parametrize("weights", [{}, {"light": 1.0}, {"identity": 1.5}, MIXED])
def test_session_decodes_the_mixed_codes(session, weights):
    every = dict.fromkeys(SLIDERS, 0.0) | weights
    session = Session(session.first, session.second)
    codes = editing.blend(session.first.encoded, session.second.encoded, every, project=True)
    wanted = editing.decode(session.model, codes, mask="normals")
    found = session.decode(weights)
    assert set(found) == set(wanted)
    # Background and mask's codes are the first face's, whose decoding is kept.
    for name, value in found.items():
        # Sums round by the size of their largest terms, not of what they cancel to.
        atol = 1e-5 * max(1.0, float(wanted[name].abs().max()))
        torch.testing.assert_close(value, wanted[name], rtol=1e-4, atol=atol, msg=name)


def test_faces_differ_by_each_code(session):
    first = session.decode({})
    for edit in SLIDERS:
        assert (session.decode({edit: 1.0})["image"] - first["image"]).abs().max() > 0.02, edit


def test_a_new_light_decodes_no_surface(session):
    calls = []
    handle = session.model.normal.register_forward_hook(lambda *_: calls.append(1))
    session.decode({"pose": 0.5})
    session.decode({"pose": 0.5, "light": 1.0})
    assert len(calls) == 1
    session.decode({"pose": 0.6, "light": 1.0})
    assert len(calls) == 2
    handle.remove()


def test_session_with_another_second_face(shown, session):
    third = shown.fix_face(shown.choose_face(3).image)
    other = session.replace("second", third)
    assert other.first is session.first
    torch.testing.assert_close(
        other.decode({"light": 1})["light"], Session(third, third).decode({})["light"]
    )
    with pytest.raises(ConfigurationError, match="two models"):
        Session(
            session.first, editing.FixedFace(build(shown.run.configuration.model), third.encoded)
        )


def test_the_identity_follows_the_pose_where_training_did_not_separate_them(shown, monkeypatch):
    configuration = shown.run.configuration
    for weight in (0.0, 0.5):
        losses = dataclasses.replace(configuration.losses, independence=weight)
        changed = dataclasses.replace(configuration, losses=losses)
        monkeypatch.setattr(shown.run, "configuration", changed)
        assert (shown.leak is None) == (weight > 0)
        assert (shown.start()[0].leak is None) == (weight > 0)


def test_the_first_picture_is_edited_in_expression_and_light(session):
    image = session.first.image
    assert torch.equal(session.edit_picture({}), image)
    assert torch.equal(session.edit_picture({"pose": 1.0, "identity": 0.5}), image)
    plain, smiling, both = (
        session.decode(weights)["image"]
        for weights in ({}, {"expression": 1.0}, {"expression": 1.0, "light": 0.7})
    )
    wanted = editing.replace_changed(image, plain, smiling)
    torch.testing.assert_close(session.edit_picture({"expression": 1.0, "pose": 0.3}), wanted)
    wanted = editing.add_detail(wanted, smiling, both)
    found = session.edit_picture({"expression": 1.0, "light": 0.7})
    torch.testing.assert_close(found, wanted)
    assert (found - image).abs().max() > 0.02
    bare = editing.FixedFace(session.model, session.first.encoded)
    assert Session(bare, session.second).edit_picture({"light": 1.0}) is None


def test_html_holds_the_decodings(shown, session):
    large, row = shown.show_edited(session, MIXED)
    maps = session.decode(MIXED)
    assert torch.equal(pictures_in(large)[0], torch.from_numpy(to_pixels(maps["image"][0])))
    changed = session.edit_picture(MIXED)
    assert torch.equal(pictures_in(large)[2], torch.from_numpy(to_pixels(changed[0])))
    found = pictures_in(row)
    assert len(found) == len(MAPS)
    for picture, (name, title) in zip(found, MAPS.items(), strict=True):
        assert torch.equal(picture, torch.from_numpy(to_pixels(to_colours(name, maps[name])[0])))
        assert f"<figcaption>{title}</figcaption>" in row


def test_first_and_second_face_are_shown(shown):
    session, sides = shown.start()
    for side, number in zip(SIDES, START, strict=True):
        picture, row = sides[side]
        image = shown.choose_face(number).image
        assert torch.equal(pictures_in(picture)[0], torch.from_numpy(to_pixels(image)))
        own = editing.decode(session.model, shown.run.encode([Face("", image)]))
        assert torch.equal(pictures_in(row)[0], torch.from_numpy(to_pixels(own["image"][0])))


def test_offered_faces_are_of_unseen_persons(shown):
    first, second = shown.show_offered(0), shown.show_offered(1)
    assert len(first) == len(second) == 12
    assert len({picture.tobytes() for picture in first + second}) == 24
    assert shown.choose_face(3).name.startswith("generated:test:3:")
    assert "generated faces alone (analytic face, 1000 vertices)" in shown.sentence


def test_upload_takes_the_middle_square(shown, tmp_path):
    picture = Image.new("RGB", (90, 40), (255, 0, 0))
    picture.paste((0, 255, 0), (25, 0, 65, 40))
    picture.save(tmp_path / "face.jpg", quality=95)
    found = shown.read_upload(tmp_path / "face.jpg")
    assert found.shape == (3, 16, 16)
    # The outermost columns take a little of what lies outside.
    assert found[1, :, 1:-1].min() > 0.9 and found[0, :, 1:-1].max() < 0.1


def test_bad_uploads_are_explained(shown, tmp_path):
    def refused(name, message):
        with pytest.raises(ImageError, match=message) as caught:
            shown.read_upload(tmp_path / name)
        assert str(tmp_path) not in str(caught.value)

    (tmp_path / "text.png").write_text("no picture")
    refused("text.png", r"^text.png: not a picture")
    (tmp_path / "empty.png").write_bytes(b"")
    refused("empty.png", r"^empty.png: not a picture")
    Image.new("RGB", (3, 3)).save(tmp_path / "small.png")
    refused("small.png", r"^small.png: expected at least")
    Image.new("1", (8000, 6000)).save(tmp_path / "huge.png")
    refused("huge.png", r"^huge.png: expected at most 40 million pixels, got 8000 x 6000")


def test_mesh_is_the_shape_with_the_frontal_image(shown, session):
    found = trimesh.load(io.BytesIO(shown.make_mesh(session, MIXED)), file_type="glb", force="mesh")
    maps = session.decode(MIXED)
    vertices = editing.restore_vertices(session.model, maps)[0]
    torch.testing.assert_close(
        torch.from_numpy(found.vertices).float(), 1e-3 * vertices, rtol=1e-4, atol=1e-5
    )
    assert found.faces.tolist() == shown.surface.triangles.tolist()
    texture = found.visual.material.baseColorTexture
    assert texture.tobytes() == to_pixels(maps["frontal_image"][0]).tobytes()


def test_places_in_the_texture(shown):
    face = shown.run.inputs.generate("test", "0")
    truth = shown.surface
    vertices = truth.vertices(face.truth["id_3dmm"], face.truth["exp_3dmm"])[0, truth.landmarks68]
    places = find_texture_places(vertices)
    seen = torch.stack([places[:, 0], 1 - places[:, 1]], 1) * 16 - 0.5
    assert (seen - face.landmarks).abs().max() < 0.05 * 8 + 1e-3


def test_run_on_a_data_set_of_another_shape(tmp_path):
    render(tmp_path / "set", 5, size=16, face_model="analytic")
    (tmp_path / "run").mkdir()
    folder = str(tmp_path / "set")
    found = Demo(write_run(tmp_path / "run", {"source": folder, "validation_source": folder}))
    assert found.sentence == f"Trained with 3 updates on the data set {folder}."
    assert len({picture.tobytes() for picture in found.show_offered(0)}) == 5
    session, _ = found.start()
    with pytest.raises(ConfigurationError, match=r"3000 coordinates, .* has 18000"):
        found.make_mesh(session, {})


def test_command_fails_with_a_sentence(demo_run, tmp_path, monkeypatch, capsys):
    def refused(message, *arguments):
        with pytest.raises(SystemExit, match=f"^error: {message}"):
            demo.main(list(arguments))

    refused(r".*it has no checkpoint", str(tmp_path / "nothing"))
    refused(r"port must be 1 to 65535, got 70000", str(demo_run), "--port", "70000")
    (tmp_path / "plain").mkdir()
    plain = write_run(tmp_path / "plain", network="intrinsic")
    refused(r"identity needs a network with the code z_id", str(plain))
    monkeypatch.setitem(sys.modules, "gradio", None)
    refused(
        r".*needs the package [a-z, ]*gradio[a-z, ]*: run pip install 'ntensor\[faces,demo\]'",
        str(demo_run),
    )
    with pytest.raises(SystemExit, match="0"):
        demo.main(["--help"])
    assert "--port 8080" in capsys.readouterr().out


def test_taken_port(demo_run):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit, match=rf"^error: port {port} cannot be used \(Address"):
            demo.main([str(demo_run), "--port", str(port)])
