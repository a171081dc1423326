"""Autocast: the public function casts first, in eager mode and under the compiler."""

import functools

import pytest
import torch

from backends import each_backend
from cases import PUBLIC
from comparison import in_tuple

HALVES = [torch.bfloat16, torch.float16]
each_case = pytest.mark.parametrize("case", PUBLIC, ids=str)
each_half = pytest.mark.parametrize("half", HALVES, ids=str)


def run(function, inputs):
    outputs = in_tuple(function(*inputs))
    return outputs, torch.autograd.grad(sum(o.float().sum() for o in outputs), inputs)


def cast_by_hand(case, backend, half):
    return lambda *t: case.function(*(x.to(half) for x in t), backend=backend)


@each_backend
@each_case
@each_half
def test_equals_a_cast_by_hand(case, backend, half):
    """Outputs in the autocast dtype, gradients in the dtype of the inputs."""
    inputs = case.inputs(torch.float32)
    expected = run(cast_by_hand(case, backend, half), inputs)
    with torch.autocast("cpu", dtype=half):
        outputs, grads = run(functools.partial(case.function, backend=backend), inputs)
    assert all(o.dtype == half for o in outputs)
    assert all(g.dtype == torch.float32 for g in grads)
    torch.testing.assert_close((outputs, grads), expected)


@each_case
def test_mixed_dtypes_only_under_autocast(case):
    inputs = case.inputs(torch.float32, requires_grad=False)
    if len(inputs) == 1:
        return
    mixed = [inputs[0], *(t.bfloat16() for t in inputs[1:])]
    with pytest.raises(TypeError):
        case.function(*mixed)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = in_tuple(case.function(*mixed))
    assert all(o.dtype == torch.bfloat16 for o in outputs)


@each_case
@pytest.mark.usefixtures("fresh_compiler")
def test_under_the_compiler(case):
    """Autocast inside and around the compiled function gives what eager mode gives."""
    inputs = case.inputs(torch.float32)

    def inside(*tensors):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return case.function(*tensors)

    expected = run(inside, inputs)
    compiled = torch.compile(inside, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(run(compiled, inputs), expected)
    torch._dynamo.reset()
    compiled = torch.compile(case.function, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = in_tuple(compiled(*inputs))
    grads = torch.autograd.grad(sum(o.float().sum() for o in outputs), inputs)
    torch.testing.assert_close((outputs, grads), expected)


def test_disabled_autocast_changes_nothing():
    for case in PUBLIC:
        inputs = case.inputs(torch.float32)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=False):
            outputs = in_tuple(case.function(*inputs))
        assert all(o.dtype == torch.float32 for o in outputs)
