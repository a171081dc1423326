"""Photographs and data sets of one's own: what stands beside a run's measures on them."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from ntensor.faces.common.errors import FacesError
from ntensor.faces.datasets.generated import GeneratedFaces
from ntensor.faces.datasets.records import DIFFERS, VALID
from ntensor.faces.datasets.storage import ShardWriter, read_meta
from ntensor.faces.evaluate import main
from ntensor.faces.evaluation import materials
from ntensor.faces.evaluation.errors import Errors
from ntensor.faces.evaluation.estimates import PersonsMean, measure_without_training
from ntensor.faces.evaluation.look import look
from ntensor.faces.evaluation.materials import Materials
from ntensor.faces.evaluation.measures import RotationError, VarianceLeft
from ntensor.faces.evaluation.own import OTHER, name_set, read_own_pictures
from ntensor.faces.evaluation.pairs import find_pairs
from ntensor.faces.evaluation.photographs import read_labels, read_photographs
from ntensor.faces.evaluation.pictures import Pictures, read_stored
from ntensor.faces.evaluation.settings import Evaluation
from ntensor.faces.evaluation.transfer import COPY, DETAIL, WARP, measure_copy
from ntensor.faces.media.inputs import EDITED
from ntensor.faces.morphable.analytic_face import make_analytic_face
from ntensor.faces.networks.statistics import Statistics
from ntensor.faces.training.runs import load_run
from small_runs import VERTICES, write_run
from tables import tables_of

OPTIONS = ["--fitted", "40", "--folds", "2", "--batch-size", "32"]
PAIRS = 16


def draw_pairs(faces, count):
    """`count` pairs: the second picture has all, or one factor, of another scene, and the person of
    the first."""
    drawn = faces.draw(range(2 * count))
    batches = []
    for k in range(count):
        own, other = drawn[slice(k, k + 1)], drawn[slice(count + k, count + k + 1)]
        differs = DIFFERS[k % len(DIFFERS)]
        names = [name for edit in EDITED if edit != "identity" for name in EDITED[edit]]
        given = {name: getattr(other, name) for name in EDITED.get(differs, names)}
        for scenes in (own, dataclasses.replace(own, **given)):
            batch = faces.render(scenes)
            batch["differs"] = torch.tensor([DIFFERS.index(differs)])
            batches.append(batch)
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def degrade(image):
    """Grey and noisy."""
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    return (image.mean(1, keepdim=True) + 0.05 * noise).clamp(0, 1)


@pytest.fixture(scope="session")
def batch():
    faces = GeneratedFaces(make_analytic_face(VERTICES), "test", 16)
    drawn = draw_pairs(faces, PAIRS)
    return {**drawn, "input": degrade(drawn["image"]), "light_bin": torch.arange(2 * PAIRS) % 2}


@pytest.fixture(scope="session")
def stored(batch, tmp_path_factory):
    """A degraded set from another generator, and a clean one that lacks some poses."""
    base = tmp_path_factory.mktemp("sets")
    face = make_analytic_face(VERTICES)
    with ShardWriter(base / "degraded", face, 12, "other-world", "pairs") as writer:
        writer.add(batch)
    valid = torch.ones(2 * PAIRS, len(VALID), dtype=torch.bool)
    valid[::2, VALID.index("pose")] = False
    clean = {name: value for name, value in batch.items() if name not in ("input", "differs")}
    with ShardWriter(base / "clean", face, 12, "test", "pairs") as writer:
        writer.add({**clean, "valid": valid})
    return base


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("own") / "full-s0")


@pytest.fixture(scope="session")
def report(run, stored, tmp_path_factory):
    """The report of both sets alone; nothing of the generated faces' tables is rendered."""
    out = tmp_path_factory.mktemp("report") / "out"

    def refuse(*_):
        raise AssertionError("rendered")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("draw_table_2", "draw_table_3", "Transfers", "Multilinear"):
            patch.setattr(materials, name, refuse)
        sets = [str(stored / name) for name in ("degraded", "clean")]
        main([str(run), "--only", "--data", *sets, "--out", str(out), *OPTIONS])
    return out


def test_every_set_is_a_column(report, run):
    text = (report / "report.md").read_text()
    header = next(line for line in text.splitlines() if line.startswith("|  |"))
    assert header == "|  | another world | clean |"
    assert not (run / "evaluation.json").exists()
    for title in (
        *("normals, degrees", "pose, degrees", "E_id, variance left", "E_exp, variance left"),
        *("identity from z_id, random / apart", "expression from z_exp, random / apart"),
        *("light from z_l, random / apart", "face of the reconstruction, 1e-3"),
        *(f"{edit} edit, face, 1e-3" for edit in EDITED if edit != "identity"),
    ):
        assert f"| **{title}** |" in text, title
    tables = tables_of(text)
    assert set(tables) == {"Worlds", "Another world", "Clean"}
    normals, pose, codes, expression, moved, light = tables["Another world"]
    names = {"full", "mean face", "constant", "linear from pixels", "the persons' own mean"}
    assert set(normals) == names
    assert set(pose) == {"full", "linear from pixels", "constant"}
    assert {"untrained z_id", "pixels, 4 components", "pixels of the set, 4 components"} <= set(
        codes
    )
    assert {"full's coefficients, the input warped", COPY} <= set(expression)
    assert COPY in moved and "full, its change added to the input" in light
    assert len(tables["Clean"]) == 3


def test_names_of_columns(run, stored, tmp_path):
    meta = read_meta(stored / "clean")
    assert name_set(stored / "clean", meta) == "clean"
    assert name_set(tmp_path / "other", meta) == OTHER
    rendered = dataclasses.replace(meta, extra={"world": "other"})
    assert name_set(stored / "clean", rendered) == OTHER
    _, configuration, _ = load_run(run)
    shutil.copytree(stored / "clean", tmp_path / "clean")
    shutil.copytree(stored / "clean", tmp_path / "other")
    sets = [stored / "degraded", tmp_path / "other", stored / "clean", tmp_path / "clean"]
    found = read_own_pictures(Materials(configuration, Evaluation()), None, None, sets)
    assert [own.name for own in found] == [
        *(f"{OTHER} (degraded)", f"{OTHER} (other)"),
        *(f"clean ({folder.resolve()})" for folder in sets[2:]),
    ]


def test_the_network_is_shown_the_input(run, stored, batch):
    model, _, _ = load_run(run)
    pictures = read_stored(str(stored / "degraded"), 32, 16)
    errors, kept = look(model, pictures, torch.device("cpu"), 32, shown=4)
    # A stored picture has eight bits.
    shown = (batch["input"] * 255).round() / 255
    with torch.no_grad():
        output = model(shown)
    np.testing.assert_allclose(kept.codes["z_id"], output["z_id"], atol=1e-4)
    wanted = (output["image"].clamp(0, 1) - batch["image"]).square().mean()
    assert errors["squared_error"]["network"]["image"] == pytest.approx(float(wanted), rel=1e-3)
    others = measure_without_training(pictures)["squared_error"]
    (as_shown,) = others.values()
    wanted = (shown - batch["image"]).square().mean()
    assert as_shown["image"] == pytest.approx(float(wanted), rel=1e-2)


def test_pairs_are_each_other_s_truth(stored, batch):
    pictures = read_stored(str(stored / "degraded"), 32, 16)
    found = find_pairs(pictures, 100, None)
    assert set(found) == {"expression", "pose", "light"}
    pairs = found["expression"]
    assert len(pairs) == 2 * PAIRS // 4
    assert torch.equal(pairs.target["identity"], pairs.source["identity"])
    assert not torch.equal(pairs.target["exp_3dmm"], pairs.source["exp_3dmm"])
    perfect = pairs.measure("expression", pairs.source["image"], pairs.source["normal"])
    assert perfect["face"] == 0 and perfect["normals"] == pytest.approx(0, abs=0.1)
    # Both directions of pair 1, whose records are 2 and 3.
    image = pictures[slice(2, 4)]["image"]
    torch.testing.assert_close(image, batch["image"][2:4], atol=1 / 509, rtol=0)
    first = (image[0] - image[1]).square()
    pairs = find_pairs(_choose(pictures, [2, 3]), 100, None)["expression"]
    copied = measure_copy(pairs, "expression")["image"]
    assert copied == pytest.approx(float(first.mean()), rel=1e-4)
    assert len(find_pairs(pictures, 3, None)["light"]) == 3
    # Half a pair is none, and neighbours of different pairs are none.
    assert find_pairs(_choose(pictures, [3, 10]), 100, None) == {}


def _choose(pictures, rows):
    chosen = Pictures("chosen", [pictures[torch.tensor(rows)]])
    assert len(chosen) == len(rows)
    return chosen


def test_edits_of_pairs_are_measured(report):
    content = json.loads((report / "evaluation.json").read_text())
    degraded, clean = content["others"]
    rows = degraded["transfer"]["expression"]
    assert set(rows) == {"network", "network, nothing transferred", DETAIL, WARP, COPY}
    # An untrained network changes nothing, and a copy has the normals of another expression.
    assert rows[DETAIL]["face"] == pytest.approx(rows[COPY]["face"], rel=0.2)
    assert rows[COPY]["normals"] > 0 and rows["network"]["face"] > rows[COPY]["face"]
    assert DETAIL not in degraded["transfer"]["pose"] and clean["transfer"] == {}


def test_baselines_on_a_set_are_of_training(report, run, stored):
    """Mean face and regression know nothing of the set; those of a set that lacks some poses count
    the others."""
    _, configuration, _ = load_run(run)
    own = Materials(configuration, Evaluation(fitted=40)).references
    pictures = read_stored(str(stored / "clean"), 32, 16)
    errors = Errors()
    everything = pictures[slice(None)]
    errors.add("mean", everything, {"normal": own.normal.expand_as(everything["normal"])})
    known = everything["valid_pose"]
    assert known.tolist() == [False, True] * PAIRS
    angle = RotationError()
    angle.add(torch.eye(3).expand(PAIRS, 3, 3), everything["pose"][known])
    _, clean = json.loads((report / "evaluation.json").read_text())["others"]
    mean = errors.results()["angular_error"]["mean"]["mean"]
    assert clean["angular_error"]["mean face"]["mean"] == pytest.approx(mean, abs=1e-3)
    assert clean["pose_error"]["constant"] == pytest.approx(angle.result(), rel=1e-4)
    # Means of training leave all of the variance that is counted about them.
    assert clean["variance_left"]["network"]["identity"] > 0.9
    assert set(clean["variance_left"]) == {"network", "linear from pixels"}


def test_persons_mean_leaves_the_person_out():
    normal = torch.zeros(5, 3, 2, 2)
    for k, axis in enumerate((0, 0, 1, 2, 2)):
        normal[k, axis] = 1
    mask = torch.ones(5, 1, 2, 2)
    labels = torch.tensor([7, 7, 3, 9, -1])
    given = {"image": mask.expand(5, 3, 2, 2), "mask": mask, "normal": normal, "identity": labels}
    pictures = Pictures("made by hand", [given])
    mean = PersonsMean(pictures)
    assert mean.persons == 3
    found = mean.leave_out(torch.tensor([7, 3]))[..., 0, 0]
    torch.testing.assert_close(found, torch.tensor([[0.0, 1, 1], [2, 0, 1]]), atol=1e-2, rtol=0)
    alone = {name: value[:2] for name, value in given.items()}
    assert PersonsMean(Pictures("one person", [alone])).persons == 0


def test_rotations_and_variance_left():
    turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    error = RotationError()
    error.add(torch.stack([torch.eye(3), turn]), torch.eye(3).expand(2, 3, 3))
    assert error.result()["mean"] == pytest.approx(45)
    truth, left = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), {}
    for name, found in {"mean": 0 * truth, "half": truth / 2, "truth": truth}.items():
        left[name] = VarianceLeft()
        left[name].add(found, truth)
    shares = {name: each.result() for name, each in left.items()}
    assert shares == {"mean": 1, "half": pytest.approx(0.25), "truth": 0}
    statistics = Statistics({"id_3dmm": 3})
    errors = Errors(statistics)
    given = {"image": torch.zeros(20, 3, 1, 1), "id_3dmm": truth}
    errors.add("other face model", given, {"id_3dmm": truth[:, :2]})
    errors.add("same", given, {"id_3dmm": truth})
    assert errors.results()["variance_left"] == {"same": {"identity": 0}}


def test_rare_and_very_many_classes():
    count = 2 * 130
    given = {
        "image": torch.zeros(count + 1, 3, 8, 8),
        "identity": torch.cat([torch.arange(count) // 2, torch.tensor([130])]),
        "expression": torch.tensor([0] * count + [1]),
    }
    pictures = Pictures("made by hand", [given])
    factors = pictures.factors()
    assert set(factors) == {"identity"}
    assert factors["identity"].unique().tolist() == [-1, *range(100)]
    assert pictures.groups()["identity"].max() == 130


def test_baselines_of_a_run_on_a_stored_set(stored, tmp_path, capsys):
    """They are fitted to that set and its degraded pictures; without it they are left out."""
    for name in ("training", "validation"):
        shutil.copytree(stored / "degraded", tmp_path / name)
    sources = {"source": str(tmp_path / "training")}
    sources["validation_source"] = str(tmp_path / "validation")
    run = write_run(tmp_path / "run", **sources)
    _, configuration, _ = load_run(run)
    references = Materials(configuration, Evaluation(fitted=30)).training_references
    pictures = read_stored(sources["source"], 32, 16)[slice(None)]
    assert references.source == f"30 pictures of {sources['source']} (pairs)"
    torch.testing.assert_close(references.image, pictures["image"][:30].mean(0, keepdim=True))
    centre = torch.from_numpy(references.components.mean_).view(3, 16, 16)
    torch.testing.assert_close(centre, pictures["input"][:30].mean(0), atol=1e-5, rtol=0)
    shutil.rmtree(tmp_path / "training")
    out = tmp_path / "out"
    main([str(run), "--only", "--data", str(stored / "clean"), "--out", str(out), *OPTIONS])
    (measures,) = json.loads((out / "evaluation.json").read_text())["others"]
    assert "that the run was trained on does not exist" in measures["left_out"]
    assert set(measures["angular_error"]) == {"network", "constant", "the persons' own mean"}
    assert {"pixels of the set, 4 components", "untrained z_id"} <= set(measures["accuracy"])
    text = (out / "report.md").read_text()
    assert "Baselines of training are left out" in text
    assert "wrote" in capsys.readouterr().out


def test_only_wants_pictures(run, tmp_path):
    def refused(*words):
        with pytest.raises(SystemExit) as raised:
            main([str(run), "--only", *words])
        return str(raised.value)

    assert "expected --images or --data" in refused()
    assert "no baseline, got the baseline" in refused("--images", "x", "--plain", str(run))
    assert "is the folder of a run" in refused("--images", "x", "--out", str(run))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,identity\na.png,1\n", "line 1: expected the columns file and any of identity"),
        ("file,mood\na.png,1\n", "line 1: expected the columns file"),
        ("file,identity\na.png\n", "line 2: expected 2 entries as in the first line, got 1"),
        ("file,identity\na.png,1\n\na.png,2\n", "line 4: names a.png again"),
        ("file,identity\n,2\n", "line 2: names no file"),
        ("file,identity\n", "the file labels no picture"),
        ("", "line 1: expected the columns file"),
    ],
)
def test_wrong_labels_are_named(tmp_path, text, message):
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(FacesError, match=message) as raised:
        read_labels(path)
    assert str(path) in str(raised.value)


def test_photographs(tmp_path):
    with pytest.raises(FacesError, match="no pictures"):
        read_photographs(tmp_path, None, 16)
    grey = np.full((20, 40), 128, np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.new("RGB", (50, 30), (255, 0, 0)).save(tmp_path / "red.jpg")
    labels = tmp_path / "labels.csv"
    labels.write_text("file,light\nred.jpg,left\n")
    found, names = read_photographs(tmp_path, labels, 16)
    assert names == ["grey.png", "red.jpg"]
    batch = found[slice(None)]
    torch.testing.assert_close(batch["image"][0], torch.full((3, 16, 16), 128 / 255))
    assert batch["light_bin"].tolist() == [-1, 0] and batch["identity"].tolist() == [-1, -1]
    labels.write_text("file,light\nblue.jpg,left\n")
    with pytest.raises(FacesError, match=r"labels blue.jpg, which is not in"):
        read_photographs(tmp_path, labels, 16)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(FacesError, match=r"broken.png: not a picture"):
        read_photographs(tmp_path, None, 16)
