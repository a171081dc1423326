"""Autograd hygiene: only what is asked for is computed, and autograd's own rules hold."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import ntensor
from backends import each_backend
from cases import PUBLIC
from comparison import in_tuple

each_case = pytest.mark.parametrize("case", PUBLIC, ids=str)


class Recorder(TorchDispatchMode):
    """The operations of the library that run, with their arguments."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "ntensor":
            self.calls.append((func.overloadpacket.__name__, args))
        return func(*args, **(kwargs or {}))

    def arguments(self, name):
        return [args for called, args in self.calls if called == name]

    @property
    def names(self):
        return [name for name, _ in self.calls]


def projection_inputs(needs):
    shapes = ((4, 2, 3, 5), (6, 2), (6, 3), (6, 5))
    return [torch.randn(s, requires_grad=need) for s, need in zip(shapes, needs, strict=True)]


@each_backend
@pytest.mark.parametrize("with_mean", [False, True])
@pytest.mark.parametrize("mask", range(1, 16))
def test_only_the_gradients_that_are_required(backend, with_mean, mask):
    needs = [bool(mask >> bit & 1) for bit in range(4)]
    inputs = projection_inputs(needs)
    operation = (
        ntensor.synthesis_projection_with_mean if with_mean else ntensor.synthesis_projection
    )
    outputs = in_tuple(operation(*inputs, backend=backend))
    with Recorder() as recorder:
        sum(o.sum() for o in outputs).backward()
    core, factors = needs[0], needs[1:]
    expected = ["projection_core_grad"] * core + ["projection_factor_grads"] * any(factors)
    assert sorted(recorder.names) == expected
    for args in recorder.arguments("projection_factor_grads"):
        assert list(args[4]) == factors, "one pass over the core, for the factors that need it"
    assert [t.grad is not None for t in inputs] == needs


@each_backend
@pytest.mark.parametrize("with_mean", [False, True])
def test_no_gradient_no_backward(backend, with_mean):
    inputs = projection_inputs([False] * 4)
    name = "synthesis_projection_with_mean" if with_mean else "synthesis_projection"
    with Recorder() as recorder:
        outputs = in_tuple(getattr(ntensor, name)(*inputs, backend=backend))
    assert recorder.names == [name]
    assert not any(o.requires_grad for o in outputs)


@each_backend
def test_mean_output_alone_needs_no_leading_gradient(backend):
    """With only the mean in the loss, the leading factor's gradient is zero, the others' is not."""
    inputs = projection_inputs([True] * 4)
    _, mean = ntensor.synthesis_projection_with_mean(*inputs, backend=backend)
    grads = torch.autograd.grad(mean.square().sum(), inputs, materialize_grads=True)
    assert torch.count_nonzero(grads[1]) == 0
    assert all(torch.count_nonzero(g) == g.numel() for g in (grads[0], *grads[2:]))


@each_backend
def test_unused_output_sends_no_zeros(backend):
    """An output outside the loss reaches the backward operation as None, not as a zero tensor."""
    for used in (0, 1):
        outputs = ntensor.synthesis_projection_with_mean(
            *projection_inputs([True] * 4), backend=backend
        )
        with Recorder() as recorder:
            outputs[used].sum().backward()
        for _, grad, grad_mean, *_ in recorder.arguments("projection_factor_grads"):
            assert (grad is None, grad_mean is None) == (used == 1, used == 0)
        for grad, grad_mean, *_ in recorder.arguments("projection_core_grad"):
            assert (grad is None, grad_mean is None) == (used == 1, used == 0)


@each_backend
@pytest.mark.parametrize("mask", range(1, 8))
def test_rotated_synthesis_computes_what_is_required(backend, mask):
    needs = [bool(mask >> bit & 1) for bit in range(3)]
    shapes = ((5, 2), (5, 3), (5, 3, 3))
    inputs = [torch.randn(s, requires_grad=need) for s, need in zip(shapes, needs, strict=True)]
    y = ntensor.rotated_synthesis(*inputs, backend=backend)
    with Recorder() as recorder:
        y.sum().backward()
    assert [list(args[5]) for args in recorder.arguments("rotated_synthesis_grads")] == [needs]
    assert [t.grad is not None for t in inputs] == needs


@each_backend
@each_case
def test_backward_twice(case, backend):
    """With `retain_graph` the same gradients again, without it an error."""
    inputs = case.inputs()
    outputs = in_tuple(case.function(*inputs, backend=backend))
    total = sum(o.sin().sum() for o in outputs)
    first = torch.autograd.grad(total, inputs, retain_graph=True)
    second = torch.autograd.grad(total, inputs)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(total, inputs)


@each_backend
@each_case
def test_changed_input_is_noticed(case, backend):
    """A saved tensor that was modified in place makes backward raise, never a wrong gradient."""
    count = len(case.shapes)
    if count == 1:
        return
    for changed in range(count):
        inputs = [t.clone() for t in case.inputs()]
        outputs = in_tuple(case.function(*inputs, backend=backend))
        with torch.no_grad():
            inputs[changed].mul_(2)
        others = [t for i, t in enumerate(inputs) if i != changed]
        if case.name.endswith("bias") and changed == count - 1:
            torch.autograd.grad(outputs[0].sum(), others)
            continue
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            torch.autograd.grad(sum(o.sin().sum() for o in outputs), others)


@each_backend
@each_case
def test_outputs_may_be_changed_in_place(case, backend):
    """Outputs are not views, so an activation in place works."""
    inputs = case.inputs()
    outputs = in_tuple(case.function(*inputs, backend=backend))
    changed = sum(o.mul_(2).sum() for o in outputs)
    expected = sum((o * 2).sum() for o in in_tuple(case.definition(*inputs)))
    torch.testing.assert_close(
        torch.autograd.grad(changed, inputs), torch.autograd.grad(expected, inputs)
    )


@each_backend
def test_hooks_see_the_gradients(backend):
    """A post-accumulate hook fires at every call and sees the sum of the gradients."""
    inputs, seen = projection_inputs([True] * 4), []
    inputs[0].register_post_accumulate_grad_hook(lambda t: seen.append(t.grad.clone()))
    for _ in range(2):
        ntensor.synthesis_projection(*inputs, backend=backend).sum().backward()
    assert len(seen) == 2
    torch.testing.assert_close(seen[1], 2 * seen[0])


@each_backend
def test_use_backend_covers_backward(backend):
    """The backend that is chosen at the call serves its backward, whatever is set then."""
    inputs = projection_inputs([True] * 4)
    with ntensor.use_backend(backend):
        x = ntensor.synthesis_projection(*inputs)
    other = "reference" if backend == "native" else "native"
    with ntensor.use_backend(other), Recorder() as recorder:
        x.sum().backward()
    assert [args[-1] for _, args in recorder.calls] == [backend] * 2


def test_use_backend_nests_and_recovers():
    inputs = projection_inputs([False] * 4)

    def chosen():
        with Recorder() as recorder:
            ntensor.synthesis_projection(*inputs)
        ((_, args),) = recorder.calls
        return args[-1] if len(args) == 3 else None

    with ntensor.use_backend("reference"):
        assert chosen() == "reference"
        with ntensor.use_backend("native"):
            assert chosen() == "native"
        assert chosen() == "reference"
        with pytest.raises(ZeroDivisionError), ntensor.use_backend("native"):
            raise ZeroDivisionError
        assert chosen() == "reference"
    assert chosen() != "reference"
