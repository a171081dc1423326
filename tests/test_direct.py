"""Plain eager calls go straight to their backend; whatever must see an operation still does."""

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import ntensor
from backends import each_backend
from comparison import in_tuple
from ntensor.ops.dispatch import plain

MASKS = [tuple(bool(mask >> place & 1) for place in range(4)) for mask in range(1, 16)]


class Watching(TorchDispatchMode):
    """Counts the operations of the library."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += func.namespace == "ntensor"
        return func(*args, **(kwargs or {}))


class Subclass(torch.Tensor):
    pass


def negated(tensor):
    """The values of `tensor`, as memory of the opposite sign and a lazy negation."""
    lazy = torch.complex(torch.zeros_like(tensor), -tensor).conj().imag
    assert lazy.is_neg()
    return lazy


def step(function, needs, n=6, extents=(2, 3, 5)):
    generator = torch.Generator().manual_seed(0)
    shapes = ((4, *extents), *((n, extent) for extent in extents))
    leaves = [
        torch.randn(shape, generator=generator).requires_grad_(need)
        for shape, need in zip(shapes, needs, strict=True)
    ]
    outputs = function(*leaves)
    outputs = in_tuple(outputs)
    grads = [torch.randn(each.shape, generator=generator) for each in outputs]
    torch.autograd.backward(outputs, grads)
    return [*outputs, *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_tensors_in_memory_are_plain(dtype):
    tensor = torch.randn(4, 6).to(dtype)
    leaf = tensor.clone().requires_grad_()
    for each in (tensor, tensor.T, tensor[::2, 1:], tensor[:0], tensor.expand(3, 4, 6), leaf):
        assert plain([each, None])
    assert plain([torch.nn.Parameter(tensor), leaf * 2])
    with torch.inference_mode():
        assert plain([tensor.clone()])


def test_others_are_not():
    tensor = torch.randn(4, 6)
    assert not plain([tensor, tensor.as_subclass(Subclass)])
    assert not plain([negated(tensor)])
    assert not plain([tensor.to("meta")])
    assert not plain([torch._efficientzerotensor(4)])
    seen = []
    torch.func.vmap(lambda row: (seen.append(plain([row])), row)[1])(tensor)
    assert seen == [False]


def test_not_where_somebody_looks_on():
    tensor = torch.randn(4, 6)
    with Watching():
        assert not plain([tensor])
    with TorchFunctionMode():
        assert not plain([tensor])
    with torch.autocast("cpu", torch.bfloat16):
        assert not plain([tensor])
    with torch.profiler.profile():
        assert not plain([tensor])
    assert plain([tensor])


@pytest.mark.parametrize("needs", MASKS, ids=str)
@pytest.mark.parametrize("extents", [(2, 3, 5), (7, 1, 2), (2, 0, 3)], ids=str)
@pytest.mark.parametrize("with_mean", [False, True])
def test_equal_to_the_dispatched_call(with_mean, extents, needs):
    function = ntensor.synthesis_projection_with_mean if with_mean else ntensor.synthesis_projection
    direct = step(function, needs, extents=extents)
    with Watching() as watching:
        dispatched = step(function, needs, extents=extents)
    assert watching.calls >= 2
    for one, other in zip(direct, dispatched, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)


def test_one_factor():
    direct = step(ntensor.synthesis_projection, (True, True), extents=(5,))
    with Watching():
        dispatched = step(ntensor.synthesis_projection, (True, True), extents=(5,))
    for one, other in zip(direct, dispatched, strict=True):
        assert torch.equal(one, other)


@each_backend
def test_lazy_negations_are_resolved(backend):
    core, z, grad = torch.randn(4, 2, 3), [torch.randn(6, 2), torch.randn(6, 3)], torch.randn(6, 4)

    def gradients(tensors, cotangent):
        leaves = [each.detach().requires_grad_() for each in tensors]
        x = ntensor.synthesis_projection(*leaves, backend=backend)
        return [x, *torch.autograd.grad(x, leaves, cotangent)]

    expected = gradients([core, *z], grad)
    for found in (gradients([core, negated(z[0]), z[1]], negated(grad)),):
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)


def test_saved_tensors_may_come_back_otherwise():
    def run(unpack):
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, unpack):
            return step(ntensor.synthesis_projection, (True,) * 4)

    for one, other in zip(run(lambda tensor: tensor), run(negated), strict=True):
        torch.testing.assert_close(one, other)


def test_profiler_names_the_operations():
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step(ntensor.synthesis_projection, (True,) * 4)
    names = {event.key for event in profile.key_averages()}
    assert {
        "ntensor::synthesis_projection",
        "ntensor::projection_core_grad",
        "ntensor::projection_factor_grads",
    } <= names
