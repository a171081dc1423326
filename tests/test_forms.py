"""A form by itself: its partial derivatives, which leave what is given as it was."""

from types import MappingProxyType

import torch

from ntensor.ops.projection import SYNTHESIS_PROJECTION


def new(*shape):
    return torch.randn(shape, dtype=torch.float64)


def test_every_slot_of_the_projection_is_linear():
    """A slot times the derivative by it is the form, or the part of it that has the slot."""
    form = SYNTHESIS_PROJECTION.form
    core, grad, grad_mean, z_1, z_2 = new(5, 2, 3), new(4, 5), new(4, 5), new(4, 2), new(4, 3)
    main = torch.einsum("nx,xab,na,nb->", grad, core, z_1, z_2)
    mean = torch.einsum("nx,xab,nb->", grad_mean, core, z_2) / 2
    expected = {
        "core": main + mean,
        "grad": main,
        "grad_mean": mean,
        0: main,
        1: main + mean,
    }
    values = {"core": core, "grad": grad, "grad_mean": grad_mean, 0: z_1, 1: z_2}
    found = form.partials(MappingProxyType(values), frozenset(values), (None,))
    assert found.keys() == values.keys()
    for slot, part in found.items():
        torch.testing.assert_close((part * values[slot]).sum(), expected[slot])


def test_what_vanishes_with_a_term():
    """The mean output with another leading factor, and the head beside one that is replaced."""
    form = SYNTHESIS_PROJECTION.form
    values = MappingProxyType({"core": "C", "grad": "G", "grad_mean": "M", 0: "z", 1: "w"})
    wanted = frozenset({"core", "grad_mean", 1})
    replaced, remaining = form.replace(values, wanted, {0: "v"})
    assert replaced == {"core": "C", "grad": "G", "grad_mean": None, 0: "v", 1: "w"}
    assert remaining == {"core", 1}
    replaced, remaining = form.replace(values, wanted, {"grad": "v"})
    assert replaced == {"core": "C", "grad": "v", "grad_mean": None, 0: "z", 1: "w"}
    assert remaining == {"core", 1}
