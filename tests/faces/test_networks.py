"""The networks: the paper's sizes, equal results on every backend, their parts."""

import dataclasses
import os
import subprocess
import sys

import pytest
import torch

import ntensor
from batches import batch_of, small_configuration
from ntensor.faces.common.errors import ConfigurationError
from ntensor.faces.configuration.presets import paper, proof_of_concept, tiny
from ntensor.faces.networks import Decoder, Discriminator, Encoder, UnpoolingDecoder
from ntensor.faces.networks.encoder import find_places
from ntensor.faces.networks.light_cnn import LightCNN
from ntensor.faces.networks.model import build
from ntensor.faces.networks.statistics import Statistics
from ntensor.faces.training.objective import TrainingStep, build_adversary


def test_sizes_of_the_paper():
    with torch.device("meta"):
        model = build(paper().model)
        output = model(torch.empty(2, 3, 64, 64))
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    core_b, core_q = model.shape_stream.projection.core, model.frontal_stream.projection.core
    assert core_b.shape == (28125, 15, 80) and core_b.numel() == 33_750_000
    assert core_q.shape == (12288, 9, 15, 80) and core_q.numel() == 132_710_400
    assert shapes["encoder.stack.convolutions.0.weight"] == (96, 3, 5, 5)
    assert shapes["encoder.stack.convolutions.1.weight"] == (48, 96, 5, 5)
    assert shapes["encoder.stack.convolutions.2.weight"] == (24, 48, 5, 5)
    assert shapes["encoder.bottleneck.weight"] == (128, 24 * 8 * 8)
    for decoder, code in (("normal", 1200), ("albedo", 1200), ("mask", 128), ("background", 128)):
        assert shapes[f"{decoder}.linear.weight"] == (24 * 8 * 8, code)
        assert shapes[f"{decoder}.convolutions.0.weight"] == (48, 24, 5, 5)
        assert shapes[f"{decoder}.convolutions.1.weight"] == (96, 48, 5, 5)
        assert shapes[f"{decoder}.convolutions.2.weight"] == (96, 96, 5, 5)
    codes = {"z_i": 128, "z_b": 128, "z_m": 128, "z_l": 9, "z_p": 9, "z_id": 80, "z_exp": 15}
    assert {name: output[name].shape[1] for name in codes} == codes
    assert output["shape"].shape == (2, 28125)
    assert output["exp_3dmm"].shape == (2, 28) and output["id_3dmm"].shape == (2, 157)
    assert output["light"].shape == (2, 3, 9) and output["mask"].shape == (2, 1, 64, 64)
    for name in ("image", "normal", "albedo", "shading", "background", "frontal_image"):
        assert output[name].shape == (2, 3, 64, 64)
    assert output["frontal_normal"].shape == (2, 3, 64, 64)


@pytest.mark.parametrize("pose", [False, True])
def test_proof_of_concept_has_a_pose_or_not(pose):
    configuration = dataclasses.replace(
        proof_of_concept(pose).model, channels=(4, 4, 4), exp_3dmm=5, id_3dmm=7
    )
    output = build(configuration)(torch.rand(2, 3, 64, 64))
    assert ("z_p" in output) is pose
    assert output["texture"].shape == (2, 3, 64, 64)
    assert not {"mask", "light", "background"} & set(output)


def gradients(configuration, backend):
    torch.manual_seed(0)
    model = build(configuration.model)
    adversary = build_adversary(configuration)
    step = TrainingStep(model, configuration.losses, adversary)
    with ntensor.use_backend(backend):
        loss, terms, _ = step(batch_of(4))
        loss.backward()
    return terms, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("rotation", ["column", "row"])
def test_backends_give_one_step(rotation):
    configuration = small_configuration(
        model={"rotation": rotation, "k_exp": 6, "k_id": 5}, losses={"adversarial": 0.1}
    )
    terms, grads = gradients(configuration, "native")
    others, other_grads = gradients(configuration, "reference")
    assert terms.keys() == others.keys() and len(terms) >= 16
    for name, term in terms.items():
        torch.testing.assert_close(term, others[name], rtol=1e-5, atol=1e-7, msg=name)
    assert (
        grads.keys()
        == other_grads.keys()
        == {n for n, _ in build(configuration.model).named_parameters()}
    )
    for name, grad in grads.items():
        scale = other_grads[name].abs().max().item()
        torch.testing.assert_close(grad, other_grads[name], rtol=1e-4, atol=1e-5 * scale, msg=name)


def test_the_two_layouts_are_two_models():
    outputs = []
    for rotation in ("column", "row"):
        torch.manual_seed(0)
        outputs.append(
            build(small_configuration(model={"rotation": rotation}).model)(batch_of(2)["image"])
        )
    torch.testing.assert_close(outputs[0]["shape"], outputs[1]["shape"])
    assert (outputs[0]["normal"] - outputs[1]["normal"]).abs().max() > 1e-4


def test_the_rotation_moves_normals_and_albedo_only():
    model = build(small_configuration().model)
    codes, places = model.encode(batch_of(2)["image"])
    turned = {**codes, "z_p": codes["z_p"].flip(1)}
    first, second = model.decode(codes, places), model.decode(turned, places)
    for name in ("shape", "frontal_image", "frontal_normal", "mask", "background", "light"):
        assert torch.equal(first[name], second[name])
    for name in ("normal", "albedo", "shading", "image"):
        assert not torch.equal(first[name], second[name])


@pytest.mark.parametrize("network", ["neuro-tensorial", "proof-of-concept"])
@pytest.mark.parametrize("geometric", [False, True])
def test_what_trains_the_expression(network, geometric):
    sections = {"network": network, "geometric_expression": geometric}
    configuration = small_configuration(model=sections).model
    model = build(configuration)
    codes, places = model.encode(batch_of(2)["image"])
    codes["z_exp"].retain_grad()
    output = model.decode(codes, places)
    others = {"light", "mask", "background", "id_3dmm", "texture"}
    trains = {"exp_3dmm", "shape"} if geometric else set(output) - others
    for name, value in output.items():
        codes["z_exp"].grad = None
        if value.requires_grad:
            value.square().sum().backward(retain_graph=True)
        grad = codes["z_exp"].grad
        assert (grad is not None and bool(grad.any())) == (name in trains), name


def test_network_after_30_has_no_multilinear_part():
    model = build(small_configuration(model={"network": "intrinsic"}).model)
    output = model(batch_of(2)["image"])
    assert not {"shape", "frontal_image", "z_p", "z_exp", "z_id"} & set(output)
    assert {"z_n", "z_a", "normal", "albedo", "image"} <= set(output)


def test_extents_of_the_data_must_be_known():
    with pytest.raises(ConfigurationError, match="extents of exp_3dmm, id_3dmm, shape are 0"):
        build(tiny().model)


def test_image_is_composed_of_its_parts():
    o = build(small_configuration().model)(batch_of(2)["image"])
    wanted = o["mask"] * o["albedo"] * o["shading"] + (1 - o["mask"]) * o["background"]
    torch.testing.assert_close(o["image"], wanted)


def test_chosen_places_are_those_of_unpooling():
    x = torch.randn(2, 3, 8, 8)
    pooled, indices = torch.nn.functional.max_pool2d(x, 2, return_indices=True)
    torch.use_deterministic_algorithms(False)
    wanted = torch.nn.functional.max_unpool2d(pooled, indices, 2)
    spread = torch.nn.functional.interpolate(pooled, scale_factor=2)
    assert torch.equal(spread * find_places(indices), wanted)


def test_places_are_kept_where_something_unpools():
    image = batch_of(2)["image"]
    for unpooling, skips in ((True, False), (False, True), (False, False)):
        entries = {"unpooling": unpooling, "skips": skips}
        _, kept = build(small_configuration(model=entries).model).encode(image)
        assert (len(kept.places), len(kept.maps)) == (3 * unpooling, 4 * skips)


def test_unpooling_decoder_needs_places():
    with pytest.raises(ValueError, match="three poolings, got 0"):
        UnpoolingDecoder(8, 1, 16, (4, 4, 4))(torch.ones(1, 8))


@pytest.mark.parametrize("size", [8, 24])
def test_other_image_sizes(size):
    image = torch.rand(2, 3, size, size)
    codes, places = Encoder({"z": 3}, size, (4, 5, 6), 3)(image)
    assert UnpoolingDecoder(3, 2, size, (4, 5, 6), 3)(codes["z"], places).shape == (
        2,
        2,
        size,
        size,
    )
    for subpixel in (False, True):
        decoder = Decoder(3, 2, size, (4, 5, 6), 3, subpixel=subpixel)
        assert decoder(codes["z"]).shape == (2, 2, size, size)
    assert Discriminator(size, (4, 5, 6), 3, 7)(image).shape == image.shape


def test_light_cnn():
    network = LightCNN(width=0.25, embedding=16, input_size=32, identities=5)
    image = torch.rand(2, 3, 16, 16)
    assert network(image).shape == (2, 16) and network.logits(image).shape == (2, 5)
    with pytest.raises(ValueError, match="identities > 0, got 0"):
        LightCNN(width=0.25, input_size=32).logits(image)


def test_statistics_round_trip_and_floor():
    statistics = Statistics({"exp_3dmm": 4, "shape": 2})
    std = torch.tensor([1.0, 1.0, 1.0, 1e-6])
    statistics.set(
        {
            "exp_3dmm": (torch.arange(4.0), std),
            "shape": (torch.zeros(2), torch.tensor([3.0, 4.0])),
        }
    )
    x = torch.randn(3, 4)
    torch.testing.assert_close(
        statistics.restore("exp_3dmm", statistics.standardise("exp_3dmm", x)), x
    )
    assert statistics.exp_3dmm_std.min() > 0.05
    torch.testing.assert_close(statistics.shape_std, torch.full((2,), 12.5**0.5))
    with pytest.raises(ValueError, match="got no shape"):
        statistics.set({"exp_3dmm": (torch.zeros(4), torch.ones(4))})
    with pytest.raises(ValueError, match="expected 4 coordinates, got 3"):
        statistics.set({"exp_3dmm": (torch.zeros(3), torch.ones(3)), "shape": (0, 0)})


def test_a_model_without_values_loads_no_compiler():
    """It checks the sizes of every run that is opened; torch's compiler takes seconds to import."""
    program = (
        "import sys, torch\n"
        "from batches import small_configuration\n"
        "from ntensor.faces.networks.model import build\n"
        "with torch.device('meta'):\n"
        "    build(small_configuration().model)\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
