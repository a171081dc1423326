"""torch's own samples of `nn.Bilinear` and `F.bilinear`, run against the library's.

The bodies are those of torch's module and operator tests: forward against the reference, gradients
and second gradients by finite differences, forward mode, half types, copies, factory arguments.
"""

import copy
import pickle
import warnings
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

import definitions
import ntensor
from backends import each_dtype
from comparison import assert_matches_definition

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.testing._internal.common_modules import module_db

OPERATION = next(info for info in op_db if info.name == "nn.functional.bilinear")
MODULE = next(info for info in module_db if info.module_cls is torch.nn.Bilinear)


def samples(dtype, requires_grad=False):
    """All inputs of the operator's samples: both sizes, each batch shape, with and without bias."""
    found = OPERATION.sample_inputs("cpu", dtype, requires_grad=requires_grad)
    return [(sample.input, *sample.args) for sample in found]


def modules(dtype, requires_grad=False, training=True):
    """For each of the module's samples: its description, the module, its inputs, the reference."""
    for sample in MODULE.module_inputs_func(MODULE, "cpu", dtype, requires_grad, training):
        built, given = sample.constructor_input, sample.forward_input
        module = ntensor.nn.Bilinear(*built.args, **built.kwargs, dtype=dtype).train(training)
        yield sample, module, given


def test_there_are_samples():
    assert len(samples(torch.float32)) >= 16
    assert len(list(modules(torch.float32))) >= 3
    assert torch.float32 in MODULE.dtypes and torch.bfloat16 in OPERATION.dtypes


@each_dtype
def test_operator_values(dtype):
    for inputs in samples(dtype):
        found, theirs = ntensor.bilinear(*inputs), F.bilinear(*inputs)
        assert (found.shape, found.dtype, found.stride()) == (
            theirs.shape,
            theirs.dtype,
            theirs.stride(),
        )
        if dtype in (torch.float32, torch.float64):
            torch.testing.assert_close(found, theirs, rtol=1e-5, atol=1e-5)


@each_dtype
def test_operator_accuracy_and_gradients(dtype):
    """By the one rule of all tests: twice the error of plain torch at most, against float64."""
    for inputs in samples(dtype):
        cotangent = torch.randn(F.bilinear(*inputs).shape).to(dtype)
        assert_matches_definition(ntensor.bilinear, definitions.bilinear, list(inputs), [cotangent])


def test_operator_gradients():
    for inputs in samples(torch.float64, requires_grad=True):
        options = {"fast_mode": OPERATION.gradcheck_fast_mode, "check_batched_grad": True}
        assert gradcheck(
            ntensor.bilinear, inputs, **options, check_forward_ad=OPERATION.supports_forward_ad
        )
        assert gradgradcheck(ntensor.bilinear, inputs, **options)
        assert gradcheck(
            lambda *x: torch.autograd.grad(ntensor.bilinear(*x).sum(), x, create_graph=True),
            inputs,
            fast_mode=True,
        )
    assert OPERATION.supports_fwgrad_bwgrad


def test_operator_forward_over_reverse():
    for inputs in samples(torch.float64, requires_grad=True):
        assert gradgradcheck(ntensor.bilinear, inputs, fast_mode=True, check_fwd_over_rev=True)


def test_operator_of_strided_inputs():
    """torch's non-contiguous variant of each sample."""
    for sample in OPERATION.sample_inputs("cpu", torch.float64):
        strided = sample.noncontiguous()
        inputs = (strided.input, *strided.args)
        torch.testing.assert_close(ntensor.bilinear(*inputs), F.bilinear(*inputs))


def test_operator_with_batches():
    """`vmap` over each sample, as torch's own function gives it."""
    for inputs in samples(torch.float64):
        stacked = [torch.stack([t, t + 1]) for t in inputs]
        ours = torch.func.vmap(ntensor.bilinear)(*stacked)
        torch.testing.assert_close(ours, torch.func.vmap(F.bilinear)(*stacked))


@each_dtype
@pytest.mark.parametrize("training", [True, False])
def test_module_forward(dtype, training):
    """Against the reference in float64: an einsum in a half type has an error of its own."""
    for sample, module, given in modules(dtype, training=training):
        found = module(*given.args, **given.kwargs)
        exact = copy.deepcopy(module).double()
        reference = sample.reference_fn(exact, *(tensor.double() for tensor in given.args))
        tolerance = {torch.float32: 1e-4, torch.float64: 1e-12}.get(dtype, 2e-2)
        torch.testing.assert_close(
            found, reference.reshape(found.shape).to(dtype), rtol=tolerance, atol=tolerance
        )


def test_module_gradients():
    for _, module, given in modules(torch.float64, requires_grad=True):
        names = [name for name, _ in module.named_parameters()]

        def function(*tensors, module=module, names=names):
            values = dict(zip(names, tensors[2:], strict=True))
            return torch.func.functional_call(module, values, tensors[:2])

        inputs = (*given.args, *module.parameters())
        assert gradcheck(function, inputs)
        assert gradgradcheck(function, inputs)


def test_module_parameters_land_where_they_are_asked_for():
    """torch's test of factory arguments: device and dtype reach every creation of a tensor."""
    for sample, _, _ in modules(torch.float32):
        built = sample.constructor_input
        module = ntensor.nn.Bilinear(*built.args, **built.kwargs, device="meta", dtype=torch.half)
        for parameter in module.parameters():
            assert parameter.is_meta and parameter.dtype is torch.half
        with mock.patch.object(torch.nn.init, "uniform_") as draw:
            torch.nn.utils.skip_init(ntensor.nn.Bilinear, *built.args, **built.kwargs)
        assert all(call.args[0].is_meta for call in draw.call_args_list)


def test_module_copies_and_state_dict_both_ways():
    for _, module, given in modules(torch.float32):
        expected = module(*given.args)
        again = pickle.loads(pickle.dumps(module))
        assert torch.equal(again(*given.args), expected)
        bias = module.bias is not None
        theirs = torch.nn.Bilinear(2, 3, 4, bias)
        theirs.load_state_dict(module.state_dict())
        torch.testing.assert_close(theirs(*given.args), expected)
        other = torch.nn.Bilinear(2, 3, 4, bias)
        module.load_state_dict(other.state_dict())
        torch.testing.assert_close(module(*given.args), other(*given.args))


def test_module_repr_is_that_of_torch():
    for sample, module, _ in modules(torch.float32):
        built = sample.constructor_input
        assert repr(module) == repr(torch.nn.Bilinear(*built.args, **built.kwargs))
