"""`ntensor.nn.convert` and `revert`: layers of a model exchanged in place."""

import copy
import pickle

import pytest
import torch
from torch.nn.utils import parametrizations, parametrize

import ntensor

PAIR = (torch.randn(6, 3), torch.randn(6, 4))


class Twice(torch.nn.Module):
    """One layer under two names, and another in a list."""

    def __init__(self):
        super().__init__()
        self.first = self.second = torch.nn.Bilinear(3, 4, 5)
        self.rest = torch.nn.ModuleList([torch.nn.Linear(5, 3), torch.nn.Bilinear(3, 4, 2, False)])

    def forward(self, a, b):
        return self.rest[1](self.rest[0](self.first(a, b) + self.second(a, b).sin()), b)


def test_model_and_back():
    model = Twice().eval()
    optimizer = torch.optim.Adam(model.parameters())
    before = list(model.parameters())
    layers, names = list(model.modules()), list(model.state_dict())
    expected = model(*PAIR)
    for exchange, layer in (
        (ntensor.nn.convert, ntensor.nn.Bilinear),
        (ntensor.nn.convert, ntensor.nn.Bilinear),
        (ntensor.nn.revert, torch.nn.Bilinear),
    ):
        assert exchange(model) is model
        assert type(model.first) is type(model.rest[1]) is layer
        assert model.first is model.second
        assert type(model.rest[0]) is torch.nn.Linear
        assert all(a is b for a, b in zip(model.modules(), layers, strict=True))
        assert all(a is b for a, b in zip(model.parameters(), before, strict=True))
        assert list(model.state_dict()) == names
        assert not any(module.training for module in model.modules())
        torch.testing.assert_close(model(*PAIR), expected)
        optimizer.zero_grad()
        model(*PAIR).square().sum().backward()
        optimizer.step()
        expected = copy.deepcopy(ntensor.nn.revert(copy.deepcopy(model)))(*PAIR)


def test_the_model_itself():
    model = torch.nn.Bilinear(3, 4, 5)
    assert type(ntensor.nn.convert(model)) is ntensor.nn.Bilinear
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again(*PAIR), model(*PAIR))
    assert type(ntensor.nn.revert(again)) is torch.nn.Bilinear


def test_the_library_serves_the_converted_layer():
    model = ntensor.nn.convert(torch.nn.Sequential(torch.nn.Bilinear(3, 4, 5)))
    inputs = [t.int() for t in PAIR]
    with pytest.raises(TypeError, match="bilinear: input1"):
        model[0](*inputs)


def test_hooks_stay():
    model, seen = torch.nn.Bilinear(3, 4, 5), []
    model.register_forward_pre_hook(lambda *_: seen.append("before"))
    model.register_forward_hook(lambda *_: seen.append("after"))
    model.register_full_backward_hook(lambda *_: seen.append("backward"))
    model.weight.register_hook(lambda _: seen.append("weight"))
    ntensor.nn.convert(model)(PAIR[0].clone().requires_grad_(), PAIR[1]).sum().backward()
    assert sorted(seen) == ["after", "backward", "before", "weight"]


def symmetric():
    model = torch.nn.Bilinear(4, 4, 5)

    class Symmetric(torch.nn.Module):
        def forward(self, weight):
            return weight + weight.mT

    parametrize.register_parametrization(model, "weight", Symmetric())
    return model


PARAMETRIZED = {
    "own": symmetric,
    "weight_norm": lambda: parametrizations.weight_norm(torch.nn.Bilinear(4, 4, 5)),
    # Fewer rows than columns: the weight is a transposed view.
    "orthogonal": lambda: parametrizations.orthogonal(torch.nn.Bilinear(2, 4, 5)),
}


@pytest.mark.parametrize("name", PARAMETRIZED)
def test_parametrizations_stay(name):
    model = PARAMETRIZED[name]()
    inputs = torch.randn(6, model.in1_features), torch.randn(6, 4)
    expected = model(*inputs)
    gradients = torch.autograd.grad(expected.sin().sum(), list(model.parameters()))
    ntensor.nn.convert(model)
    assert isinstance(model, ntensor.nn.Bilinear) and parametrize.is_parametrized(model)
    for each in (model, copy.deepcopy(model)):
        found = each(*inputs)
        torch.testing.assert_close(found, expected)
        ours = torch.autograd.grad(found.sin().sum(), list(each.parameters()))
        torch.testing.assert_close(ours, gradients)
    ntensor.nn.revert(model)
    assert parametrize.type_before_parametrizations(model) is torch.nn.Bilinear
    torch.testing.assert_close(model(*inputs), expected)


@pytest.mark.parametrize("name", PARAMETRIZED)
def test_parametrizations_are_removed_as_ever(name):
    model = ntensor.nn.convert(PARAMETRIZED[name]())
    parametrize.remove_parametrizations(model, "weight")
    assert type(model) is ntensor.nn.Bilinear


def test_subclasses_are_left_alone():
    class Scaled(torch.nn.Bilinear):
        def forward(self, a, b):
            return 2 * super().forward(a, b)

    model = torch.nn.ModuleList([Scaled(3, 4, 5), torch.nn.Bilinear(3, 4, 5)])
    ntensor.nn.convert(model)
    assert type(model[0]) is Scaled
    assert type(model[1]) is ntensor.nn.Bilinear


def test_unsupported_dtype_is_left_alone():
    model = torch.nn.Bilinear(3, 4, 5, dtype=torch.complex64)
    assert type(ntensor.nn.convert(model)) is torch.nn.Bilinear


def test_strided_weight():
    model = torch.nn.Bilinear(3, 4, 5)
    model.weight.data = torch.randn(5, 4, 3).mT
    expected = model(*PAIR)
    assert type(ntensor.nn.convert(model)) is ntensor.nn.Bilinear
    torch.testing.assert_close(model(*PAIR), expected)
    assert model.weight.stride() == (12, 1, 3)


@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_model_follows():
    model = torch.nn.Bilinear(3, 4, 5)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    expected = compiled(*PAIR)
    ntensor.nn.convert(compiled)
    assert type(model) is ntensor.nn.Bilinear
    torch.testing.assert_close(compiled(*PAIR), expected)
