"""Partial products behind TensorLy: shared within one sweep of a decomposition, else not.

TensorLy alone, with the same writes, gives the expected values.
"""

import copy
import gc
import threading
import types
import weakref

import pytest
import tensorly
import torch
from tensorly import tenalg
from tensorly.decomposition import (
    constrained_parafac,
    non_negative_parafac,
    non_negative_parafac_hals,
    parafac,
)

import definitions
from layouts import make
from ntensor.integrations import tensorly as integration
from partials import passes, shared_modes

pytestmark = pytest.mark.usefixtures("shared_at_any_size")

SIZES, RANK = (3, 4, 7, 40), 2
LAST = 2


def constrained(*arguments, tol, **options):
    return constrained_parafac(*arguments, tol_outer=tol, non_negative=True, **options)


DECOMPOSITIONS = [parafac, non_negative_parafac, non_negative_parafac_hals, constrained]


@pytest.fixture(autouse=True)
def torch_backend():
    with tensorly.backend_context("pytorch"):
        yield
    integration.unregister()


@pytest.fixture
def problem(generator):
    assert shared_modes(SIZES, RANK) == LAST + 1
    factors = [make("contiguous", (k, RANK), torch.float64, generator).abs() for k in SIZES]
    noise = make("contiguous", SIZES, torch.float64, generator)
    return (tensorly.cp_to_tensor((None, factors)) + 0.1 * noise).contiguous(), factors


def outcomes(problem, run):
    """What `run` gives from equal tensors and factors, without and with the registration."""
    alone = run(*copy.deepcopy(problem))
    with integration.register():
        ours = run(*copy.deepcopy(problem))
    return alone, ours


def assert_same(problem, run):
    alone, ours = outcomes(problem, run)
    torch.testing.assert_close(ours, alone, rtol=1e-6, atol=1e-9)


def factors_of(tensor, start, decompose=parafac, n_iter_max=1, **options):
    begin = tensorly.cp_tensor.CPTensor((None, [f.detach().clone() for f in start]))
    return decompose(tensor, RANK, n_iter_max=n_iter_max, init=begin, tol=1e-30, **options).factors


@pytest.mark.parametrize("decompose", DECOMPOSITIONS)
def test_a_sweep_shares(monkeypatch, problem, decompose):
    seen = passes(monkeypatch)
    with integration.register():
        factors_of(*problem, decompose, 3)
    assert seen == ["_partial", "mttkrp"] * 3


def test_calls_of_other_code_share_nothing(monkeypatch, problem):
    tensor, factors = problem
    seen = passes(monkeypatch)
    with integration.register():
        results = [
            tenalg.unfolding_dot_khatri_rao(tensor, (None, factors), mode) for mode in range(4)
        ]
    assert seen == ["mttkrp"] * 4
    expected = [definitions.mttkrp(tensor, factors, mode) for mode in range(4)]
    torch.testing.assert_close(results, expected)


WRITES = {
    "in place": lambda x: x.mul_(2),
    ".data in place": lambda x: x.data.mul_(2),
    ".data assigned": lambda x: setattr(x, "data", x.data * 2),
    "the storage": lambda x: x.untyped_storage().copy_((2 * x).untyped_storage()),
    "by DLPack": lambda x: torch.from_dlpack(x.detach()).mul_(2),
    "swap_tensors": lambda x: torch.utils.swap_tensors(x, 2 * x),
}
each_write = pytest.mark.parametrize("write", WRITES)


@each_write
@pytest.mark.parametrize("place", ["tensor", 3])
@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_a_write_between_calls_of_other_code(problem, write, place, mode):
    tensor, factors = problem
    with integration.register():
        tenalg.unfolding_dot_khatri_rao(tensor, (None, factors), 0)
        WRITES[write](tensor if place == "tensor" else factors[place])
        ours = tenalg.unfolding_dot_khatri_rao(tensor, (None, factors), mode)
    torch.testing.assert_close(ours, definitions.mttkrp(tensor, factors, mode))


@each_write
@pytest.mark.parametrize("fixed", [[], [1, 2]])
def test_a_write_between_decompositions(problem, write, fixed):
    """From the same start: the second one begins with the partial product of the first."""

    def run(tensor, start):
        first = factors_of(tensor, start, fixed_modes=fixed)
        WRITES[write](tensor)
        return first, factors_of(tensor, start, fixed_modes=fixed)

    assert_same(problem, run)


@each_write
def test_a_write_in_a_callback(problem, write):
    def run(tensor, start):
        return factors_of(
            tensor, start, n_iter_max=3, fixed_modes=[2], callback=lambda *_: WRITES[write](tensor)
        )

    assert_same(problem, run)


def of_tensorly(function):
    """The function as if it stood in a module of TensorLy's decompositions."""
    module = {**function.__globals__, "__name__": "tensorly.decomposition.of_a_test"}
    return types.FunctionType(function.__code__, module, function.__name__, function.__defaults__)


@of_tensorly
def ask(tensor, factors, modes, between=None, holds=True):
    """The last product; `between` the modes something is done, `holds` as TensorLy's loops do."""
    found = None
    for mode in modes:
        if found is not None and between is not None:
            between()
        result = tenalg.unfolding_dot_khatri_rao(tensor, (None, factors), mode)
        found = result if holds else 1 * result
        if not holds:
            del result
    return found


@pytest.mark.parametrize(
    ("modes", "holds", "expected"),
    [
        ((0, 1, 2, 3), True, ["_partial", "mttkrp"]),
        ((1, 2, 3, 1, 2, 3), True, ["_partial", "mttkrp"] * 2),
        ((0, 2), True, ["_partial"]),
        ((2, 3), True, ["mttkrp"] * 2),
        ((1, 0), True, ["_partial"] * 2),
        ((1, 1), True, ["_partial"] * 2),
        ((0, 1), False, ["_partial"] * 2),
    ],
)
def test_what_shares(monkeypatch, problem, modes, holds, expected):
    seen = passes(monkeypatch)
    with integration.register():
        result = ask(*problem, modes, holds=holds)
    assert seen == expected
    torch.testing.assert_close(result, definitions.mttkrp(*problem, modes[-1]))


@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_code_shares_nothing(problem):
    tensor, factors = problem

    def product(*given):
        return tenalg.unfolding_dot_khatri_rao(tensor, (None, list(given)), 1)

    with integration.register():
        compiled = torch.compile(product, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(*factors), definitions.mttkrp(tensor, factors, 1))


def test_a_function_does_not_go_on_where_another_stopped(problem):
    """Broken off at mode 0; the second one, of the same name and place, begins at mode 1."""
    tensor, factors = problem
    with integration.register():
        for mode in (1, 2):
            held = ask(tensor, factors, (0,))
            tensor.data.mul_(2)
            ours = ask(tensor, factors, (mode,))
            torch.testing.assert_close(ours, definitions.mttkrp(tensor, factors, mode))
            assert held is not ours


def test_a_function_within_a_function(problem):
    tensor, factors = problem
    inner = []

    def between():
        tensor.data.mul_(2)
        inner.append(ask(tensor, factors, (1,)))
        torch.testing.assert_close(inner[-1], definitions.mttkrp(tensor, factors, 1))

    with integration.register():
        outer = ask(tensor, factors, (0, 0), between)
    assert inner
    torch.testing.assert_close(outer, definitions.mttkrp(tensor, factors, 0))


@each_write
@pytest.mark.parametrize("place", [1, 2, 3])
def test_a_write_to_a_factor_within_a_sweep(problem, write, place):
    tensor, factors = problem
    with integration.register():
        ours = ask(tensor, factors, (0, 1, 2), lambda: WRITES[write](factors[place]))
    torch.testing.assert_close(ours, definitions.mttkrp(tensor, factors, 2))


@pytest.mark.parametrize("optimizer", ["Adam", "AdamW", "SGD", "Adagrad"])
def test_a_fused_optimizer_between_decompositions(problem, optimizer):
    """This decomposition begins with the optimizer's own tensors, not with copies of them."""

    def run(tensor, start):
        leaves = [torch.nn.Parameter(f) for f in start]
        step = getattr(torch.optim, optimizer)(leaves, lr=0.1, fused=True)
        errors = []
        for _ in range(3):
            with torch.no_grad():
                begin = (None, [*leaves])
                found = constrained(tensor, RANK, n_iter_max=1, init=begin, tol=1e-30)
                errors.append(tensorly.norm(tensor - found.to_tensor()))
            loss = (tensor - tensorly.cp_to_tensor((None, leaves))).square().mean()
            step.zero_grad()
            loss.backward()
            step.step()
        return errors

    assert_same(problem, run)


def test_numpy_writes_between_decompositions(problem):
    def run(tensor, start):
        array = tensor.numpy()
        tensor = torch.from_numpy(array)
        found = factors_of(tensor, start)
        array *= 2
        return found, factors_of(tensor, start)

    assert_same(problem, run)


@pytest.mark.parametrize("modes", [(0,), (0, 1), (0, 1, 2, 3)])
def test_nothing_holds_the_tensor(problem, modes):
    """Not even after a sweep that stopped in the middle."""
    tensor, factors = problem
    tensor = tensor.clone()
    gone = weakref.ref(tensor)
    with integration.register():
        ask(tensor, factors, modes)
        del tensor
        gc.collect()
        assert gone() is None


def test_each_thread_is_at_its_own_sweep(problem):
    """Two decompositions at once, of one tensor with different factors."""
    tensor, start = problem
    starts = [start, [f.flip(0) for f in start]]
    alone = [factors_of(tensor, each, n_iter_max=10) for each in starts]
    found = [None, None]

    def decompose(place):
        found[place] = factors_of(tensor, starts[place], n_iter_max=10)

    with integration.register():
        threads = [threading.Thread(target=decompose, args=(place,)) for place in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    torch.testing.assert_close(found, alone, rtol=1e-6, atol=1e-9)
