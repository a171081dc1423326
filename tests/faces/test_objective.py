"""Which terms a batch and a network give."""

import dataclasses

import torch

from batches import batch_of, small_configuration
from ntensor.faces.configuration import LossConfiguration
from ntensor.faces.configuration.settings import FIXED
from ntensor.faces.networks.light_cnn import LightCNN
from ntensor.faces.networks.model import build
from ntensor.faces.training.objective import (
    TrainingStep,
    add_up,
    build_adversary,
    complete,
    compute_terms,
)

# What is no term of a batch alone, or of other networks.
OTHERS = ("gamma", "k_rate", "adversarial", "verification", "independence", "prior", "texture")
OTHERS += ("swap",)
EVERY = dataclasses.replace(
    small_configuration().losses,
    **{
        field.name: 1.0
        for field in dataclasses.fields(LossConfiguration)
        if field.name not in OTHERS
    },
)


def found_with(weights, batch=None, **model):
    torch.manual_seed(0)
    network = build(small_configuration(model=model).model)
    batch = batch or batch_of(4)
    return compute_terms(network(batch["image"]), batch, weights, network.statistics)


def test_every_term_with_a_weight():
    weights = dataclasses.asdict(EVERY) | FIXED["losses"]
    assert set(found_with(EVERY)) == {n for n, w in weights.items() if w} - set(OTHERS)


def test_a_weight_of_zero_leaves_the_term_out():
    assert "shape" not in found_with(dataclasses.replace(EVERY, shape=0.0))


def test_a_batch_without_a_target_leaves_the_term_out():
    batch = {name: value for name, value in batch_of(4).items() if name != "light"}
    assert "light" not in found_with(EVERY, batch)


def test_total_weighs():
    weights = dataclasses.replace(EVERY, shape=2.0, pose=3.0)
    found = {"shape": torch.tensor(5.0), "pose": torch.tensor(7.0)}
    assert float(add_up(found, weights)) == 31.0


def test_absent_targets_have_no_gradient():
    batch = batch_of(4)
    has = torch.tensor([True, False, True, True])
    for name in ("pose", "normal", "light", "exp_3dmm", "id_3dmm", "shape", "mask"):
        batch[f"valid_{name}"] = has
    network = build(small_configuration().model)
    output = network(batch["image"])
    whole = complete(batch, output, network.statistics)
    torch.testing.assert_close(whole["pose"][1].flatten(), output["z_p"][1])
    for name in ("pose", "normal", "light", "exp_3dmm", "id_3dmm", "shape", "mask"):
        assert torch.equal(whole[name][0], batch[name][0])
        assert not whole[name].requires_grad
    z_p = output["z_p"]
    z_p.retain_grad()
    compute_terms(output, batch, EVERY, network.statistics)["pose"].backward(retain_graph=True)
    assert z_p.grad[1].abs().max() == 0 and z_p.grad[0].abs().max() > 0
    standard = network.statistics.standardise("shape", whole["shape"])
    torch.testing.assert_close(standard[1], output["shape"][1])


def test_adversary_and_verification_keep_their_weights():
    configuration = small_configuration(losses={"adversarial": 0.5, "verification": 0.5})
    network, adversary = build(configuration.model), build_adversary(configuration)
    verification = LightCNN(width=0.25, embedding=8, input_size=16).requires_grad_(False)
    step = TrainingStep(network, configuration.losses, adversary, verification)
    adversary.requires_grad_(False)
    loss, found, output = step(batch_of(4))
    assert {"adversarial", "verification"} <= set(found)
    loss.backward()
    assert all(p.grad is None for p in [*adversary.parameters(), *verification.parameters()])
    assert set(dict(step.named_parameters())) == {
        f"model.{name}" for name, _ in network.named_parameters()
    }
    adversary.requires_grad_(True)
    objective, parts = adversary.objective(adversary.network, output, batch_of(4), None)
    objective.backward()
    assert all(p.grad is not None for p in adversary.parameters())
    adversary.k.fill_(0.5)
    told = adversary.update(parts)
    assert 0 <= told["k"] <= 1 and told["k"] != 0.5 and told["measure"] > 0


def test_the_adversary_s_term_reaches_the_network():
    configuration = small_configuration(losses={"adversarial": 1.0})
    network, adversary = build(configuration.model), build_adversary(configuration)
    adversary.requires_grad_(False)
    term = adversary.generator_terms(network(batch_of(2)["image"]))["adversarial"]
    term.backward()
    assert network.albedo.last.weight.grad.abs().max() > 0
