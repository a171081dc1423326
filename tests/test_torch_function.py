"""`__torch_function__`: types and modes that take the public functions, as they take torch's own.

`bilinear` and `einsum` stand in for functions of torch, so a type that has its own way with those
is asked for them.
"""

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

import ntensor

# Each function of tensors: the call for a list of tensors, and the shapes of these.
CALLS = {
    "synthesis": (lambda t: ntensor.synthesis(*t), ((4, 3), (4, 5))),
    "synthesis_projection": (
        lambda t: ntensor.synthesis_projection(*t),
        ((6, 3, 5), (4, 3), (4, 5)),
    ),
    "synthesis_projection_with_mean": (
        lambda t: ntensor.synthesis_projection_with_mean(*t),
        ((6, 3, 5), (4, 3), (4, 5)),
    ),
    "rotation": (lambda t: ntensor.rotation(*t, "row"), ((4, 6), (4, 3, 3))),
    "rotated_synthesis": (
        lambda t: ntensor.rotated_synthesis(*t, layout="row"),
        ((4, 2), (4, 3), (4, 3, 3)),
    ),
    "contract": (lambda t: ntensor.contract(*t, mode=1), ((6, 3, 5), (3,))),
    "mttkrp": (
        lambda t: ntensor.mttkrp(t[0], [t[1], None, t[2]], 1, t[3]),
        ((3, 4, 5), (3, 2), (5, 2), (2,)),
    ),
    "mttkrp_all": (
        lambda t: ntensor.mttkrp_all(t[0], t[1:4], t[4]),
        ((3, 4, 5), (3, 2), (4, 2), (5, 2), (2,)),
    ),
    "bilinear": (lambda t: ntensor.bilinear(*t), ((4, 3), (4, 5), (6, 3, 5), (6,))),
    "einsum": (
        lambda t: ntensor.einsum("bi,bj,oij->bo", *t),
        ((4, 3), (4, 5), (6, 3, 5)),
    ),
}
STAND_IN = {"bilinear": F.bilinear, "einsum": torch.einsum}
NO_TENSORS = {
    *("EinsumPath", "MttkrpSweep", "__version__", "einsum_path", "kept_memory", "nn"),
    *("optim", "release_memory", "scratch_bytes", "use_backend"),
}
each_function = pytest.mark.parametrize("name", CALLS)


def tensors(name):
    return [torch.randn(shape) for shape in CALLS[name][1]]


def test_every_public_function_has_a_row():
    assert CALLS.keys() == set(ntensor.__all__) - NO_TENSORS


class Takes(torch.Tensor):
    """Answers with the function that it was asked for and its arguments."""

    @classmethod
    def __torch_function__(cls, function, types, arguments=(), keywords=None):
        return function, arguments, keywords


class Duck:
    """No tensor at all."""

    @classmethod
    def __torch_function__(cls, function, types, arguments=(), keywords=None):
        return function, arguments, keywords


class Refuses(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, arguments=(), keywords=None):
        return NotImplemented


class Named(torch.Tensor):
    """A subclass with the `__torch_function__` of every tensor."""


@each_function
def test_a_type_takes_the_call(name):
    """Wherever it stands; the call that it gets, repeated on plain tensors, gives the result."""
    call, shapes = CALLS[name]
    wanted = STAND_IN.get(name, getattr(ntensor, name))
    plain = tensors(name)
    expected = call(plain)
    for place in range(len(shapes)):
        for other in (plain[place].as_subclass(Takes), Duck()):
            given = [*plain[:place], other, *plain[place + 1 :]]
            function, arguments, keywords = call(given)
            assert function is wanted

            def back(value, other=other, place=place):
                if isinstance(value, (list, tuple)):
                    return [back(each) for each in value]
                return plain[place] if value is other else value

            again = function(*back(arguments), **(keywords or {}))
            torch.testing.assert_close(again, expected, rtol=1e-4, atol=1e-4)


@each_function
def test_a_type_that_refuses(name):
    given = tensors(name)
    given[0] = given[0].as_subclass(Refuses)
    with pytest.raises(TypeError, match=r"no implementation found|NotImplemented"):
        CALLS[name][0](given)


@each_function
def test_a_mode_takes_the_call(name):
    """It sees the library's function, `bilinear` and `einsum` too, and may let it go on."""
    seen = []

    class Sees(TorchFunctionMode):
        def __torch_function__(self, function, types, arguments=(), keywords=None):
            seen.append(function)
            return function(*arguments, **(keywords or {}))

    call, given = CALLS[name][0], tensors(name)
    expected = call(given)
    with Sees():
        found = call(given)
    assert seen == [getattr(ntensor, name)]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@each_function
def test_a_subclass_stays_one(name):
    call, given = CALLS[name][0], tensors(name)
    expected = call(given)
    found = call([t.as_subclass(Named) for t in given])
    found, expected = (x if isinstance(x, (list, tuple)) else [x] for x in (found, expected))
    for one, other in zip(found, expected, strict=True):
        assert type(one) is Named
        # A plain core is contracted by a kernel, which adds up in another order than torch.
        bound = {"rtol": 1e-5, "atol": 1e-6} if name == "contract" else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(one.as_subclass(torch.Tensor), other, **bound)


def test_parameters_and_layers():
    """Parameters are plain; a layer passes on what its input's type answers."""
    layer = ntensor.nn.Bilinear(3, 5, 6)
    a, b = torch.randn(4, 3), torch.randn(4, 5)
    assert type(layer(a, b)) is torch.Tensor
    assert layer(a.as_subclass(Takes), b)[0] is F.bilinear
