"""What the preset `robust` adds: skip connections, pairs of pictures, swapped codes, and the order
of samples that keeps pairs together."""

import dataclasses
import sys

import pytest
import torch
from torch.testing import assert_close

from batches import (
    RandomPairs,
    RandomSamples,
    batch_of,
    pairs_of,
    small_configuration,
    small_robust,
)
from ntensor.faces import editing
from ntensor.faces.common.errors import ConfigurationError
from ntensor.faces.configuration.presets import robust, tiny
from ntensor.faces.editing import FixedFace
from ntensor.faces.editing.session import Session
from ntensor.faces.networks.encoder import standardise
from ntensor.faces.networks.model import build
from ntensor.faces.networks.swaps import find_swaps
from ntensor.faces.training import losses, preparation
from ntensor.faces.training.objective import TrainingStep
from ntensor.faces.training.processes import Processes
from ntensor.faces.training.sampling import Updates, check_pairs, draw_fits
from ntensor.faces.training.trainer import Trainer
from test_training import assert_same_state, program, state_of


def trainer(run, model=None, **training):
    processes = Processes(torch.device("cpu"))
    samples = RandomPairs(), RandomPairs(4, seed=1)
    return Trainer(small_robust(model, **training), run, *samples, processes)


@pytest.fixture(scope="module", params=[False, True], ids=["subpixel", "unpooling"])
def model(request):
    torch.manual_seed(0)
    decoders = {"unpooling": request.param, "subpixel": not request.param}
    return build(small_robust(decoders).model).eval()


@pytest.fixture(scope="module")
def faces(model):
    return editing.encode(model, batch_of(4)["image"])


def test_every_parameter_has_a_gradient():
    configuration = small_robust()
    model = build(configuration.model)
    batch = pairs_of(8)
    fits = torch.arange(8) % 2 == 0
    loss, terms, _ = TrainingStep(model, configuration.losses)(batch, fits=fits)
    loss.backward()
    assert {"pairs", "swap"} <= set(terms)
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without


def test_what_a_network_is_shown(tmp_path):
    """The network sees `input`; what it is to reconstruct is `image`."""
    made = trainer(tmp_path, steps=1)
    seen = []
    made.model.encoder.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    made.train()
    shown = [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]]
    sources = [made.training, made.validation, made.validation]
    assert len(seen) == 3
    for given, indices, source in zip(sorted(seen, key=id), shown, sources, strict=False):
        assert any(torch.equal(given, s[indices]["input"]) for s in sources), source


def test_standard_pictures():
    image = torch.rand(3, 3, 8, 8)
    standard, level = standardise(image)
    assert_close(standard.flatten(1).mean(1), torch.zeros(3), atol=1e-6, rtol=0)
    assert_close(standard.flatten(1).std(1, correction=0), torch.full((3,), 0.5))
    darker, other = standardise(0.25 * image + 0.1)
    assert_close(darker, standard, atol=1e-5, rtol=1e-5)
    assert (level - other).abs().min() > 0.1
    flat, _ = standardise(torch.full((1, 3, 4, 4), 0.3))
    assert not flat.any()


def test_exposure_reaches_the_codes_by_two_numbers_alone():
    image = batch_of(4)["image"]
    model = build(small_configuration(model={"normalise_input": True}).model)
    bright, dark = (model.encode(x)[0]["z_id"] for x in (image, 0.6 * image))
    assert (bright - dark).abs().max() > 1e-3
    with torch.no_grad():
        model.encoder.bottleneck.weight[:, -2:] = 0
    bright, dark = (model.encode(x)[0]["z_id"] for x in (image, 0.6 * image))
    assert_close(bright, dark, rtol=1e-4, atol=1e-5)


def test_a_factored_core_is_a_core(model, faces):
    z_l, z_exp, z_id = (faces.codes[name] for name in ("z_l", "z_exp", "z_id"))
    stream = model.frontal_stream
    core = torch.einsum("xr,rlei->xlei", stream.basis.weight, stream.projection.core)
    image, normal = stream(z_l, z_exp, z_id)
    assert_close(image.flatten(1), torch.einsum("xlei,nl,ne,ni->nx", core, z_l, z_exp, z_id))
    assert_close(normal.flatten(1), torch.einsum("xlei,ne,ni->nx", core, z_exp, z_id) / 9)
    assert stream.projection.core.shape[0] == 3


def test_maps_are_used_where_pose_and_identity_are_the_picture_s(model, faces):
    other = editing.encode(model, batch_of(4, seed=1)["image"])
    plain = editing.decode(model, faces)
    bare = dataclasses.replace(faces, kept=faces.kept.restrict(torch.zeros(4, dtype=torch.bool)))
    without = editing.decode(model, bare)
    assert not torch.equal(plain["normal"], without["normal"])
    for name in ("mask", "background"):
        assert_close(plain[name], without[name], rtol=0, atol=0)
    for edit, code in editing.CODES.items():
        changed = {code: other.codes[code]}
        found = editing.decode(model, faces.replace(changed))
        wanted = editing.decode(
            model, (bare if edit in ("pose", "identity") else faces).replace(changed)
        )
        assert_close(found["normal"], wanted["normal"], rtol=0, atol=0)
    mixed = {"z_p": torch.cat([faces.codes["z_p"][:2], other.codes["z_p"][2:]])}
    assert faces.replace(mixed).kept.fits.tolist() == [True, True, False, False]


def test_short_ways_keep_the_maps_too(model, faces):
    codes = {name: faces.codes[name] for name in ("z_exp", "z_p", "z_l")}
    found = FixedFace(model, faces[0]).decode(**codes)
    wanted = editing.decode(model, faces[0].expand(4).replace(codes))
    for name in wanted:
        assert_close(found[name], wanted[name], msg=lambda text, name=name: f"{name}: {text}")
    session = Session(FixedFace(model, faces[0]), FixedFace(model, faces[1]))
    turned = {"z_p": editing.find_nearest_rotation(faces.codes["z_p"])[:1]}
    for weights in ({"expression": 1.0}, {"light": 1.0}, {"pose": 1.0}):
        (edit,) = weights
        name = editing.CODES[edit]
        source = (
            editing.find_nearest_rotation(faces.codes[name])
            if edit == "pose"
            else faces.codes[name]
        )
        still = torch.tensor([edit != "pose"])
        wanted = editing.decode(model, faces[0].replace({**turned, name: source[1:2]}, still))
        assert_close(session.decode(weights)["normal"], wanted["normal"])


def test_decoders_name_the_maps_that_they_miss(model, faces):
    with pytest.raises(ValueError, match="the maps of three stages, got 0"):
        model.normal(torch.ones(1, 12))


def test_swaps_are_of_pairs_with_one_difference():
    batch = {
        "identity": torch.tensor([5, 5, 6, 6, 7, 8, -1, -1, 9, 9, 5]),
        "differs": torch.tensor([1, 1, 0, 0, 1, 1, 3, 3, 2, 2, 1]),
    }
    swaps = find_swaps(batch)
    assert swaps.rows.tolist() == [0, 1, 8, 9] and swaps.others.tolist() == [1, 0, 9, 8]
    codes = {name: torch.arange(11.0).view(-1, 1) for name in ("z_exp", "z_p", "z_l", "z_id")}
    found = {name: code.flatten().tolist() for name, code in swaps.exchange(codes).items()}
    assert found["z_exp"] == [1, 0, 8, 9] and found["z_p"] == [0, 1, 9, 8]
    assert found["z_l"] == found["z_id"] == [0, 1, 8, 9]
    assert swaps.still.tolist() == [True, True, False, False]
    with pytest.raises(ConfigurationError, match=r"the label differs .*--losses\.swap 0"):
        find_swaps({"identity": batch["identity"]})


def test_a_batch_without_pairs_swaps_nothing():
    configuration = small_robust()
    batch = {**pairs_of(4), "differs": torch.full((4,), -1)}
    step = TrainingStep(build(configuration.model), configuration.losses)
    loss, terms, _ = step(batch)
    loss.backward()
    assert float(terms["swap"]) == 0 and float(terms["pairs"]) > 0


def test_data_without_pairs_is_refused_by_the_first_update(tmp_path):
    made = trainer(tmp_path, steps=2, code_steps=2)
    made.training = RandomSamples()
    with pytest.raises(ConfigurationError, match="the data has none"):
        made.train()


def test_swapped_pictures_are_the_transfers(model):
    """The term compares what `editing` makes of the pairs with the other pictures."""
    batch = pairs_of(8)
    faces = editing.encode(model, batch["input"])
    swaps = find_swaps(batch)
    assert swaps.rows.tolist() == [2, 3, 4, 5, 6, 7]
    with torch.no_grad():
        output = model(batch["input"], swaps=swaps)
        _, terms, _ = TrainingStep(model, small_robust().losses)(batch)
    made = []
    for rows, edit in (([2, 3], "expression"), ([4, 5], "pose"), ([6, 7], "light")):
        a, b = (faces[torch.tensor(r)] for r in (rows, rows[::-1]))
        made.append(getattr(editing, f"transfer_{edit}")(model, a, b))
    normal = torch.cat([m["normal"] for m in made])
    face = torch.cat([m["albedo"] * m["shading"] for m in made])
    assert_close(output["swapped_normal"], normal)
    assert_close(output["swapped_face"], face)
    targets = (batch[name][swaps.others] for name in ("image", "normal", "mask"))
    assert_close(terms["swap"], losses.swap(face, normal, *targets, 8))


def test_a_perfect_swap_costs_nothing():
    """Two pictures with one light and another expression, of a network that decodes both rightly:
    each with the other's code is the other."""
    model = build(small_robust({"skips": False}).model)
    batch = pairs_of(4)
    swaps = find_swaps({**batch, "differs": torch.ones(4, dtype=torch.int64)})
    codes, kept = model.encode(batch["input"])
    twins = {name: code.clone() for name, code in codes.items()}
    for name in set(codes) - {"z_exp"}:
        twins[name][1::2] = twins[name][::2]
    with torch.no_grad():
        plain = model.decode(twins, kept)
        swapped = model._decode_swapped(twins, kept, swaps)
    face = plain["albedo"] * plain["shading"]
    others = swaps.others
    wanted = (face[others], plain["normal"][others], plain["mask"][others])
    found = losses.swap(swapped["swapped_face"], swapped["swapped_normal"], *wanted, 4)
    assert float(found) < 1e-10
    assert float(losses.swap(face, plain["normal"], *wanted, 4)) > 1e-8


def test_a_run_continues_bit_for_bit(tmp_path):
    whole = trainer(tmp_path / "whole", steps=4, checkpoint_every=2, accumulation=2, batch_size=8)
    whole.train()
    entries = {"steps": 4, "checkpoint_every": 2, "accumulation": 2, "batch_size": 8}
    stopped = trainer(tmp_path / "stopped", **entries)
    stopped.training = Stopping(stopped)
    assert stopped.train() == "enough"
    torch.manual_seed(99)
    trainer(tmp_path / "stopped", **entries).train()
    assert_same_state(tmp_path / "stopped", tmp_path / "whole", 4)


class Stopping(RandomPairs):
    """Pairs that stop their trainer in its second update."""

    def __init__(self, owner):
        super().__init__()
        self.owner = owner

    def __getitem__(self, indices):
        if 8 in indices:
            self.owner.stopping.append("enough")
        return super().__getitem__(indices)


def test_samples_without_skips_are_dealt_like_the_samples(tmp_path):
    made = trainer(tmp_path, accumulation=2, batch_size=8, seed=1)
    made.step = 3
    parts = [made.draws.draw_fits(made.step, part, 4) for part in range(2)]
    assert torch.equal(
        torch.cat(parts), draw_fits(3, 8, 1, made.configuration.training.without_skips)
    )
    whole = draw_fits(3, 8, 1, 0.5)
    assert torch.equal(whole, draw_fits(3, 8, 1, 0.5)) and whole.any() and not whole.all()
    assert not torch.equal(whole, draw_fits(4, 8, 1, 0.5))
    share = draw_fits(0, 4000, 0, 0.25).float().mean()
    assert 0.72 < share < 0.78


@pytest.mark.slow
def test_two_processes_give_the_parameters_of_one(tmp_path):
    """Both decode the same pictures with skip connections, and swap the same codes."""
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    for folder, words in (("one", ()), ("two", (*launcher, "--nproc-per-node=2"))):
        done = program(tmp_path / folder, "robust", launcher=words or (sys.executable,))
        assert done.returncode == 0, done.stderr
    found, wanted = state_of(tmp_path / "two", 3), state_of(tmp_path / "one", 3)
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=2e-5, msg=name)


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("blocks", [(), (4, 6, 2, 8)])
def test_pairs_stay_together(world, blocks):
    dealt = []
    for rank in range(world):
        parts = Updates(20, 8, 2, 0, 5, 3, rank, world, blocks, paired=True)
        for part in parts:
            assert [i ^ 1 for i in part[::2]] == part[1::2] and all(i % 2 == 0 for i in part[::2])
            dealt += part
    assert sorted(dealt) == sorted(2 * list(range(20)))
    assert dealt[:20] != list(range(20))


def test_pairs_that_cannot_stay_together_are_refused():
    check_pairs(None)
    check_pairs(12, (4, 8))
    with pytest.raises(ConfigurationError, match=r"even number .* in every shard.* shard 1 has 5"):
        check_pairs(9, (4, 5))
    with pytest.raises(ConfigurationError, match="shard 0 has 7"):
        check_pairs(7)
    odd = small_robust(batch_size=6, accumulation=1)
    with pytest.raises(
        ConfigurationError, match=r"accumulation \(2 \* 1\) leave 3 of batch_size 6"
    ):
        preparation.check_settings(odd, 2, torch.device("cpu"))
    compiled = small_robust(compile=True)
    with pytest.raises(ConfigurationError, match="swap does not work with compile"):
        preparation.check_settings(compiled, 1, torch.device("cpu"))


@pytest.mark.parametrize("network", ["intrinsic", "plain", "proof-of-concept"])
def test_other_networks_train_with_the_same_settings(tmp_path, network):
    made = trainer(tmp_path, model={"network": network}, steps=2)
    made.train()
    assert all(torch.isfinite(p).all() for p in made.model.parameters())


def test_today_s_presets_have_none_of_it():
    model, weights = tiny().model, tiny().losses
    assert not (model.skips or model.normalise_input or model.core_rank or weights.of_pairs)
    assert model.depth == 1
    assert robust().losses.of_pairs and robust().model.skips
