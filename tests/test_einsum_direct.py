"""`ntensor.einsum` of plain operands as they are: straight to the kernel."""

import importlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import ntensor

einsum = importlib.import_module("ntensor.ops.einsum")
SIZES = dict(zip("binorxjk.", (5, 3, 4, 7, 2, 6, 2, 3, 4), strict=True))
EQUATIONS = [
    *("bi,bj,oij->bo", "oij,bi,bj->ob", "bi,bj,ijo->bo", "bi,bj,ioj->ob", "ijk,jr,kr->ir"),
    *("ijk,ir,kr->jr", "bi,bj->bij", "ni,nj,nk,xijk->nx", "...i,...j,oij->...o"),
]


def operands_of(equation):
    words = equation.partition("->")[0].replace("...", ".").split(",")
    return [torch.randn([SIZES[label] for label in word]) for word in words]


@pytest.mark.parametrize("equation", EQUATIONS)
def test_no_label_is_looked_at(equation, monkeypatch):
    """The values of the way for any equation, which is not taken."""
    operands = operands_of(equation)
    general = einsum._recognise(equation, operands).compute()
    monkeypatch.setattr(einsum, "_recognise", None)
    found = ntensor.einsum(equation, *operands)
    exact = torch.einsum(equation, *(each.double() for each in operands))
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)
    assert found.shape == general.shape
    if "r" not in equation:  # an MTTKRP is contiguous
        assert found.stride() == general.stride()


@pytest.mark.parametrize("n", [2, 256, 1500])
def test_rows_are_written_as_they_are_wanted(n):
    x, y, core = torch.randn(n, 3), torch.randn(n, 2), torch.randn(3, 2, 256)
    arguments = "bi,bj,ijo->bo", x, y, core
    found = einsum._directly(arguments[0], arguments[1:], arguments)
    assert found is not None and found.is_contiguous()
    torch.testing.assert_close(found, torch.einsum(*arguments))


def test_with_gradients(monkeypatch):
    monkeypatch.setattr(einsum, "_recognise", None)
    equation = "xij,ni,nj->nx"
    operands = [each.requires_grad_() for each in operands_of(equation)]
    both = [form(equation, *operands).square().sum() for form in (ntensor.einsum, torch.einsum)]
    torch.testing.assert_close(*(torch.autograd.grad(each, operands) for each in both))
    with torch.autocast("cpu", torch.bfloat16):
        assert ntensor.einsum(equation, *operands).dtype is torch.bfloat16


def test_a_product_without_a_sum(monkeypatch):
    """Autocast leaves its dtype alone, so that the way is closed."""
    operands, called, ordinary = operands_of("bi,bj->bij"), [], einsum.SYNTHESIS

    def noting(*arguments):
        called.append(1)
        return ordinary(*arguments)

    monkeypatch.setattr(einsum, "SYNTHESIS", noting)
    wanted = torch.einsum("bi,bj->bij", *operands)
    assert torch.equal(ntensor.einsum("bi,bj->bij", *operands), wanted) and not called
    with torch.autocast("cpu"):
        assert torch.equal(ntensor.einsum("bi,bj->bij", *operands), wanted) and called


class Noting(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.seen.append(function)
        return function(*arguments, **(keywords or {}))


@pytest.mark.parametrize("equation", EQUATIONS)
def test_who_looks_on_sees_the_general_way(equation, monkeypatch):
    operands, seen = operands_of(equation), []
    for way in (einsum._directly, lambda *_: None):
        monkeypatch.setattr(einsum, "_directly", way)
        with Noting() as mode:
            ntensor.einsum(equation, *operands)
        seen.append(mode.seen)
    assert seen[0] == seen[1] and seen[0]
