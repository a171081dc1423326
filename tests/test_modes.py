"""Projections whose output mode is not the core's first in memory, and their gradients."""

import importlib
import itertools

import pytest
import torch

import layouts
import ntensor
from ntensor.backends.native import plans
from ntensor.backends.native.plans import force_plan
from ntensor.ops import direct
from ntensor.ops.operation import OPERATIONS
from test_direct_calls import closed
from tolerances import DTYPES

# (n, extents of the modes in memory, the output's place): one sample and many, extents of 1 on
# each side of the output and for itself, short and long ones.
SIZES = (
    *((3, (3, 5, 4), 1), (3, (3, 5, 4), 2), (1, (2, 1, 3), 1), (9, (1, 7, 5, 1), 1)),
    *((70, (1, 6, 1, 9, 1), 3), (33, (6, 1, 1, 4), 2), (20, (17, 2, 40), 1), (12, (1, 1, 1), 2)),
    *((40, (2, 30, 12), 2), (130, (9, 33), 1), (5, (2, 2, 2, 3, 2, 2), 4)),
)


def problem(size, dtype=torch.float32, layout="contiguous", seed=0):
    """The equation, core and matrices, and a cotangent."""
    n, shape, mode = size
    generator = torch.Generator().manual_seed(seed)
    letters = "abcdefgh"[: len(shape)]
    others = [place for place in range(len(shape)) if place != mode]
    core = torch.randn(shape, generator=generator).to(dtype)
    matrices = [layouts.make(layout, (n, shape[place]), dtype, generator) for place in others]
    terms = [letters, *("n" + letters[place] for place in others)]
    cotangent = layouts.make(layout, (n, shape[mode]), dtype, generator)
    return f"{','.join(terms)}->n{letters[mode]}", [core, *matrices], cotangent


def exact(equation, operands, cotangent):
    """Of each operand's gradient too, in float64."""
    wide = [each.double().requires_grad_() for each in operands]
    result = torch.einsum(equation, *wide)
    return result.detach(), torch.autograd.grad(result, wide, cotangent.double())


def close(found, wanted, dtype):
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 4e-2)
    scale = wanted.abs().max().item() + 1e-30
    assert found.dtype is dtype and found.shape == wanted.shape
    torch.testing.assert_close(found.double() / scale, wanted / scale, rtol=0, atol=tolerance)


def check(equation, operands, cotangent, needs, around=None):
    """Values and the needed gradients, by `ntensor.einsum`."""
    wanted, gradients = exact(equation, operands, cotangent)
    leaves = [
        each.detach().requires_grad_(need) for each, need in zip(operands, needs, strict=True)
    ]
    found = ntensor.einsum(equation, *leaves)
    close(found.detach(), wanted, operands[0].dtype)
    asked = [each for each in leaves if each.requires_grad]
    right = [each for each, need in zip(gradients, needs, strict=True) if need]
    for each, exactly in zip(torch.autograd.grad(found, asked, cotangent), right, strict=True):
        close(each, exactly, operands[0].dtype)


@pytest.fixture(params=["direct", "ordinary"])
def way(request):
    """The shortest way, or the one that it leaves open."""
    if request.param == "direct":
        yield
    else:
        with ntensor.use_backend("native"):
            yield


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_values_and_gradients(size, dtype, way):
    equation, operands, cotangent = problem(size, dtype)
    close(ntensor.einsum(equation, *operands), exact(equation, operands, cotangent)[0], dtype)
    check(equation, operands, cotangent, [True] * len(operands))


@pytest.mark.sanitizer
@pytest.mark.parametrize("size", [(11, (6, 5, 33), 1), (9, (1, 4, 3, 10), 2), (30, (3, 4, 5), 2)])
def test_every_subset_of_the_gradients(size, way):
    equation, operands, cotangent = problem(size)
    for needs in itertools.product((False, True), repeat=len(operands)):
        if any(needs):
            check(equation, operands, cotangent, needs)


@pytest.mark.parametrize(
    "layout",
    ["transposed", "sliced", "stepped", "offset", "expanded_rows", "expanded_columns", "expanded"],
)
def test_strides(layout, way):
    for size in ((19, (4, 5, 3, 6), 2), (7, (3, 1, 8), 2)):
        equation, operands, cotangent = problem(size, layout=layout)
        check(equation, operands, cotangent, [True] * len(operands))


@pytest.mark.parametrize("size", [(6, (3, 4, 5), 1), (6, (4, 1, 3, 5), 3)])
def test_cores_in_any_order_of_memory(size):
    """The same core, its modes stored in each order: the gradients do not know."""
    equation, (core, *matrices), cotangent = problem(size, torch.float64)
    wanted, gradients = exact(equation, [core, *matrices], cotangent)
    for order in itertools.permutations(range(core.dim())):
        back = [order.index(place) for place in range(core.dim())]
        stored = core.permute(order).contiguous().permute(back)
        leaves = [each.detach().requires_grad_() for each in (stored, *matrices)]
        found = ntensor.einsum(equation, *leaves)
        close(found.detach(), wanted, torch.float64)
        close(ntensor.einsum(equation, stored, *matrices), wanted, torch.float64)
        for each, exactly in zip(
            torch.autograd.grad(found, leaves, cotangent), gradients, strict=True
        ):
            close(each, exactly, torch.float64)


@pytest.mark.parametrize("equation", ["axb,an,nb->xn", "axb,na,bn->nx", "abx,an,bn->xn"])
def test_columns(equation):
    """Matrices and results with the samples last."""
    sizes = {"a": 3, "b": 4, "x": 5, "n": 6}
    left, _, right = equation.partition("->")
    operands = [torch.randn([sizes[k] for k in term]) for term in left.split(",")]
    cotangent = torch.randn([sizes[k] for k in right])
    check(equation, operands, cotangent, [True] * 3)
    close(
        ntensor.einsum(equation, *operands),
        torch.einsum(equation, *(each.double() for each in operands)),
        torch.float32,
    )


def test_nothing_is_recorded_twice():
    """A second derivative, of gradients that were all asked for at once."""
    equation, operands, _ = problem((4, (3, 2, 3), 1), torch.float64)
    leaves = [each.requires_grad_() for each in operands]
    assert torch.autograd.gradcheck(lambda *given: ntensor.einsum(equation, *given), leaves)
    assert torch.autograd.gradgradcheck(lambda *given: ntensor.einsum(equation, *given), leaves)


def noted(monkeypatch, owner, name):
    """The arguments of each call of a function, which is still made."""
    calls, function = [], getattr(owner, name)

    def noting(*arguments):
        calls.append(arguments)
        return function(*arguments)

    monkeypatch.setattr(owner, name, noting)
    return calls


def test_gradients_at_once(monkeypatch):
    """One call for all of them; none of the operations that give them one by one."""
    equation, operands, cotangent = problem((9, (6, 5, 4, 3), 2))
    asked = noted(monkeypatch, direct, "mode_gradients")
    raw = [noted(monkeypatch, operation, "run") for operation in OPERATIONS.values()]
    check(equation, operands, cotangent, [True] * len(operands))
    (arguments,) = asked
    assert list(arguments[2]) == [True, True, True, False, True]
    assert not any(raw)


def test_gradients_apart(monkeypatch):
    """Each is a tensor of its own, so that factors before the last may be hoisted."""
    plan = noted(monkeypatch, plans, "factor_grads")
    size = (40, (1, 60, 200, 9), 2)
    equation, operands, cotangent = problem(size)
    leaves = [each.requires_grad_() for each in operands]
    with ntensor.use_backend("native"):
        found = ntensor.einsum(equation, *leaves)
        plan.clear()
        torch.autograd.grad(found, leaves, cotangent)
    assert plan and all(arguments[4] for arguments in plan)


def test_no_other_operation_is_at_once():
    """Several outputs, or a mean output's gradient: the general way."""
    gradients = importlib.import_module("ntensor.ops.mode_gradients")
    core, grad = torch.ones(4, 2, 3), torch.ones(5, 4)
    factors = torch.ones(5, 2), torch.ones(5, 3)
    needs = [True] * 5
    for given, outputs in (
        ((core, grad, None, *factors), [True, True]),
        ((core, grad, grad, *factors), [False, True]),
        ((core, None, grad, *factors), [False, True]),
    ):
        assert gradients.rows(given, outputs) is None
        assert gradients.at_once(given, [torch.ones(5, 3)], needs, outputs, None) is None


@pytest.mark.parametrize("size", SIZES)
def test_rows_are_columns_turned(size):
    _, (core, *matrices), _ = problem(size)
    if core.dim() < 3:
        return
    by_rows = direct.mttkrp(core, matrices, size[2], True)
    turned = direct.mttkrp(core, [each.T.contiguous() for each in matrices], size[2])
    torch.testing.assert_close(by_rows, turned.T, rtol=1e-5, atol=1e-5)


def test_results_on_huge_pages():
    """Of more than 32 MiB."""
    core, a, b = torch.randn(2, 4100, 2), torch.randn(2100, 2), torch.randn(2100, 2)
    assert direct.mttkrp(core, (a, b), 1, True) is not None
    found = ntensor.einsum("axb,na,nb->nx", core, a, b)
    wanted = torch.einsum("axb,na,nb->nx", *(each.double() for each in (core, a, b)))
    close(found, wanted, torch.float32)


@pytest.mark.sanitizer
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("moves", [*itertools.product((False, True), repeat=2)], ids=str)
def test_each_way_to_the_gradients(moves, dtype, monkeypatch):
    """As the core lies, and of copies with the output in front: rows of one to nine elements, and
    longer ones, lie behind it. A plan is kept, so that each way has sizes of its own."""
    monkeypatch.setattr(plans, "mode_gradients", lambda *_: moves)
    n = 17 + 2 * moves[0] + moves[1]
    for behind in (*range(1, 10), 23):
        for shape, mode in (((3, 18, behind), 1), ((1, 5, 1, 4, behind), 3)):
            check(*problem((n, shape, mode), dtype), [True] * len(shape))


def moved(n, shape, mode, needs=None, dtype=0):
    sizes = plans.Sizes("avx512", dtype, n, shape, 1, 2)
    return plans.mode_gradients(sizes, mode, needs or (True,) * (len(shape) + 1), None)


def test_a_copy_for_many_samples():
    """All matrices' gradients then come from one pass."""
    assert moved(354, (15, 2251, 89), 1)[0]
    assert moved(364, (22, 53, 17, 70), 1)[0]
    assert not moved(3, (168, 19, 631), 1)[0], "the copy costs more than a pass"
    assert not moved(354, (15, 2251, 89), 1, (False, True, False, False))[0], "one pass either way"
    assert not moved(2, (8, 4, 5), 1)[0], "a call costs more than all of it"


def test_a_tensor_s_gradient_in_another_order():
    """Where the first mode in memory is short, and gives the product few rows."""
    assert moved(605, (2, 11, 513, 3), 3)[1]
    assert not moved(49, (219, 47, 54), 1)[1]


@pytest.mark.parametrize("dtype, most", [(0, 1 << 23), (1, 1 << 22), (2, 1 << 24)])
def test_no_large_copy(dtype, most):
    rows = most >> 12
    assert moved(4000, (rows // 2, 64, 128), 1, dtype=dtype)[0]
    assert not moved(4000, (rows, 64, 65), 1, dtype=dtype)[0]


def permuted_problem():
    """A core whose output is second in memory, a matrix by rows and one by columns; leaves."""
    core = torch.randn(4, 3, 5).transpose(0, 1)
    return "xab,na,bn->nx", [
        each.requires_grad_() for each in (core, torch.randn(6, 4), torch.randn(5, 6))
    ]


def test_saved_tensors_that_come_back_in_another_layout():
    equation, leaves = permuted_problem()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t.clone().contiguous()):
        found = ntensor.einsum(equation, *leaves)
    gradients = torch.autograd.grad(found.sum(), leaves)
    wanted = exact(equation, [each.detach() for each in leaves], torch.ones(6, 3))[1]
    for each, exactly in zip(gradients, wanted, strict=True):
        close(each, exactly, torch.float32)


def test_saved_tensors_that_come_back_as_others():
    equation, leaves = permuted_problem()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t.double()):
        found = ntensor.einsum(equation, *leaves)
    with pytest.raises(RuntimeError, match="einsum: core was saved"):
        torch.autograd.grad(found.sum(), leaves)


def test_results_may_be_written_to():
    """The node returns no view."""
    equation, leaves = permuted_problem()
    for output in ("nx", "xn"):
        found = ntensor.einsum(equation[:-2] + output, *leaves)
        found += 1
        found.sum().backward()


def test_what_does_not_fit_is_torch_s():
    equation, (core, _, columns) = permuted_problem()
    for wrong in (torch.randn(6, 5), torch.randn(7, 4), torch.randn(6, 4).double()):
        with pytest.raises((RuntimeError, ValueError)):
            ntensor.einsum(equation, core, wrong, columns)


def test_second_derivatives_of_operands_in_any_order():
    equation, operands = permuted_problem()
    leaves = [each.detach().double().requires_grad_() for each in operands]
    assert torch.autograd.gradgradcheck(lambda *given: ntensor.einsum(equation, *given), leaves)


@pytest.mark.sanitizer
def test_mttkrp_closed_for_results_that_fit_nowhere():
    tensor = torch.ones(64, 3, 5)
    for rank in (1 << 58, 1 << 40):
        a, b = torch.ones(3, 1).expand(3, rank), torch.ones(5, 1).expand(5, rank)
        assert direct.mttkrp(tensor, (a, b), 0) is None
        assert direct.mttkrp(tensor, (a.T, b.T), 0, True) is None
    a, b = torch.ones(2, 3), torch.ones(2, 5)
    assert direct.mttkrp(tensor, (a, b), 0, True) is not None
    assert direct.mttkrp(tensor, (a, b), 0, False) is None
    assert direct.mttkrp(tensor, (a, b), 0, True, None) is None


@pytest.mark.sanitizer
def test_mode_gradients_closed_for_what_does_not_fit():
    tensor = torch.ones(4, 3, 5)
    values = (tensor, torch.ones(2, 4), torch.ones(2, 3), torch.ones(2, 5))
    wrong_tensors = (
        *(tensor.mT, tensor.int(), tensor[0], tensor.double(), torch.ones((2,) * 9), tensor[:0]),
        *(torch.ones(4, 2, 5), torch.ones(4, 3, 0), None),
    )
    wrong_matrices = (
        *(values[2].double(), values[2][0], values[2][:1], values[2][:, :2], values[2][None]),
        *(values[2][:0], None),
    )
    wrong = [(each, *values[1:]) for each in wrong_tensors]
    wrong += [(*values[:2], each, values[3]) for each in wrong_matrices]
    wrong += [(tensor, *(each[:0] for each in values[1:])), values[:3], (tensor,) * 10, (), None]
    with torch.no_grad():
        needs = [True] * 4
        closed(
            direct.mode_gradients,
            (values, 1, needs),
            {0: wrong, 1: (-1, 0, 3, 1 << 40, "a", None), 2: (needs[:3], [], None)},
        )
        assert direct.mode_gradients(values, 1, needs, None) is None
        with force_plan(0):
            assert direct.mode_gradients(values, 1, needs) is None
    assert direct.mode_gradients(values, 1, needs) is None
