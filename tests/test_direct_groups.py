"""Several cores at once by the shortest way: forward and gradients, groups in every place."""

import itertools

import pytest
import torch

import layouts
import ntensor
from ntensor import _cpu
from ntensor.backends.native import force_simd_level
from ntensor.ops import direct
from test_direct_calls import close, closed
from tolerances import DTYPES

pytestmark = pytest.mark.sanitizer

# Groups, n, the extents, k_x: more groups than threads, fewer, one; extents of 1 in every place.
SIZES = ((5, 3, (2, 3), 4), (2, 70, (6, 1, 9), 33), (1, 4, (5, 4), 2), (3, 1, (1, 8), 1))


def tensors(groups, n, extents, k_x, dtype=torch.float32, layout="contiguous"):
    generator = torch.Generator().manual_seed(0)
    core = torch.randn((groups, k_x, *extents), generator=generator).to(dtype)
    return core, *(layouts.make(layout, (groups, n, k), dtype, generator) for k in extents)


def equation(factors):
    letters = "abcdefgh"[:factors]
    return f"gx{letters},{','.join('gn' + each for each in letters)}->gnx"


def flat(values):
    return [each.flatten(0, 1) for each in values]


@pytest.mark.parametrize("level", _cpu.simd_levels())
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_values(level, dtype, sizes, threads):
    groups, n, extents, k_x = sizes
    values = tensors(*sizes, dtype)
    grad = torch.randn((groups, n, k_x), generator=torch.Generator().manual_seed(1)).to(dtype)
    wide = [each.double().requires_grad_() for each in values]
    wanted = torch.einsum(equation(len(extents)), *wide)
    gradients = torch.autograd.grad(wanted, wide, grad.double())
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with force_simd_level(level), torch.no_grad():
            close(direct.project_groups(values, 0), wanted.detach(), dtype)
            x = direct.project_groups(flat(values), groups)
            close(x.view(wanted.shape), wanted.detach(), dtype)
            for needs in itertools.product((True, False), repeat=len(values)):
                rows = direct.gradients(flat(values), grad.flatten(0, 1), needs, groups)
                found = direct.gradients(values, grad, needs, 0)
                for need, row, each, right in zip(needs, rows, found, gradients, strict=True):
                    assert (each is not None) == need == (row is not None)
                    if need:
                        close(row.view(right.shape), right, dtype)
                        close(each, right, dtype)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("layout", layouts.LAYOUTS)
@pytest.mark.parametrize("groups", [1, 2, 7])
def test_strides_of_factors(layout, groups):
    values = tensors(groups, 5, (4, 1, 3), 6, layout=layout)
    wanted = torch.einsum(equation(3), *(each.double() for each in values))
    close(direct.project_groups(values, 0), wanted, torch.float32)


@pytest.mark.parametrize("layout", layouts.LAYOUTS)
@pytest.mark.parametrize("groups", [1, 2, 7])
@pytest.mark.parametrize("n", [1, 5])
def test_gradients_of_recorded_calls(layout, groups, n):
    """One node of the graph, for operands and incoming gradients of any strides."""
    values = tensors(groups, n, (4, 1, 3), 6, layout=layout)
    upstream = layouts.make(layout, (groups, n, 6), torch.float32, torch.Generator().manual_seed(1))
    wide = [each.double().requires_grad_() for each in values]
    wanted = torch.einsum(equation(3), *wide)
    given = [each.detach().requires_grad_() for each in values]
    x = ntensor.synthesis_projection(*given)
    assert {node.name() for node, _ in x.grad_fn.next_functions} == {
        "torch::autograd::AccumulateGrad"
    }
    close(x.detach(), wanted.detach(), torch.float32)
    everywhere = torch.ones(()).expand_as(x)
    for cotangent in (upstream, everywhere, upstream.transpose(0, 1).contiguous().transpose(0, 1)):
        found = torch.autograd.grad(x, given, cotangent, retain_graph=True)
        right = torch.autograd.grad(wanted, wide, cotangent.double(), retain_graph=True)
        for each, gradient in zip(found, right, strict=True):
            close(each, gradient, torch.float32)
    batched = torch.autograd.grad(
        x, given, torch.stack((upstream, -upstream)), is_grads_batched=True
    )
    right = torch.autograd.grad(wanted, wide, upstream.double())
    for each, gradient in zip(batched, right, strict=True):
        close(each, torch.stack((gradient, -gradient)), torch.float32)


def test_recorded_calls_are_differentiated_again():
    values = [each.double().requires_grad_() for each in tensors(3, 2, (2, 3), 4)]
    torch.autograd.gradcheck(ntensor.synthesis_projection, values)
    torch.autograd.gradgradcheck(ntensor.synthesis_projection, values)


def test_recorded_calls_mind_what_was_saved():
    values = tensors(3, 2, (2, 3), 4)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x[:, :1]):
        x = ntensor.synthesis_projection(*(each.requires_grad_() for each in values))
    with pytest.raises(RuntimeError, match="grouped_projection: core was saved"):
        x.sum().backward()
    x = ntensor.synthesis_projection(*values)
    with torch.no_grad():
        values[1].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        x.sum().backward()


def test_closed_for_what_does_not_fit():
    core, a, b = tensors(3, 5, (2, 4), 6)
    wrong = (
        *((core, a), (core[0], a, b), (core, a[0], b[0]), (core.mT, a, b), (core.double(), a, b)),
        *((core, a, b[:2]), (core, a[:, :2], b), (core, a, b[..., :3]), (core[:2], a, b)),
        *((core[:, :0], a, b), (core[:0], a[:0], b[:0]), (core, a[:, :0], b[:, :0]), None, ()),
        (core, a, b.clone().requires_grad_()),
    )
    closed(direct.project_groups, ((core, a, b), 0), {0: wrong, 1: (1, 3, -1, 1 << 40, "a", None)})
    rows = flat((core, a, b))
    wrong = (*(flat(each) for each in wrong[4:8]), (core, a, b), (rows[0], *rows), None)
    closed(direct.project_groups, (rows, 3), {0: wrong, 1: (0, -1, 2, 4, 6, 15, 1 << 40, "a")})


def test_gradients_closed_for_what_does_not_fit():
    values = flat(tensors(3, 5, (2, 4), 6))
    grad = torch.ones(15, 6)
    wrong_grads = (grad[:5], grad[:, :5], grad.view(3, 5, 6), torch.ones(15, 18), grad.double())
    with torch.no_grad():
        right = (values, grad, [True] * 3, 3)
        closed(direct.gradients, right, {1: wrong_grads, 3: (0, -1, 1, 2, 9, 1 << 40, "a")})
        core, a, b = tensors(3, 5, (2, 4), 6)
        grad = torch.ones(3, 5, 6)
        uneven = torch.ones(5, 3, 6).transpose(0, 1)
        right = ((core, a, b), grad, [True] * 3, 0)
        wrong = ((core, a, torch.ones(5, 3, 4).transpose(0, 1)), (core[:2], a, b), values)
        wrong_grads = (grad[:2], grad[:, :4], grad[..., :5], grad.flatten(0, 1), uneven, None)
        closed(direct.gradients, right, {0: wrong, 1: wrong_grads, 3: (1, 3, -1)})
        assert direct.gradients(*right, grad) is None


@pytest.mark.parametrize("needs", [(True, True, True), (False, True, False), (True, False, False)])
@pytest.mark.parametrize("order", ["gna,gnb,gxab->gnx", "nga,bng,gxab->nxg", "nga,ngb,gaxb->gnx"])
def test_einsum_and_its_gradients(order, needs):
    """By the shortest way, and where that is closed."""
    sizes = {"g": 3, "n": 5, "a": 2, "b": 4, "x": 6}
    generator = torch.Generator().manual_seed(0)
    terms = order.partition("->")[0].split(",")
    values = [torch.randn([sizes[k] for k in term], generator=generator) for term in terms]
    wide = [each.double().requires_grad_(need) for each, need in zip(values, needs, strict=True)]
    given = [each.requires_grad_(need) for each, need in zip(values, needs, strict=True)]
    wanted = torch.einsum(order, *wide)
    upstream = torch.randn(wanted.shape, generator=generator)
    results = [ntensor.einsum(order, *given)]
    with ntensor.use_backend("native"):
        results.append(ntensor.einsum(order, *given))
    with torch.no_grad():
        close(ntensor.einsum(order, *given), wanted.detach(), torch.float32)
    right = torch.autograd.grad(wanted, [x for x in wide if x.requires_grad], upstream.double())
    for result in results:
        close(result.detach(), wanted.detach(), torch.float32)
        found = torch.autograd.grad(result, [x for x in given if x.requires_grad], upstream)
        for each, gradient in zip(found, right, strict=True):
            close(each, gradient, torch.float32)


def test_wrong_operands_raise_as_those_of_torch():
    core, a, b = tensors(3, 5, (2, 4), 6)
    for wrong in ((core, a, b[:2]), (core, a[:, :2], b), (core, a, b.double()), (core[:2], a, b)):
        with pytest.raises((RuntimeError, ValueError, TypeError)):
            torch.einsum(equation(2), *wrong)
        with pytest.raises((RuntimeError, ValueError, TypeError)):
            ntensor.einsum(equation(2), *wrong)
        with pytest.raises((ValueError, TypeError)):
            ntensor.synthesis_projection(*wrong)
