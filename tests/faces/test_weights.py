"""Ready-made weights: a run as one small file, which every command takes, and what it costs."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from ntensor.faces import demo, edit, editing, evaluate, reconstruct
from ntensor.faces.common.errors import CheckpointError, ConfigurationError
from ntensor.faces.configuration import to_json
from ntensor.faces.configuration.face_source import VARIABLE
from ntensor.faces.morphable.analytic_face import make_analytic_face
from ntensor.faces.page.parts import Demo
from ntensor.faces.reading import read_tensors
from ntensor.faces.runs.opened import OpenedRun, Options
from ntensor.faces.training import packed, runs
from ntensor.faces.training.runs import load_run, open_run
from ntensor.faces.weights import compression
from ntensor.faces.weights.__main__ import main
from small_runs import HAPPY, SAD, write_run
from test_run_folders import refused

MEGABYTE = 1e6


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A run on a data set whose face model is not the built-in one, and its packed weights."""
    root = tmp_path_factory.mktemp("foreign")
    face = make_analytic_face(1000)
    write_set(root / "set", dataclasses.replace(face, source="a scanned face", mean=face.mean + 1))
    folder = str(root / "set")
    run = write_run(root / "run", source=folder, validation_source=folder)
    pack(run, root / "small.safetensors")
    return run, root / "small.safetensors"


def write_set(folder, face):
    from ntensor.faces.datasets.generated import GeneratedFaces
    from ntensor.faces.datasets.storage import ShardWriter, write_statistics

    faces = GeneratedFaces(face, size=16)
    with ShardWriter(folder, face, 8, "train", face.source) as writer:
        writer.add(faces.batch(range(8)))
    write_statistics(folder, faces.statistics)


def pack(run, out, *words):
    main(["pack", str(run), "--out", str(out), "--pictures", "24", *words])


@pytest.fixture
def shipped(run, tmp_path, monkeypatch):
    """Weights where those of the package would be."""
    path = tmp_path / "robust.safetensors"
    pack(run, path)
    monkeypatch.setattr(runs, "shipped_path", lambda: path)
    return path


def test_packed_weights_are_small_and_give_the_same(run, tmp_path, capsys):
    sizes = {}
    for most in (1.0, 0.13):
        out = tmp_path / f"{most}.safetensors"
        pack(run, out, "--most", str(most), "--trained-by", "a command")
        sizes[most] = out.stat().st_size
        assert sizes[most] <= most * MEGABYTE
        described = json.loads(out.with_suffix(".json").read_text())
        assert described["packed"]["bytes"] == sizes[most]
        assert (described["licence"], described["trained_by"]) == ("MIT", "a command")
        assert "normal" in capsys.readouterr().out
    assert sizes[0.13] < sizes[1.0]
    change = described["packed"]["change"]
    assert set(change) >= {"image", "normal", "frontal_image", "shape", "z_exp", "z_id"}
    assert 0 < change["z_exp"]["mean"] <= change["z_exp"]["largest"] < 1e-3
    errors = described["packed"]["errors"]
    assert abs(errors["whole"]["shape"] - errors["packed"]["shape"]) < 0.1
    model, configuration, step = load_run(run)
    small = open_run(tmp_path / "1.0.safetensors")
    assert small.step == step and small.surface is None
    assert to_json(small.configuration) == to_json(configuration)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    wanted, found = model(images), small.model(images)
    assert found["image"].dtype == torch.float32
    for name, value in wanted.items():
        assert (found[name] - value).norm() <= 5e-3 * value.norm() + 1e-6, name


def test_directions_are_those_of_real_outputs():
    """A matrix far from low rank, with inputs in three directions: three directions are kept."""
    layer = torch.nn.Linear(80, 100)
    given = torch.randn(500, 3) @ torch.randn(3, 80)
    outputs = given @ layer.weight.detach().T
    spectrum = compression.find_spectrum(outputs)
    ranks = compression.choose_ranks({"a": spectrum}, {"a": layer.weight.detach()}, 8000)
    assert ranks == {"a": 3}
    basis = spectrum.basis[:, :3]
    kept = basis @ (basis.T @ layer.weight.detach())
    torch.testing.assert_close(given @ kept.T, outputs, rtol=1e-3, atol=1e-3)
    assert (kept - layer.weight).norm() > 0.5 * layer.weight.norm()
    assert compression.choose_ranks({"a": spectrum}, {"a": layer.weight.detach()}, 400) == {"a": 2}
    with pytest.raises(ConfigurationError, match=r"needs 0.00 MB more; see --most"):
        compression.choose_ranks({"a": spectrum}, {"a": layer.weight.detach()}, 100)


def test_the_encoder_is_kept_whole(run):
    model, _, _ = load_run(run)
    model.encoder.bottleneck = torch.nn.Linear(100, 100)
    names = compression.find_layers(model)
    assert "shape_stream.projection.core" in names
    assert not [name for name in names if name.startswith("encoder.")]


def test_a_layer_without_falling_directions_is_kept():
    weight = torch.linalg.qr(torch.randn(70, 70))[0]
    spectrum = compression.find_spectrum(torch.randn(300, 70) @ weight.T)
    assert compression.choose_ranks({"a": spectrum}, {"a": weight}, 10**6) == {"a": None}


def test_no_run_named(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "shipped_path", lambda: tmp_path / "none.safetensors")
    out = ("--out", tmp_path / "out")
    sentence = r"no run was named, and there are no ready-made weights"
    for call, words in (
        (demo.main, ()),
        (edit.main, ("light", "--target", HAPPY, "--source", SAD, *out)),
        (reconstruct.main, (HAPPY, *out)),
        (evaluate.main, out),
    ):
        said = refused(call, *words)
        assert sentence in said and "ntensor.faces.train --preset tiny" in said


def test_commands_use_the_shipped_weights(shipped, run, tmp_path, monkeypatch):
    def made(name, call, *words):
        call([*map(str, words), "--out", str(tmp_path / name)])
        folder = tmp_path / name
        files = sorted(folder.rglob("*.p*"))
        return {str(p.relative_to(folder)): p.read_bytes() for p in files}

    light = ("--target", HAPPY, "--source", SAD)
    found = made("light", edit.main, "light", *light)
    assert found and found == made("named", edit.main, "light", shipped, *light)
    found = made("shapes", reconstruct.main, HAPPY, SAD)
    assert len(found) == 1 + 2 * 5
    assert found == made("shapes named", reconstruct.main, shipped, HAPPY, SAD)
    served = []
    monkeypatch.setattr(demo, "Demo", lambda run, checkpoint: served.append(run) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        demo.serve(port=free_port())
    assert served == [shipped]
    monkeypatch.setattr(evaluate, "evaluate_all", lambda given, *rest: served.append(given) or [])
    evaluate.main([])
    assert served[1] == ()


def free_port():
    from demo_runs import free_port

    return free_port()


def test_evaluation_of_weights_without_their_face_model(foreign, tmp_path, monkeypatch, capsys):
    """What needs no shape of the built-in face is measured, into a folder of its own."""
    _, small = foreign
    monkeypatch.chdir(tmp_path)
    before = set(small.parent.iterdir())
    evaluate.main(
        [
            *(str(small), "--identities", "2", "--lights", "0", "--frontal-lights", "0"),
            *("--fitted", "12", "--als", "1", "1", "2", "--folds", "2", "--transfers", "2"),
            *("--shapes", "2", "--embedded", "0"),
        ]
    )
    assert "shapes and landmarks are left out" in capsys.readouterr().out
    assert set(small.parent.iterdir()) == before
    (measures,) = json.loads((tmp_path / "report" / "evaluation.json").read_text())["runs"]
    assert measures["shape"] == {} and measures["angular_error"]["network"]["mean"] > 0
    rows = measures["transfer"]["expression"]
    assert "landmarks" not in rows["network"] and rows["network"]["face"] > 0


def test_the_shape_travels_without_the_face_model(foreign, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    run, small = foreign
    whole, opened = OpenedRun(run, Options()), OpenedRun(small, Options())
    content = small.read_bytes()
    assert b"scanned" in content and str(run.parent).encode() not in content
    assert run.parent.name not in small.with_suffix(".json").read_text()
    surface, truth = opened.inputs.surface, whole.inputs.surface
    assert surface.source == "a scanned face" and not len(surface.identity_modes)
    assert torch.equal(surface.triangles, truth.triangles)
    assert torch.equal(surface.landmarks68, truth.landmarks68)
    mean = whole.model.statistics.get_buffer("shape_mean").view(-1, 3)
    torch.testing.assert_close(surface.mean, mean)
    # Generated faces are of the built-in face.
    assert opened.inputs.face_model is make_analytic_face()
    face = opened.inputs.read_one(HAPPY)
    assert face.landmarks is not None
    reconstruct.main([str(small), HAPPY, "--out", str(tmp_path / "faces")])
    said = capsys.readouterr().out
    assert "no mesh of the coefficients: the network's coefficients belong to the face" in said
    assert {p.name for p in (tmp_path / "faces" / "000").glob("*.ply")} == {"decoder.ply"}
    found = Demo(small)
    assert "Ready-made weights" in found.sentence and "a scanned face" in found.sentence
    session, _ = found.start()
    assert found.make_mesh(session, {})[:4] == b"glTF"
    words = ("--target", HAPPY, "--source", SAD, "--out", tmp_path / "warped")
    said = refused(edit.main, "expression", small, *words, "--warp")
    assert "--face-model" in said


def test_with_its_face_model_weights_do_all(foreign):
    _, small = foreign
    opened = OpenedRun(small, Options())
    with pytest.raises(ConfigurationError, match=r"\(a scanned face\), which the weights do not"):
        opened.inputs.find_coefficient_model()
    face = make_analytic_face(1000)
    opened.inputs._face = face
    assert opened.inputs.find_coefficient_model() is face


def test_pictures_are_aligned_by_the_shape_that_travels(foreign, tmp_path):
    run, small = foreign
    from ntensor.faces.media.images import save_image

    face = OpenedRun(small, Options()).inputs.read_one(SAD)
    save_image(tmp_path / "a.png", face.image)
    np.savetxt(tmp_path / "a.txt", face.landmarks.numpy())
    options = Options(landmarks=tmp_path / "a.txt")
    found, wanted = (
        OpenedRun(r, options).inputs.read_one(str(tmp_path / "a.png")) for r in (small, run)
    )
    # The mean of the training shapes in place of the neutral one.
    assert (found.landmarks - wanted.landmarks).abs().max() < 0.5


def test_unpack(foreign, tmp_path):
    _, small = foreign
    main(["unpack", str(small), "--out", str(tmp_path / "run")])
    first, second = open_run(small), open_run(tmp_path / "run")
    assert (first.step, first.configuration) == (second.step, second.configuration)
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name
    assert torch.equal(first.surface.triangles, second.surface.triangles)
    assert first.surface.source == second.surface.source
    assert "already holds a run" in refused(main, "unpack", small, "--out", tmp_path / "run")
    again = tmp_path / "again.safetensors"
    pack(tmp_path / "run", again)
    assert torch.equal(open_run(again).surface.triangles, first.surface.triangles)


def test_pack_refuses(run, tmp_path):
    out = tmp_path / "a.safetensors"
    assert "ends in .safetensors" in refused(main, "pack", run, "--out", tmp_path / "a.bin")
    words = ("pack", run, "--out", out, "--pictures", "4")
    assert "MB more; see --most" in refused(main, *words, "--most", "0.04")
    assert not out.exists()
    out.with_suffix(".json").write_text("mine")
    assert "already exists" in refused(main, *words)
    assert out.with_suffix(".json").read_text() == "mine"


def changed(path, tmp_path, change):
    """A copy of a file with other tensors or notes."""
    from safetensors.torch import save_file

    tensors, notes = read_tensors(path)
    change(tensors, notes)
    copy = tmp_path / "changed.safetensors"
    save_file(tensors, copy, notes)
    return copy


DAMAGES = {
    r"the note ntensor is missing": lambda t, n: n.pop("ntensor"),
    r"format: Input should be 1": lambda t, n: n.update(
        ntensor=n["ntensor"].replace('"format": 1', '"format": 2')
    ),
    r"faces must be text, up to 200 printable": lambda t, n: n.update(
        ntensor=n["ntensor"].replace("a scanned", "a\\u001bscanned")
    ),
    r"surface.triangles must be 0 to 999, got 0 to 1000": lambda t, n: (
        t["surface.triangles"].view(-1)[:2].copy_(torch.tensor([0, 1000]))
    ),
    r"surface.landmarks68: expected int32 of shape \(68,\), got none": lambda t, n: t.pop(
        "surface.landmarks68"
    ),
    r"frontal_stream.projection.core.basis has NaN": lambda t, n: t[
        "frontal_stream.projection.core.basis"
    ].fill_(float("nan")),
    r"core.core: expected float16 of shape": lambda t, n: t.update(
        {
            "frontal_stream.projection.core.core": t["frontal_stream.projection.core.core"][
                :1
            ].clone()
        }
    ),
    r"expected float32 of shape .*, got int32": lambda t, n: t.update(
        {"light.linear.weight": t["light.linear.weight"].int()}
    ),
}


@pytest.mark.parametrize("message", DAMAGES)
def test_damaged_weights_are_one_sentence(foreign, tmp_path, message):
    path = changed(foreign[1], tmp_path, DAMAGES[message])
    with pytest.raises(CheckpointError, match=rf"changed.safetensors: not ready-made .*{message}"):
        open_run(path)


def test_factors_that_would_fill_the_memory_are_refused():
    """A hundred kilobytes that claim a core of four gigabytes."""
    huge = {"core": torch.empty(32_000, 32_000, device="meta")}
    given = {
        "core.basis": torch.zeros(32_000, 1, dtype=torch.float16),
        "core.core": torch.zeros(1, 32_000, dtype=torch.float16),
    }
    with pytest.raises(ValueError, match=r"expected factors of at most \d+ bytes, got 4096000000"):
        packed.restore_tensors(given, huge)
    given["core.core"] = torch.full((1, 7), 3e38)
    given["core.basis"] = torch.full((9, 1), 3e38)
    with pytest.raises(ValueError, match=r"product of its factors is not finite"):
        packed.restore_tensors(given, {"core": torch.empty(9, 7, device="meta")})


def check_shipped(path):
    """What must stand beside weights that are shipped."""
    assert path.stat().st_size <= 12 * MEGABYTE
    described = json.loads(path.with_suffix(".json").read_text())
    assert described["licence"] == "MIT" and described["trained_by"]
    assert described["packed"]["bytes"] == path.stat().st_size
    assert described["packed"]["change"] and described["packed"]["errors"]
    trained = open_run(path)
    assert json.loads(to_json(trained.configuration)) == described["configuration"]
    editing.require_codes(trained.model, *editing.CODES)


def test_what_stands_beside_shipped_weights(run, tmp_path):
    pack(run, tmp_path / "a.safetensors", "--trained-by", "a command")
    check_shipped(tmp_path / "a.safetensors")
    real = runs.shipped_path()
    if real.exists():
        check_shipped(real)
