"""The commands edit, reconstruct and figures on untrained networks, and their sentences."""

import json
import shutil

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from ntensor.faces import edit, editing, reconstruct
from ntensor.faces.common.errors import ImageError
from ntensor.faces.data import main as data_main
from ntensor.faces.datasets.rendered import SPLITS
from ntensor.faces.figures import __main__ as figures
from ntensor.faces.figures import codes, material
from ntensor.faces.media import images, inputs, videos
from ntensor.faces.media.inputs import Inputs
from ntensor.faces.training.runs import load_run
from small_runs import HAPPY, SAD, picture, write_run


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def others(tmp_path_factory):
    folder = tmp_path_factory.mktemp("others")
    return {
        "intrinsic": write_run(folder / "intrinsic", "intrinsic"),
        "plain": write_run(folder / "plain", "plain"),
        "poc-expression": write_run(folder / "expression", "proof-of-concept", "off"),
        "poc-pose": write_run(folder / "pose", "proof-of-concept"),
    }


@pytest.fixture(scope="session")
def photo(tmp_path_factory, run):
    """A grey picture of 100 x 90 pixels, in which a face has five times its size, and its 68
    landmarks beside it."""
    folder = tmp_path_factory.mktemp("photo")
    _, configuration, _ = load_run(run)
    face = Inputs(configuration).read_one(HAPPY)
    large = torch.nn.functional.interpolate(face.image[None], scale_factor=5)[0]
    large = torch.nn.functional.pad(large, (12, 8, 5, 5))
    images.save_image(folder / "photo.png", large.mean(0, keepdim=True).expand(3, -1, -1))
    points = (face.landmarks + 0.5) * 5 - 0.5 + torch.tensor([12.0, 5.0])
    (folder / "photo.txt").write_text("\n".join(f"{x} {y}" for x, y in points.tolist()))
    return folder / "photo.png"


def sentence(call, *words):
    """The one sentence by which a command fails."""
    with pytest.raises(SystemExit) as stopped:
        call([str(word) for word in words])
    message = str(stopped.value.code)
    assert message.startswith("error: ") and "\n" not in message
    return message


@pytest.mark.parametrize("command", ["expression", "pose", "light", "identity"])
def test_transfers(run, tmp_path, capsys, command):
    edit.main([command, str(run), "--target", HAPPY, "--source", SAD, "generated:test:2",
               "--out", str(tmp_path), "--scale", "1"])  # fmt: skip
    text = capsys.readouterr().out
    assert f"{tmp_path}: figure.png, 2 pictures {command}_*.png" in text
    assert "against the rendered truth" in text
    model, configuration, _ = load_run(run)
    faces = Inputs(configuration)
    target, source = (editing.encode(model, faces.read_one(w).image[None]) for w in (HAPPY, SAD))
    wanted = {
        "expression": lambda: editing.transfer_expression(model, target, source),
        "pose": lambda: editing.transfer_pose(model, target, source, mask="normals"),
        "light": lambda: editing.transfer_light(model, target, source),
        "identity": lambda: editing.transfer_identity(model, target, source, mask="normals"),
    }[command]()["image"][0]
    found = picture(tmp_path / f"{command}_000.png")
    assert (found - wanted.clamp(0, 1)).abs().max() <= 0.5 / 255 + 1e-5
    assert Image.open(tmp_path / "figure.png").size[1] == 14 + 2 * 18


def test_pictures_are_aligned_by_their_landmarks(run, photo, tmp_path, capsys):
    landmarks = photo.with_suffix(".txt")
    edit.main(["pose", str(run), "--target", str(photo), "--source", HAPPY, "--landmarks",
               str(landmarks), "--project", "--mask", "code", "--out", str(tmp_path)])  # fmt: skip
    assert "truth" not in capsys.readouterr().out
    _, configuration, _ = load_run(run)
    face = Inputs(configuration, landmarks).read_one(str(photo))
    true = Inputs(configuration).read_one(HAPPY)
    assert face.image.shape == (3, 16, 16) and torch.equal(face.image[0], face.image[1])
    assert (face.landmarks - true.landmarks).norm(dim=1).max() < 0.5
    with pytest.raises(ImageError, match=r"landmarks of one picture, got photo.png and other.png"):
        many = Inputs(configuration, landmarks)
        many.read([str(photo), str(shutil.copy(photo, tmp_path / "other.png"))])
    boxed = Inputs(configuration, box=(10, 0, 80, 70)).read_one(str(photo))
    assert boxed.image.shape == (3, 16, 16) and boxed.landmarks is None


def test_truth_is_the_edited_scene(run):
    _, configuration, _ = load_run(run)
    faces = Inputs(configuration)
    target, source = faces.read([HAPPY, SAD])
    truth = faces.render_edit(target, source, "expression").truth
    assert torch.equal(truth["exp_3dmm"], source.truth["exp_3dmm"])
    assert torch.equal(truth["id_3dmm"], target.truth["id_3dmm"])
    assert torch.equal(truth["pose"], target.truth["pose"])
    assert torch.equal(
        faces.render_edit(target, source, "pose").truth["pose"], source.truth["pose"]
    )
    assert torch.equal(faces.render_edit(target, target, "light").image, target.image)
    assert int(target.truth["identity"]) == SPLITS["test"][0]
    assert faces.face_model.basic_names[int(source.truth["expression"])] == "sad"
    torch.testing.assert_close(source.truth["angles"], torch.tensor([[-30.0, 5.0, 10.0]]))


def test_interpolation(run, tmp_path):
    edit.main(["interpolate", str(run), "--first", HAPPY, "--second", SAD, "--steps", "3",
               "--edit", "identity", "--out", str(tmp_path), "--scale", "1"])  # fmt: skip
    assert Image.open(tmp_path / "figure.png").size == (5 * 18, 14 + 18)
    # Pillow joins equal neighbours into one longer frame.
    with Image.open(tmp_path / "interpolation.gif") as film:
        shown = [film.seek(k) or film.info["duration"] for k in range(film.n_frames)]
    assert sum(shown) == pytest.approx(4 * 125, abs=20)
    message = sentence(edit.main, "interpolate", run, "--first", HAPPY, "--second", SAD,
                       "--steps", 1, "--out", tmp_path)  # fmt: skip
    assert "steps must be at least 2, got 1" in message


def test_grid_shows_every_pair(run, tmp_path):
    edit.main(["grid", str(run), "--target", HAPPY, SAD, "--source", HAPPY, SAD,
               "generated:test:3", "--edit", "light", "--out", str(tmp_path),
               "--scale", "1"])  # fmt: skip
    found = picture(tmp_path / "grid.png")
    assert found.shape == (3, 48, 64)
    _, configuration, _ = load_run(run)
    target = Inputs(configuration).read_one(SAD).image
    assert (found[:, 32:, :16] - target).abs().max() <= 0.5 / 255 + 1e-5
    model, _, _ = load_run(run)
    own = editing.decode(model, editing.encode(model, target[None]))["image"][0].clamp(0, 1)
    assert (found[:, 32:, 32:48] - own).abs().max() <= 0.5 / 255 + 1e-5


def test_video_of_a_generated_film_and_of_frames(run, tmp_path, capsys):
    first = tmp_path / "first"
    edit.main(["video", str(run), "--template", HAPPY, "--drive", "generated:test:4", "--most",
               "5", "--out", str(first), "--scale", "1"])  # fmt: skip
    assert "landmarks for the warp: given" in capsys.readouterr().out
    assert len(list((first / "frames").iterdir())) == 5
    assert Image.open(first / "side_by_side.gif").size == (64, 16)
    rows = {f"video.gif:{k}": [[k * j, j * j] for j in range(5)] for k in range(1, 5)}
    (tmp_path / "film.json").write_text(json.dumps(rows))
    message = sentence(edit.main, "video", run, "--template", HAPPY, "--drive", first / "video.gif",
                       "--landmarks", tmp_path / "film.json", "--out", tmp_path)  # fmt: skip
    assert "film.json: has no landmarks for video.gif:0" in message
    message = sentence(edit.main, "video", run, "--template", HAPPY, "--drive", first / "frames",
                       "--most", 0, "--out", tmp_path)  # fmt: skip
    assert "most must be at least 1 frame, got 0" in message
    for drive in (first / "frames", first / "video.gif"):
        out = tmp_path / drive.name
        edit.main(["video", str(run), "--template", HAPPY, "--drive", str(drive), "--out",
                   str(out), "--format", "webp", "--scale", "1"])  # fmt: skip
        assert "landmarks for the warp: from the network" in capsys.readouterr().out
        assert len(list((out / "frames").iterdir())) >= 2
        assert Image.open(out / "video.webp").size == (16, 16)


def test_video_files(run, tmp_path, monkeypatch):
    out, film = tmp_path / "out", tmp_path / "film.mp4"
    words = ["video", str(run), "--template", HAPPY, "--drive", str(film), "--out", str(out)]
    film.write_bytes(b"\0\0\0\x18ftypmp42" + b"no film" * 100)
    with monkeypatch.context() as without:
        without.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
        for more in ([], ["--drive", "generated:test:1", "--format", "mp4"]):
            message = sentence(edit.main, *words, *more)
            assert "pip install 'ntensor[faces,video]'" in message
            assert not out.exists()
    pytest.importorskip("imageio_ffmpeg")
    assert "film.mp4: cannot be read" in sentence(edit.main, *words)
    film.write_bytes(b"no film" * 100)
    assert "not a picture of a supported format" in sentence(edit.main, *words)
    frames = [torch.full((32, 32, 3), 40 * k, dtype=torch.uint8) for k in range(4)]
    videos.write_film(film, frames, 2, 8)
    edit.main(words)
    assert len(list((out / "frames").iterdir())) == 4


@pytest.mark.parametrize("format", ["ply", "obj"])
def test_reconstruction(run, tmp_path, capsys, format):
    reconstruct.main([str(run), HAPPY, SAD, "--out", str(tmp_path), "--format", format])
    text = capsys.readouterr().out
    assert "mean face" in text and "mm" in text and "analytic face, 1000 vertices" in text
    errors = json.loads((tmp_path / "errors.json").read_text())
    assert errors["unit"] == "mm" and errors["faces"] == [HAPPY, SAD + ":front"]
    model, configuration, _ = load_run(run)
    faces = Inputs(configuration)
    given = faces.read([HAPPY, SAD])
    output = editing.decode(model, editing.encode(model, inputs.stack_pictures(given)))
    vertices = {
        "decoder": editing.restore_vertices(model, output),
        "coefficients": editing.build_vertices(model, output, faces.face_model),
    }
    truth = torch.stack([face.truth["shape"][0].view(-1, 3) for face in given])
    for name, wanted in vertices.items():
        mesh = trimesh.load(tmp_path / "001" / f"{name}.{format}", process=False)
        assert mesh.visual.kind == "vertex"
        np.testing.assert_allclose(mesh.vertices, wanted[1].numpy(), atol=1e-3)
        np.testing.assert_array_equal(mesh.faces, faces.face_model.triangles.numpy())
        rms = (wanted - truth).square().sum(2).mean(1).sqrt()
        assert errors["rms"][name] == pytest.approx(rms.tolist(), rel=1e-4)
    for name in ("frontal_image", "frontal_normal", "normal"):
        assert Image.open(tmp_path / "000" / f"{name}.png").size == (16, 16)
    assert Image.open(tmp_path / "figure.png").size[1] == 14 + 2 * 130


def test_reconstruction_of_a_picture_and_of_a_proof_of_concept(run, others, photo, tmp_path):
    reconstruct.main([str(run), str(photo), "--out", str(tmp_path / "a")])
    assert not (tmp_path / "a" / "errors.json").exists()
    assert (tmp_path / "a" / "000" / "decoder.ply").stat().st_size > 0
    word = "generated:poc-test:0:happy"
    reconstruct.main([str(others["poc-expression"]), word, "--out", str(tmp_path / "b")])
    names = {path.name for path in (tmp_path / "b" / "000").iterdir()}
    assert names == {"coefficients.ply", "texture.png"}


def test_records_of_a_data_set(run, tmp_path, capsys):
    folder = tmp_path / "set"
    data_main(["render", "--out", str(folder), "--face-model", "analytic", "--size", "16",
               "--count", "3"])  # fmt: skip
    edit.main(["light", str(run), "--target", f"{folder}:2", "--source", HAPPY, "--out",
               str(tmp_path)])  # fmt: skip
    reconstruct.main([str(run), f"{folder}:1", "--out", str(tmp_path)])
    message = sentence(edit.main, "light", run, "--target", f"{folder}:3", "--source", HAPPY,
                       "--out", tmp_path)  # fmt: skip
    assert "index must be 0..2, got 3" in message
    message = sentence(edit.main, "light", run, "--target", f"{tmp_path}:0", "--source", HAPPY,
                       "--out", tmp_path)  # fmt: skip
    assert "meta.json: the file does not exist" in message


WRONG_FACES = {
    "absent.jpg": "the file does not exist",
    "generated:test:54": "PERSON must be 0 to 53, got '54'",
    "generated:nobody:0": "SPLIT one of train, validation, test",
    "generated:test:0:glad": "EXPRESSION must be one of neutral, happy",
    "generated:test:0:happy:left": "POSE must be the yaw in degrees, got 'left'",
    "generated:test:0:happy:0:16": "LIGHT must be front or 0 to 15, got '16'",
    "generated:test:0:happy:0:1:2": "expected generated:SPLIT",
}


@pytest.mark.parametrize("word", WRONG_FACES)
def test_faces_that_are_none(run, tmp_path, word):
    message = sentence(edit.main, "expression", run, "--target", word, "--source", HAPPY, "--out",
                       tmp_path)  # fmt: skip
    assert WRONG_FACES[word] in message


def test_sentences_of_every_command(run, others, photo, tmp_path, monkeypatch):
    pair = ["--target", HAPPY, "--source", SAD, "--out", tmp_path / "out"]
    empty = tmp_path / "empty"
    empty.mkdir()
    text = tmp_path / "text.png"
    text.write_text("no picture")
    for call in (
        [edit.main, "pose", empty, *pair],
        [reconstruct.main, empty, HAPPY, "--out", tmp_path],
        [figures.main, empty, "--out", tmp_path],
    ):
        assert "it has no checkpoint" in sentence(*call)
    if not torch.cuda.is_available():
        for call in (
            [edit.main, "pose", run, *pair, "--device", "cuda"],
            [reconstruct.main, run, HAPPY, "--out", tmp_path, "--device", "cuda"],
            [figures.main, run, "--out", tmp_path, "--device", "cuda"],
        ):
            assert "torch finds no GPU" in sentence(*call)
    wrong = sentence(edit.main, "expression", others["intrinsic"], *pair)
    assert 'needs a network with the code z_exp; the run\'s network "intrinsic" has' in wrong
    wrong = sentence(edit.main, "light", others["poc-pose"], *pair)
    assert "light needs a network with the code z_l" in wrong
    wrong = sentence(reconstruct.main, others["plain"], HAPPY, "--out", tmp_path)
    assert "needs a network with identity and expression" in wrong
    wrong = sentence(figures.main, others["plain"], "--out", tmp_path)
    assert 'expected a run of network "neuro-tensorial", got "plain"' in wrong
    wrong = sentence(figures.main, run, "--out", tmp_path, "--plain", run)
    assert 'expected a run of network "plain"' in wrong
    wrong = sentence(figures.main, run, "--out", tmp_path, "--only", "2")
    assert "figures are 1, 4" in wrong
    assert "not a picture" in sentence(reconstruct.main, run, text, "--out", tmp_path)
    wrong = sentence(edit.main, "video", run, "--template", HAPPY, "--drive", empty, "--out", text)
    assert "the folder has no pictures" in wrong
    wrong = sentence(edit.main, "pose", run, *pair, "--face-model", "absent.npz")
    assert "absent.npz, which is not a file" in wrong
    wrong = sentence(edit.main, "pose", run, *pair, "--landmarks", text, "--box", 0, 0, 9, 9)
    assert "by landmarks or by a box, got both" in wrong
    wrong = sentence(edit.main, "pose", run, "--target", HAPPY, SAD, "--source", HAPPY, SAD, SAD,
                     "--out", tmp_path)  # fmt: skip
    assert "expected as many target as source, or one of either, got 2 and 3" in wrong
    wrong = sentence(edit.main, "pose", run, *pair, "--scale", 0)
    assert "scale must be a whole number, at least 1, at most 64, got 0" in wrong
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    wrong = sentence(edit.main, "pose", run, *pair[:-1], blocked)
    assert "blocked" in wrong


def test_run_of_a_data_set_without_a_face_model(run, photo, tmp_path):
    folder, copy = tmp_path / "set", tmp_path / "run"
    data_main(["render", "--out", str(folder), "--face-model", "analytic", "--size", "16",
               "--count", "1"])  # fmt: skip
    (folder / "basis.npz").unlink()
    shutil.copytree(run, copy)
    path = copy / "configuration.json"
    settings = json.loads(path.read_text())
    settings["data"] |= {"source": str(folder), "validation_source": str(folder)}
    path.write_text(json.dumps(settings))
    edit.main(["expression", str(copy), "--target", str(photo), "--source", str(photo), "--out",
               str(tmp_path / "out")])  # fmt: skip
    message = sentence(reconstruct.main, copy, photo, "--out", tmp_path)
    assert "no face model" in message


def test_figures(run, others, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(codes, "_PERSONS", 1)
    monkeypatch.setattr(material, "ALS_SIZES", (2, 3, 4))
    words = [str(run), "--out", str(tmp_path), "--rows", "2", "--fitted", "60", "--scale", "1"]
    for name, folder in others.items():
        words += [f"--{name}", str(folder)]
    figures.main(words)
    text = capsys.readouterr().out
    assert "left out" not in text and "not given" not in text
    made = sorted(int(path.stem[-2:]) for path in tmp_path.glob("figure_*.png"))
    assert made == [1, *range(4, 22)]
    page = (tmp_path / "figures.md").read_text()
    assert all(f"figure_{number:02d}.png" in page for number in made)
    assert "analytic face, 1000 vertices" in page


def test_figures_without_the_other_runs(run, tmp_path, capsys):
    figures.main([str(run), "--out", str(tmp_path), "--rows", "2", "--only", "4", "7", "11"])
    text = capsys.readouterr().out
    assert "figure 4: left out, needs --poc-expression, a run that was not given" in text
    assert "figure 7: left out, needs --poc-pose" in text
    assert "without the network after [30]: --intrinsic was not given" in text
    assert not (tmp_path / "figure_04.png").exists() and (tmp_path / "figure_11.png").exists()
    assert "left out" in (tmp_path / "figures.md").read_text()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (edit.main, ["--help"]),
        *((edit.main, [name, "--help"]) for name in edit.COMMANDS),
        (reconstruct.main, ["--help"]),
        (figures.main, ["--help"]),
    ],
)
def test_help_has_an_example(capsys, call, words):
    with pytest.raises(SystemExit) as stopped:
        call(words)
    assert stopped.value.code == 0
    assert "Example: python -m ntensor.faces." in capsys.readouterr().out
