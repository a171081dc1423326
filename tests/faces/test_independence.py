"""The term against correlations: its value, its gradient, and which codes it is for."""

import pytest
import torch

from batches import batch_of, small_configuration
from ntensor.faces.networks.model import build
from ntensor.faces.training.independence import Independence, build_separation, measure_colours
from ntensor.faces.training.objective import TrainingStep

N = 64


def batches(count, mixing, seed=0):
    """Codes `factors @ mixing`, noise beside them, and the factors, at odd scales."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        factors = torch.randn(N, 2, generator=generator)
        noise = torch.randn(N, mixing.shape[1], generator=generator)
        yield 5 + factors @ mixing + noise, 3 * factors - 1


def test_value_is_the_mean_squared_correlation():
    mixing = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, -2.0]])
    independence = Independence(3, 2)
    values = [float(independence(*given)) for given in batches(600, mixing)]
    wanted = (0 + 1 / 2 + 4 / 5) / 3  # squared correlations with noise of variance 1
    assert sum(values[300:]) / 300 == pytest.approx(wanted, abs=0.02)
    assert values[0] < 0.1


def test_independent_codes_have_hardly_a_value():
    independence = Independence(3, 2)
    values = [float(independence(*given)) for given in batches(600, torch.zeros(2, 3))]
    assert abs(sum(values[300:]) / 300) < 0.01


def test_gradient_is_of_the_covariance():
    independence = Independence(3, 2)
    for given in batches(50, torch.eye(2, 3)):
        independence(*given)
    code, factors = next(batches(1, torch.eye(2, 3), seed=9))
    code.requires_grad_()
    independence(code, factors).backward()
    standard = (factors - independence.factor_mean) / independence.factor_variance.sqrt()
    wanted = 2 * standard @ independence.covariance.T / independence.code_variance.sqrt() / (3 * N)
    torch.testing.assert_close(code.grad, wanted, rtol=1e-4, atol=1e-8)


def test_training_by_it_takes_a_factor_out_of_a_code():
    torch.manual_seed(0)
    layer, independence = torch.nn.Linear(4, 3), Independence(3, 2)
    adam = torch.optim.Adam(layer.parameters(), 0.01)

    def correlation():
        given = torch.randn(4000, 4)
        return torch.corrcoef(torch.cat([layer(given), given[:, :2]], 1).T)[:3, 3:].square().sum()

    before = float(correlation().detach())
    for _ in range(800):
        given = torch.randn(N, 4)
        adam.zero_grad()
        # The code shall hold all inputs, as far as it may.
        code = layer(given)
        kept = (code @ layer.weight - given).square().mean()
        (independence(code, given[:, :2]) + 0.02 * kept).backward()
        adam.step()
    after = float(correlation().detach())
    assert before > 0.3 and after < 0.05, (before, after)
    assert layer.weight[:, 2:].norm() > 0.3


def test_codes_of_the_paper_s_network():
    configuration = small_configuration(losses={"independence": 0.5})
    separation, network = build_separation(configuration), build(configuration.model)
    step = TrainingStep(network, configuration.losses, separation=separation)
    for codes_only in (True, False):
        loss, found, _ = step(batch_of(4), codes_only)
        assert "independence" in found
    before = [p.grad for p in step.parameters()]
    assert before == [None] * len(before)
    loss.backward()
    assert network.encoder.heads["z_id"].weight.grad.abs().max() > 0
    assert all(part.batches == 2 for part in separation.parts.values())


def test_codes_of_a_proof_of_concept_without_pose():
    model = {"network": "proof-of-concept", "rotation": "off"}
    configuration = small_configuration(model=model, losses={"independence": 0.5})
    separation, network = build_separation(configuration), build(configuration.model)
    step = TrainingStep(network, configuration.losses, separation=separation)
    batch = batch_of(8)
    batch["pose"] = torch.eye(3).expand(8, 3, 3)
    for _ in range(3):
        loss, found, _ = step(batch)
    assert found["independence"] > 0
    loss.backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


def test_absent_targets_do_not_count():
    configuration = small_configuration(losses={"independence": 0.5})
    separation, network = build_separation(configuration), build(configuration.model)
    batch = batch_of(4) | {"valid_pose": torch.zeros(4, dtype=torch.bool)}
    batch["pose"] = torch.full_like(batch["pose"], torch.nan)
    _, found, _ = TrainingStep(network, configuration.losses, separation=separation)(batch)
    assert found["independence"].isfinite()


def test_colours_of_face_and_background():
    image, mask = torch.full((2, 3, 4, 4), 0.4), torch.zeros(2, 1, 4, 4)
    mask[:, :, :2] = 1
    image[0, :, :2], image[1, 0] = 0.6, 0.5
    wanted = torch.tensor([[1.0, 0, 0, 0, 0, 0], [0.5 / 3, 2, 1, 0.5 / 3, 2, 1]])
    torch.testing.assert_close(measure_colours(image, mask), wanted)


def test_no_separation_where_there_is_nothing_to_separate():
    assert build_separation(small_configuration(losses={"independence": 0.0})) is None
    assert build_separation(small_configuration(model={"network": "intrinsic"})) is None
