"""Data sets, face models, runs and weights whose content cannot be: file and array are named."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ntensor.faces import data, train, verification
from ntensor.faces.common.errors import CheckpointError, DamagedData
from ntensor.faces.datasets.generated import GeneratedFaces
from ntensor.faces.datasets.storage import META, ShardWriter, write_statistics
from ntensor.faces.datasets.stored import StoredFaces, check
from ntensor.faces.morphable.analytic_face import make_analytic_face
from ntensor.faces.morphable.ict_face import load_ict_face
from ntensor.faces.networks.light_cnn import LightCNN
from ntensor.faces.reading import read_tensors
from ntensor.faces.training import checkpoint
from ntensor.faces.training.runs import load_run
from small_files import write_ict
from small_runs import write_run


@pytest.fixture(scope="module")
def batch():
    return GeneratedFaces(make_analytic_face(1000), size=16).batch(range(4))


@pytest.fixture
def folder(tmp_path, batch):
    faces = GeneratedFaces(make_analytic_face(1000), size=16)
    with ShardWriter(tmp_path / "set", faces.face_model) as writer:
        writer.add(batch)
    write_statistics(writer.folder, faces.statistics)
    return writer.folder


def put(file, name, change):
    def apply(folder):
        with np.load(folder / file) as archive:
            arrays = dict(archive)
        arrays[name] = change(arrays[name])
        np.savez(
            folder / file, **{key: array for key, array in arrays.items() if array is not None}
        )

    return apply


def filled(value):
    return lambda array: np.full_like(array, value)


def no_archive(folder):
    (folder / "statistics.npz").write_bytes(b"\x93NUMPY")


SETS = {
    "triangles": (put("basis.npz", "triangles", lambda t: t + 999), "basis.npz: triangles must be"),
    "triangles NaN": (
        put("basis.npz", "triangles", lambda t: t * np.nan),
        "basis.npz: triangles must be whole",
    ),
    "landmarks": (put("basis.npz", "landmarks68", filled(-2)), "basis.npz: landmarks68 must be"),
    "landmarks few": (
        put("basis.npz", "landmarks68", lambda x: x[:5]),
        r"landmarks68 must .*\(68,\), got",
    ),
    "mean complex": (
        put("basis.npz", "mean", lambda x: x + 0j),
        "mean must be floating-point numbers",
    ),
    "mean strings": (
        put("basis.npz", "mean", lambda x: x.astype("U3")),
        "mean must be floating-point",
    ),
    "modes missing": (put("basis.npz", "id", lambda x: None), "basis.npz: no array id"),
    "statistics NaN": (
        put("statistics.npz", "shape_mean", filled(np.nan)),
        "shape_mean must be finite",
    ),
    "deviations 0": (
        put("statistics.npz", "id_3dmm_std", filled(0)),
        "id_3dmm_std must be finite .* got 0",
    ),
    "deviations negative": (put("statistics.npz", "shape_std", filled(-1)), "shape_std must be"),
    "statistics short": (
        put("statistics.npz", "exp_3dmm_mean", lambda x: x[:1]),
        "exp_3dmm_mean must be",
    ),
    "statistics missing": (
        put("statistics.npz", "shape_std", lambda x: None),
        "no array shape_std",
    ),
    "valid": (
        put("shard_000.npz", "valid", lambda x: x[:, None]),
        "shard_000.npz: valid must be uint16",
    ),
    "statistics no archive": (no_archive, "statistics.npz: cannot be read"),
}


@pytest.mark.parametrize("case", SETS)
def test_check_names_file_and_array(folder, case, capsys):
    change, reason = SETS[case]
    change(folder)
    damages = check(folder)[1]
    assert len(damages) == 1
    with pytest.raises(DamagedData, match=reason):
        raise damages[0]
    with pytest.raises(SystemExit) as ended:
        data.main(["check", str(folder)])
    assert ended.value.code == 1 and str(damages[0]) in capsys.readouterr().out
    with pytest.raises(DamagedData, match=reason):
        faces = StoredFaces(folder)
        _ = faces.statistics
        faces.batch([0])


def test_check_finds_all_of_them(folder):
    SETS["triangles"][0](folder)
    SETS["deviations 0"][0](folder)
    SETS["valid"][0](folder)
    assert {damage.file.name for damage in check(folder)[1]} == {
        "basis.npz",
        "statistics.npz",
        "shard_000.npz",
    }


@pytest.mark.parametrize("workers", ["0", "1"])
def test_training_names_the_record(folder, tmp_path, workers):
    put("shard_000.npz", "light", filled(np.nan))(folder)
    words = ["--preset", "tiny", "--model.image-size", "16", "--model.channels", "4", "4", "4"]
    words += ["--data.source", str(folder), "--data.validation-source", str(folder)]
    words += ["--data.vertices", "0", "--data.workers", workers, "--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as ended:
        train.main([*words, "--training.batch-size", "2", "--training.steps", "1"])
    path = folder / "shard_000.npz"
    assert ended.value.code in [
        f"error: {path}, record {k}: light has NaN or infinite numbers" for k in range(4)
    ]


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("arrays", 1),
        ("arrays", [["image"]]),
        ("arrays", None),
        ("shards", None),
        ("shards", []),
        ("shards", [["a.npz", 10**30]]),
        ("size", 10**9),
        ("size", 1.5),
        ("extra", []),
        ("vertices", -1),
        ("id_3dmm", True),
        ("source", 3),
        ("arrays", ["image", "image"]),
    ],
)
def test_meta(folder, entry, value):
    path = folder / META
    path.write_text(json.dumps(json.loads(path.read_text()) | {entry: value}))
    with pytest.raises(DamagedData, match=rf"meta\.json: .*{entry[:-1]}"):
        StoredFaces(folder)


ICT = {
    "triangles": ("triangles", lambda x: x + 60, "triangles must be"),
    "part": ("part", lambda x: x + 9, "part must be"),
    "part names": ("part_names", lambda x: x[::-1], "part_names must be face, head_neck"),
    "NaN": ("mean", filled(np.nan), "mean must be finite"),
    "step": ("id_step", lambda x: np.float32(1e6), "identity_modes has numbers beyond"),
    "gaze": ("eye_gaze_front", lambda x: 0 * x, "eye_direction has numbers beyond"),
    "paint": ("paint_lips", lambda x: x[:-1], r"paint_lips must be uint8 of shape \(60,\)"),
    "missing": ("ao", lambda x: None, "no array ao"),
    "landmarks": ("landmarks68", lambda x: x[:5], r"landmarks68 must be .*\(68,\)"),
}


@pytest.mark.parametrize("case", ICT)
def test_face_model_files(tmp_path, case):
    write_ict(tmp_path / "face.npz")
    assert load_ict_face(tmp_path / "face.npz", 2).shape_size == 150
    name, change, reason = ICT[case]
    put("face.npz", name, change)(tmp_path)
    with pytest.raises(DamagedData, match=rf"face\.npz: {reason}"):
        load_ict_face(tmp_path / "face.npz", 2)


def state(text):
    return lambda run: (checkpoint.folder_of(run, 3) / "state.json").write_text(text)


def weights(change):
    def apply(run):
        path = checkpoint.folder_of(run, 3) / "model.safetensors"
        tensors = load_file(path)
        name = "encoder.bottleneck.weight"
        tensors[name] = change(tensors[name]).contiguous()
        save_file(tensors, path)

    return apply


def settings(entry, value):
    def apply(run):
        path = run / "configuration.json"
        found = json.loads(path.read_text())
        found["model"][entry] = value
        path.write_text(json.dumps(found))

    return apply


RUNS = {
    "state {}": (state("{}"), "step must be the folder's, got None"),
    "state []": (state("[]"), "an object, got"),
    "step text": (state('{"step": "3"}'), "step must be the folder's, got '3'"),
    "step other": (state('{"step": 4}'), "step must be the folder's, got 4"),
    "state deep": (state("[" * 9999), "recursion"),
    "value text": (state('{"step": 3, "validation": "1"}'), "a number or null, got '1'"),
    "value other": (state('{"step": 3, "validation": true}'), "a number or null, got True"),
    "int32": (weights(lambda t: t.int()), "expected float32 of shape .* got int32"),
    "NaN": (weights(lambda t: t * torch.nan), "encoder.bottleneck.weight has NaN"),
    "shape": (weights(lambda t: t[:1]), "encoder.bottleneck.weight: expected"),
    "sizes": (settings("k_exp", 60_000), "weights and configuration.json differ"),
}


@pytest.mark.parametrize("case", RUNS)
def test_damaged_runs(tmp_path, case):
    run = write_run(tmp_path / "run")
    change, reason = RUNS[case]
    change(run)
    with pytest.raises(CheckpointError, match=reason):
        load_run(run)


def test_other_folders_are_no_checkpoints(tmp_path):
    run = write_run(tmp_path / "run")
    for name in ("step-abc", "step-", "step-5", "step-00000009.old", "step-000000003"):
        (run / "checkpoints" / name).mkdir()
    (run / "checkpoints" / "step-00000008").write_text("no folder")
    assert checkpoint.saved_steps(run) == [3] and load_run(run)[2] == 3


def test_optimizer_state():
    layer = torch.nn.Linear(2, 3)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    good = {n: t.clone() for n, t in checkpoint.pack_optimizer("a", optimizer).items()}
    checkpoint.unpack_optimizer("a", optimizer, good)
    key = "a.0.exp_avg_sq"
    for changed, reason in (
        ({"a.x.step": torch.ones(())}, "a.x.step: expected one of 2 parameters"),
        ({"a.7.step": torch.ones(())}, "a.7.step: expected one of 2"),
        ({"a.-1.step": torch.ones(())}, "a.-1.step: expected one of 2"),
        ({"a.0": torch.ones(())}, "a.0: expected none"),
        ({"a.0.other": torch.ones(())}, "a.0.other: expected none"),
        ({key: good[key].int()}, "got int32"),
        ({key: -1 - good[key]}, "without negative squares"),
        ({key: None}, f"{key}: expected float32 .* got none"),
        (dict.fromkeys(good), "expected its state"),
    ):
        tensors = {n: t for n, t in {**good, **changed}.items() if t is not None}
        with pytest.raises(CheckpointError, match=reason):
            checkpoint.unpack_optimizer("a", optimizer, tensors)
    fresh = torch.optim.Adam(layer.parameters())
    checkpoint.unpack_optimizer("a", fresh, checkpoint.pack_optimizer("a", fresh), stepped=False)
    assert not fresh.state


def test_weights_of_a_verification_network(tmp_path):
    path = tmp_path / "a.safetensors"
    network = LightCNN(0.1, 8, 16)
    verification.save(network, path)
    image = torch.rand(1, 3, 16, 16)
    assert torch.equal(verification.load(path)(image), network.eval()(image))
    tensors, notes = read_tensors(path)
    for changed, reason in (
        ({"width": 1e9}, "width must be a finite number, above 0, at most 16"),
        ({"input_size": 17}, "input_size must be .* a multiple of 16, got 17"),
        ({"embedding": 65_536}, "expected float32 of shape"),
        ({"width": "1"}, "width: .*valid number"),
    ):
        text = json.dumps(json.loads(notes["settings"]) | changed)
        save_file(tensors, path, {"settings": text})
        with pytest.raises(CheckpointError, match=reason):
            verification.load(path)
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match="no entry settings"):
        verification.load(path)
