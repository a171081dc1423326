"""The evaluation of runs: what is measured, the report, a user's own pictures, and refusals."""

import dataclasses
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from ntensor.faces.common.errors import CheckpointError
from ntensor.faces.data import render
from ntensor.faces.evaluate import main
from ntensor.faces.evaluation.groups import Group, group_runs, mean_and_deviation
from ntensor.faces.evaluation.markdown import format_accuracy_table
from ntensor.faces.evaluation.materials import Shared
from ntensor.faces.evaluation.pairs import Transfers
from ntensor.faces.evaluation.references import _assign_modes
from ntensor.faces.evaluation.run import evaluate, format_report
from ntensor.faces.evaluation.settings import Evaluation
from ntensor.faces.evaluation.transfer import (
    DETAIL,
    FOLLOWS,
    WARP,
    measure_baselines,
    select_landmarks,
)
from ntensor.faces.training import checkpoint
from ntensor.faces.training.runs import load_run
from small_runs import write_run
from tables import tables_of

SETTINGS = Evaluation(
    identities=2, lights=(0,), frontal_lights=(0, 15), fitted=40, als=(2, 2, 3), folds=2,
    transfers=3, shapes=6, embedded=20, batch_size=32,
)  # fmt: skip
OPTIONS = [
    *("--identities", "2", "--lights", "0", "--frontal-lights", "0", "15", "--fitted", "40"),
    *("--als", "2", "2", "3", "--folds", "2", "--transfers", "3", "--shapes", "6"),
    *("--embedded", "20", "--batch-size", "32"),
]


def write_seeded(folder, seed, **options):
    write_run(folder, **options)
    path = folder / "configuration.json"
    content = json.loads(path.read_text())
    content["training"]["seed"] = seed
    path.write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Folders of untrained runs: two seeds, a plain and an intrinsic one, one without rotation."""
    base = tmp_path_factory.mktemp("runs")
    return {
        "full-s0": write_seeded(base / "full-s0", 0),
        "full-s1": write_seeded(base / "full-s1", 1),
        "no-rotation-s0": write_run(base / "no-rotation-s0", rotation="off"),
        "plain": write_run(base / "plain", "plain"),
        "intrinsic": write_run(base / "intrinsic", "intrinsic"),
    }


@pytest.fixture(scope="session")
def shared():
    return Shared(SETTINGS)


@pytest.fixture(scope="session")
def written(runs, tmp_path_factory):
    """The report of all runs, and of photographs."""
    out = tmp_path_factory.mktemp("report")
    photos = out / "photos"
    photos.mkdir()
    random = np.random.default_rng(0)
    for k in range(4):
        shape = (20 + k, 30) if k % 2 else (24, 24, 3)
        Image.fromarray(random.integers(0, 255, shape, dtype=np.uint8)).save(photos / f"{k}.png")
    (out / "labels.csv").write_text(
        "file,identity,expression\n0.png,ann,happy\n1.png,ann,\n2.png,ben,sad\n3.png,ben,?\n"
    )
    render(out / "set", 6, split="test", size=16, face_model="analytic")
    main(
        [
            *(str(runs[name]) for name in ("full-s0", "full-s1", "no-rotation-s0")),
            *("--plain", str(runs["plain"]), "--intrinsic", str(runs["intrinsic"])),
            *("--images", str(photos), "--labels", str(out / "labels.csv")),
            *("--data", str(out / "set")),
            *("--out", str(out / "report"), *OPTIONS),
        ]
    )
    return out / "report"


def test_report_has_every_table(written):
    tables = tables_of((written / "report.md").read_text())
    one = tables["Table 1: angular error of normals"]
    assert len(one) == 2
    names = {"full", "no-rotation", "intrinsic", "mean face", "constant", "multilinear"}
    assert names <= set(one[0]) and names <= set(one[1])
    assert one[0]["paper, proposed"]["< 35°"] == "89.1 %"
    assert "±" in one[0]["full"]["mean, degrees"]
    assert "±" not in one[0]["no-rotation"]["mean, degrees"]
    two = tables["Table 2: linear SVM on codes, all poses"][0]
    assert list(two["full"]) == ["identity (z_id)", "expression (z_exp)", "pose (z_p)"]
    assert {"z_0 of plain", "principal components of the same sizes", "chance"} <= set(two)
    assert two["chance"]["expression (z_exp)"] == "16.7 %"
    assert "-" not in two["principal components of the same sizes"].values()
    three = tables["Table 3: linear SVM on codes, frontal faces"][0]
    assert {"multilinear model after [37]", "z_0 of plain", "full"} <= set(three)
    assert three["chance"]["light (z_l)"] == "50.0 %"
    assert len(tables["Leakage: every code against every factor"]) == 4
    for edit in ("Expression", "Pose", "Light"):
        rows = tables[edit][0]
        assert {"full", "copy of the input", "3DMM fit"} <= set(rows)
        assert ("multilinear" in rows) == (edit != "Pose")
        assert ("intrinsic" in rows) == (edit == "Light")
    shapes = tables["Shape in 3D"][0]
    assert {"full, shape stream", "mean shape", "landmark fit"} <= set(shapes)
    side = tables["Side by side"][0]
    beside = ["untrained encoder", "pixels, same size"]
    assert list(next(iter(side.values()))) == ["full", "no-rotation", *beside]
    assert side["normals, degrees"]["pixels, same size"] == "-"
    assert "-" not in side["leakage, pose from z_id, %"].values()


def test_report_shows_what_was_measured(written, runs):
    content = json.loads((written / "evaluation.json").read_text())
    assert content["groups"] == {
        "full": [str(runs["full-s0"]), str(runs["full-s1"])],
        "no-rotation": [str(runs["no-rotation-s0"])],
    }
    values = [run["angular_error"]["network"]["mean"] for run in content["runs"][:2]]
    mean, deviation = mean_and_deviation(values)
    tables = tables_of((written / "report.md").read_text())
    shown = tables["Table 1: angular error of normals"][0]["full"]["mean, degrees"]
    assert shown == f"{mean:.2f} ± {deviation:.2f}"
    own = json.loads((runs["full-s1"] / "evaluation.json").read_text())
    assert own == content["runs"][1]
    for entry in ("squared_error", "angular_error", "accuracy"):
        assert own[entry]


def test_report_names_its_pictures(written):
    text = (written / "report.md").read_text()
    for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text):
        with Image.open(written / name) as image:
            assert min(image.size) > 16
    assert {path.name for path in written.iterdir()} >= {
        *("normals.png", "tsne-expression.png", "tsne-pose.png", "own-photographs.png"),
        "own-set.png",
        *("transfer-expression.png", "transfer-pose.png", "transfer-light.png"),
    }


def test_pictures_of_ones_own(written):
    others = json.loads((written / "evaluation.json").read_text())["others"]
    photos, data = others[0], others[3]
    assert [measures["name"] for measures in others] == ["photographs"] * 3 + ["set"] * 3
    assert (photos["samples"], data["samples"]) == (4, 6)
    assert set(photos["accuracy"]["z_id"]) == {"identity"}
    assert not photos["angular_error"] and not photos["pose_error"]
    wanted = {"network", "constant", "mean face", "linear from pixels", "the persons' own mean"}
    assert set(data["angular_error"]) == wanted
    assert set(data["pose_error"]) == {"network", "constant", "linear from pixels"}
    # Of another face model than the run's.
    assert not data["variance_left"]
    text = (written / "report.md").read_text()
    assert "pictures: photographs in" in text and "set (analytic face" in text


def test_an_untrained_encoder_stands_beside_every_accuracy(written):
    """These runs are untrained themselves, with the seed of the untrained encoder."""
    content = json.loads((written / "evaluation.json").read_text())
    full, plain = content["runs"][0], content["baselines"][0]
    for table in (full["accuracy"], full["table_3"], content["others"][0]["accuracy"]):
        for code in set(table) & {"z_id", "z_exp", "z_l", "z_p"}:
            assert table[f"untrained {code}"] == table[code]
    assert plain["accuracy"]["untrained z_0"] == plain["accuracy"]["z_0"]
    tables = tables_of((written / "report.md").read_text())
    name = "untrained encoder of the same shape"
    for heading in (
        "Table 2: linear SVM on codes, all poses",
        "Table 3: linear SVM on codes, frontal faces",
    ):
        assert tables[heading][0][name] == tables[heading][0]["no-rotation"]
        assert "untrained z_0 of plain" in tables[heading][0]


def test_measures_of_an_untrained_network(runs, shared):
    found, _ = evaluate(runs["full-s0"], SETTINGS, shared)
    assert found["samples"] == 2 * 6 * 7 and found["step"] == 3
    angle = found["angular_error"]
    assert angle["mean face"]["mean"] < angle["constant"]["mean"]
    assert angle["mean face"]["mean"] < angle["network"]["mean"]
    assert angle["multilinear"]["mean"] < angle["constant"]["mean"]
    colour = found["squared_error"]
    assert colour["mean image"]["image"] < colour["network"]["image"]
    assert {"z_p", "z_exp", "z_id", "z_l", "pixels, 9 components"} <= set(found["accuracy"])
    assert found["accuracy"]["z_p"]["expression"]["chance"] == pytest.approx(1 / 6)
    assert set(found["table_3"]["z_id"]) == {"identity", "expression", "light"}
    transfer = found["transfer"]
    assert {DETAIL, "network", "copy of the input"} <= set(transfer["light"])
    assert WARP in transfer["expression"] and WARP not in transfer["light"]
    assert FOLLOWS in transfer["pose"] and DETAIL not in transfer["pose"]
    assert transfer["pose"][FOLLOWS]["normals"] != transfer["pose"]["network"]["normals"]
    assert transfer["expression"][DETAIL]["image"] < transfer["expression"]["network"]["image"]
    # A light moves nothing: as in the copy, normals and landmarks are the target's true ones.
    for name in ("normals", "landmarks"):
        wanted = transfer["light"]["copy of the input"][name]
        assert transfer["light"][DETAIL][name] == pytest.approx(wanted, abs=0.05), name
    text = format_report(found)
    for words in ("mean image", "mean face", "z_exp", "chance", "never showed"):
        assert words in text


def test_transfers_have_their_truth(shared, runs):
    transfers = shared.of_run(runs["full-s0"]).transfers
    target, source = transfers.target, transfers.source
    for edit, truth in transfers.truth.items():
        given = {"expression": "exp_3dmm", "pose": "pose", "light": "light"}
        for name, key in given.items():
            torch.testing.assert_close(truth[key], (source if name == edit else target)[key])
        perfect = transfers.measure(
            edit, truth["image"], truth["normal"], transfers.project_landmarks(truth)
        )
        assert perfect == {
            "image": 0, "face": 0, "landmarks": 0, "normals": pytest.approx(0, abs=0.1),
        }  # fmt: skip
        moved = transfers.project_landmarks(truth) + torch.tensor([13.0, 0.0])
        # 208 millimetres are 16 pixels.
        assert transfers.measure(edit, truth["image"], None, moved)["landmarks"] == pytest.approx(1)


def test_factors_are_named_by_what_they_explain():
    generator = torch.Generator().manual_seed(0)
    light, expression, identity = (
        torch.nn.functional.normalize(torch.randn(80, k, generator=generator)) for k in (3, 2, 4)
    )
    batch = {"light": light.unflatten(1, (3, 1)), "exp_3dmm": expression, "id_3dmm": identity}
    assert _assign_modes([identity, light, expression], batch) == (1, 2, 0)


def test_baselines_of_transfers(runs):
    configuration = load_run(runs["full-s0"])[1]
    model = dataclasses.replace(configuration.model, image_size=32)
    transfers = Transfers(dataclasses.replace(configuration, model=model), 8)
    measures, shown = measure_baselines(transfers, None)
    pose = measures["pose"]
    assert pose["3DMM fit"]["face"] < pose["copy of the input"]["face"]
    assert pose["3DMM fit"]["normals"] < pose["copy of the input"]["normals"]
    for edit in ("pose", "expression"):
        rows = measures[edit]
        assert rows["3DMM fit"]["landmarks"] < rows["copy of the input"]["landmarks"]
    light = measures["light"]
    assert light["3DMM fit"]["face"] < light["copy of the input"]["face"]
    assert shown["light"]["3DMM fit"].shape == (8, 3, 32, 32)


def test_landmarks_outside_of_the_shape(shared, runs):
    face = shared.of_run(runs["full-s0"]).transfers.face
    cut = dataclasses.replace(face, shape_vertices=face.landmarks68[2:])
    found = select_landmarks(cut, face.mean[None, cut.shape_vertices])
    assert found[0, :2].isnan().all()
    torch.testing.assert_close(found[0, 2:], face.mean[face.landmarks68[2:]])


def test_proof_of_concept_and_plain_runs(runs, tmp_path, capsys):
    concept = write_run(tmp_path / "poc", "proof-of-concept")
    for run in (concept, runs["plain"]):
        main([str(run), "--out", str(tmp_path / run.name / "out"), *OPTIONS])
    assert capsys.readouterr().out.count("report.md") == 2
    tables = tables_of((tmp_path / "poc" / "out" / "report.md").read_text())
    assert "poc" in tables["Pose"][0] and "Light" not in tables
    assert set(tables["Shape in 3D"][0]) == {
        "poc, predicted coefficients", "mean shape", "landmark fit",
    }  # fmt: skip
    assert "Table 1: angular error of normals" not in tables
    tables = tables_of((tmp_path / "plain" / "out" / "report.md").read_text())
    assert set(tables) == {
        "Leakage: every code against every factor",
        "Expression",
        "Pose",
        "Light",
    }


def test_principal_components_are_as_many_as_the_first_groups_codes():
    def group(name, k):
        probe = {"random": k / 10, "grouped": None, "chance": 0.1}
        table = {code: {"identity": probe} for code in ("z_id", f"pixels, {k} components")}
        sizes = {"k_id": k, "k_exp": 2, "k_l": 2}
        run = {"run": name, "configuration": {"model": sizes}, "accuracy": table}
        return Group(name, [run])

    text = format_accuracy_table(
        [group("a", 3), group("b", 4)], [], "accuracy", ["identity"], als=False
    )
    rows = tables_of(text)[""][0]
    assert rows["principal components of the same sizes"]["identity (z_id)"] == "30.0 / - %"


def test_groups():
    def run(name, seed, weight=1.0):
        configuration = {
            "training": {"seed": seed},
            "data": {"seed": seed},
            "losses": {"n": weight},
        }
        return {"run": name, "configuration": configuration, "error": {"mean": float(seed)}}

    full, other, last = group_runs(
        [run("a/full-s1", 1), run("b/full-s3", 3), run("c/full-s0", 0, 2.0), run("d/x", 0, 3.0)]
    )
    assert (full.name, other.name, last.name) == ("full", "full (2)", "x")
    assert full.format("error", "mean") == "2.00 ± 1.41"
    assert other.format("error", "mean", form=".0f") == "0"
    assert full.format("error", "median") == "-"
    assert Group("none").values("error") == []


def refused(*arguments):
    with pytest.raises(SystemExit) as raised:
        main([str(word) for word in arguments])
    return str(raised.value)


def test_refusals(runs, tmp_path):
    full, plain = runs["full-s0"], runs["plain"]
    assert "it has no checkpoint" in refused(tmp_path / "nowhere")
    assert 'needs a network "plain", got "neuro-tensorial"' in refused(full, "--plain", full)
    assert "expected --images" in refused(full, "--labels", tmp_path / "x.csv")
    assert "found none" in refused(full, "--images", tmp_path / "none")
    assert "meta.json" in refused(full, "--data", tmp_path)
    for option, value in (("identities", 1), ("lights", 16), ("folds", 1)):
        assert f"{option} must be" in refused(full, f"--{option}", value)
    (tmp_path / "file").write_text("")
    assert "file" in refused(full, "--out", tmp_path / "file", *OPTIONS)
    message = refused(plain, *OPTIONS, "--als", "9", "9", "9")
    assert "product of at most the 40" in message
    if not torch.cuda.is_available():
        assert "torch finds no GPU" in refused(full, "--device", "cuda")


def test_a_face_model_that_is_not_there(tmp_path):
    run = write_run(tmp_path / "run", face_model="/nowhere/face.npz")
    assert "which is not a file" in refused(run, *OPTIONS)


def test_a_wrong_configuration(tmp_path):
    run = write_run(tmp_path / "run")
    path = run / "configuration.json"
    path.write_text(path.read_text().replace('"k_exp": 3', '"k_exp": 6'))
    assert "weights and configuration.json differ" in refused(run)
    path.write_text("{")
    assert "configuration.json" in refused(run)


def test_damaged_checkpoint_is_named(tmp_path):
    run = write_run(tmp_path / "run")
    path = checkpoint.folder_of(run, 3) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"step-00000003: not a complete checkpoint"):
        load_run(run)
