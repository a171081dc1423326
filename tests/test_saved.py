"""What autograd hands back in the backward pass is not always what was saved.

A hook on saved tensors may return another layout, which is legal, or other sizes, types and
devices, which must be an error that names the operation, never a wrong number or a crash.
"""

import functools

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

import ntensor
from backends import each_backend
from cases import PUBLIC
from comparison import in_tuple


def reversed_memory(tensor):
    order = tuple(reversed(range(tensor.dim())))
    return tensor.permute(order).contiguous().permute(order)


def transposed_memory(tensor):
    return tensor.mT.contiguous().mT if tensor.dim() > 1 else tensor


def channels_last(tensor):
    last = tensor.dim() == 4
    return tensor.contiguous(memory_format=torch.channels_last) if last else tensor


def apart(tensor):
    """Every second element of a larger memory."""
    return tensor.new_full((*tensor.shape, 2), torch.nan).select(-1, 0).copy_(tensor)


LAYOUTS = (reversed_memory, transposed_memory, channels_last, apart)


def half(tensor):
    return tensor.half()


def without_last(tensor):
    return tensor[..., :-1].contiguous()


def one_longer(tensor):
    """Extents of 1 would fit a gradient that autograd then sums up."""
    return torch.cat([tensor, tensor[..., :1]], -1)


def one_dimension_more(tensor):
    return tensor[None]


def without_memory(tensor):
    return tensor.to("meta")


WRONG = (half, without_last, one_longer, one_dimension_more, without_memory)

each_case = pytest.mark.parametrize("case", PUBLIC, ids=str)


def derivatives(case, backend, unpack, order=1):
    """The gradients, up to second order, of a fixed combination of the outputs."""
    with saved_tensors_hooks(lambda tensor: tensor, unpack):
        inputs = case.inputs()
        outputs = case.function(*inputs, backend=backend)
        outputs = in_tuple(outputs)
        loss = sum(torch.sin(torch.arange(x.numel()).view(x.shape)).mul(x).sum() for x in outputs)
        grads = torch.autograd.grad(loss, inputs, create_graph=order == 2, allow_unused=True)
        if order == 1:
            return grads
        twice = [g for g in grads if g is not None and g.requires_grad]
        if not twice:
            return grads
        loss = sum(g.square().sum() for g in twice)
        return (*grads, *torch.autograd.grad(loss, inputs, allow_unused=True))


@functools.cache
def gradients(case, backend):
    """Of what was saved as it was."""
    return derivatives(case, backend, lambda tensor: tensor)


@each_case
@each_backend
@pytest.mark.parametrize("unpack", LAYOUTS)
def test_another_layout(case, backend, unpack):
    found = derivatives(case, backend, unpack)
    torch.testing.assert_close(found, gradients(case, backend), rtol=1e-10, atol=1e-10)


@each_case
@pytest.mark.parametrize("unpack", [reversed_memory, apart])
def test_another_layout_in_second_order(case, unpack):
    expected = derivatives(case, "native", lambda tensor: tensor, order=2)
    found = derivatives(case, "native", unpack, order=2)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


OF_THE_LIBRARY = {
    "synthesis": "synthesis",
    "projection": "synthesis_projection",
    "with_mean": "synthesis_projection_with_mean",
    "rotation": "rotation",
    "rotated": "rotated_synthesis|synthesis|rotation",
    "mttkrp": "synthesis_projection|projection_factor_grads",
    "bilinear": "synthesis_projection",
}


@each_case
@each_backend
@pytest.mark.parametrize("unpack", WRONG)
def test_something_else(case, backend, unpack):
    """The operation's own error, with its name and both shapes, types and devices."""
    inputs = case.inputs()
    with saved_tensors_hooks(lambda tensor: tensor, unpack):
        outputs = case.function(*inputs, backend=backend)
    outputs = in_tuple(outputs)
    names = OF_THE_LIBRARY[case.name.split("-")[0]]
    said = rf"^({names}): .* was saved .* came back"
    if case.name == "mttkrp-weights":
        # torch multiplies by the weights, and may meet what it has saved itself first.
        said += "|^The size of tensor|is not on the expected device"
    with pytest.raises(RuntimeError, match=said):
        torch.autograd.backward(outputs, [torch.ones_like(x) for x in outputs])


@each_backend
def test_a_constant_of_one_element(backend):
    """Strides of 0 reach no further than the one element."""
    core = torch.full((4, 2, 3), 2.0, dtype=torch.float64).requires_grad_()
    z = [torch.ones(5, k, dtype=torch.float64, requires_grad=True) for k in (2, 3)]
    with saved_tensors_hooks(lambda t: t, lambda t: t.flatten()[0].clone().expand(t.shape)):
        ntensor.synthesis_projection(core, *z, backend=backend).sum().backward()
    assert torch.equal(core.grad, torch.full_like(core, 5))
    assert torch.equal(z[0].grad, torch.full_like(z[0], 24))
    assert torch.equal(z[1].grad, torch.full_like(z[1], 16))


def accumulated(backend, unpack):
    generator = torch.Generator().manual_seed(0)
    core = torch.randn(4, 2, 3, 2, generator=generator).requires_grad_()
    core.grad = torch.zeros_like(core)
    z = [torch.randn(5, k, generator=generator).requires_grad_() for k in (2, 3, 2)]
    with saved_tensors_hooks(lambda tensor: tensor, unpack):
        x = ntensor.synthesis_projection(core, *z, accumulate_core_grad=True, backend=backend)
    x.sum().backward()
    return core.grad, *(each.grad for each in z)


@each_backend
@pytest.mark.parametrize("unpack", LAYOUTS)
def test_another_layout_where_the_core_gradient_is_accumulated(backend, unpack):
    expected = accumulated(backend, lambda tensor: tensor)
    torch.testing.assert_close(accumulated(backend, unpack), expected)


@each_backend
@pytest.mark.parametrize("unpack", WRONG)
def test_something_else_where_the_core_gradient_is_accumulated(backend, unpack):
    with pytest.raises(RuntimeError, match=r"^synthesis_projection: .* was saved .* came back"):
        accumulated(backend, unpack)


@each_backend
@pytest.mark.parametrize("unpack", [*LAYOUTS, *WRONG])
def test_raw_operation(backend, unpack):
    """The raw operation has an autograd of its own."""
    core = torch.randn(4, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    z = [torch.randn(5, k, dtype=torch.float64, requires_grad=True) for k in (2, 3, 2)]
    expected = torch.autograd.grad(
        torch.ops.ntensor.synthesis_projection(core, z, backend).sum(), [core, *z]
    )
    with saved_tensors_hooks(lambda tensor: tensor, unpack):
        x = torch.ops.ntensor.synthesis_projection(core, z, backend)
    if unpack in LAYOUTS:
        torch.testing.assert_close(torch.autograd.grad(x.sum(), [core, *z]), expected)
    else:
        with pytest.raises(RuntimeError, match=r"synthesis_projection: .* came back"):
            torch.autograd.grad(x.sum(), [core, *z])


def shrink(z):
    z.data = z.data[:, :1].contiguous()


def narrow(z):
    z.data = z.data.half()


@each_backend
@pytest.mark.parametrize("change", [shrink, narrow])
def test_data_replaced_between_forward_and_backward(backend, change):
    """Version counters do not see it."""
    z = [torch.randn(3, k, dtype=torch.float64, requires_grad=True) for k in (4, 5)]
    y = ntensor.synthesis(*z, backend=backend)
    change(z[0])
    with pytest.raises(RuntimeError, match=r"^synthesis: factors\[0\] was saved .* came back"):
        y.sum().backward()


@each_backend
def test_core_gradient_of_another_size(backend):
    """As left by `.data`, which nobody compares with the core."""
    core = torch.randn(4, 2, 3, requires_grad=True)
    core.grad = torch.zeros_like(core)
    core.grad.data = torch.zeros(2, 2, 3)
    z = [torch.randn(5, k) for k in (2, 3)]
    with pytest.raises(RuntimeError, match=r"accumulate_core_grad .*\(4, 2, 3\).*\(2, 2, 3\)"):
        ntensor.synthesis_projection(core, *z, accumulate_core_grad=True, backend=backend)


class Cotangent(torch.autograd.Function):
    """The identity, with any gradient."""

    @staticmethod
    def forward(ctx, x, change):
        ctx.change = change
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return ctx.change(grad), None


@each_case
@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("change", [half, without_last, one_dimension_more, without_memory, apart])
def test_a_strange_cotangent(case, backend, change):
    """Autograd casts and refuses what comes from further down; what it lets through is right."""
    expected = derivatives(case, backend, lambda tensor: tensor)

    def gradients():
        inputs = case.inputs()
        outputs = case.function(*inputs, backend=backend)
        outputs = in_tuple(outputs)
        changed = [Cotangent.apply(x, change) for x in outputs]
        loss = sum(torch.sin(torch.arange(x.numel()).view(x.shape)).mul(x).sum() for x in changed)
        return torch.autograd.grad(loss, inputs, allow_unused=True)

    if change in (without_last, without_memory):
        with pytest.raises(RuntimeError):
            gradients()
    else:
        torch.testing.assert_close(gradients(), expected, rtol=1e-2, atol=1e-2)
