"""First and second derivatives of every public operation against finite differences, float64,
in reverse mode, forward mode, forward over reverse, and batched."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from backends import each_backend_often
from cases import PUBLIC
from comparison import in_tuple

pytestmark = [each_backend_often, pytest.mark.parametrize("case", PUBLIC, ids=str)]


def test_gradcheck(case, backend):
    gradcheck(
        lambda *t: case.function(*t, backend=backend),
        case.inputs(),
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
    )


def test_gradgradcheck(case, backend):
    gradgradcheck(
        lambda *t: case.function(*t, backend=backend),
        case.inputs(),
        check_fwd_over_rev=True,
        check_rev_over_rev=True,
        check_batched_grad=True,
        fast_mode=True,
    )


def test_strided_inputs(case, backend):
    """`expanded` inputs are left out here: finite differences cannot move one element alone."""
    for layout in ("transposed", "sliced", "stepped"):
        gradcheck(
            lambda *t: case.function(*t, backend=backend),
            case.inputs(layout=layout),
            check_forward_ad=True,
            fast_mode=True,
        )


def test_third_derivative(case, backend):
    """A derivative of a double backward is one of the family too."""

    def gradient(*tensors):
        outputs = case.function(*tensors, backend=backend)
        outputs = in_tuple(outputs)
        total = sum((o * (1 + i)).pow(3).sum() for i, o in enumerate(outputs))
        return torch.autograd.grad(total, tensors, create_graph=True)

    gradgradcheck(gradient, case.inputs(), fast_mode=True)
