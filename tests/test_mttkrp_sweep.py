"""`MttkrpSweep`: what it keeps is right whatever wrote to the factors or, as stated, the tensor."""

import copy
import functools
import gc
import math
import threading

import pytest
import torch
from torch.autograd import forward_ad

import definitions
import ntensor
from partials import each_shape, make_inputs, module, passes
from writes import INVISIBLE, KINDS, NAN, REFUSED, SWAPPED, VISIBLE, written

pytestmark = pytest.mark.usefixtures("shared_at_any_size")

SIZES, RANK = (3, 4, 7, 40), 2
SHARED = 3


def assert_right(sweep, tensor, factors, mode, weights=None, **options):
    with torch.no_grad():
        result = sweep(tensor, factors, mode, weights, **options)
        expected = ntensor.mttkrp(tensor, factors, mode, weights)
        if tensor.dim() > 1:
            expected = definitions.mttkrp(tensor, factors, mode, weights)
    torch.testing.assert_close(result, expected, equal_nan=True)
    return result


@each_shape
@pytest.mark.parametrize("weighted", [False, True])
def test_sweep(sizes, rank, weighted, generator):
    """Factors are replaced one after the other, as in alternating least squares."""
    tensor, *factors = make_inputs(sizes, rank, torch.float64, generator)
    weights = torch.rand(rank, dtype=torch.float64) if weighted else None
    sweep = ntensor.MttkrpSweep(tensor)
    for _ in range(3):
        for mode in range(tensor.dim()):
            result = assert_right(sweep, tensor, factors, mode, weights)
            factors[mode] = result / result.norm() if result.numel() else result


@pytest.fixture
def problem(generator):
    tensor, *factors = make_inputs(SIZES, RANK, torch.float64, generator)
    assert module.shared_modes(SIZES, RANK) == SHARED
    return ntensor.MttkrpSweep(tensor), tensor, factors


def test_two_passes_over_a_stated_tensor(monkeypatch, problem):
    sweep, tensor, factors = problem
    seen = passes(monkeypatch)
    for _ in range(2):
        for mode in range(4):
            factors[mode] = sweep(tensor, factors, mode) / 10
    assert seen == ["_partial", "mttkrp"] * 2


@pytest.mark.parametrize("stated", [False, True])
def test_a_pass_a_mode_over_another_tensor(monkeypatch, problem, stated):
    _, tensor, factors = problem
    another = tensor.clone()
    sweep = ntensor.MttkrpSweep(another if stated else None)
    seen = passes(monkeypatch)
    for mode in range(4):
        sweep(tensor, factors, mode)
    assert seen == ["mttkrp"] * 4


@pytest.mark.parametrize("order", [(3, 2, 1, 0), (1, 0, 3, 2), (0, 0, 1, 1), (2, -1, -4, 1)])
def test_any_order(problem, order):
    sweep, tensor, factors = problem
    for _ in range(2):
        for mode in order:
            result = assert_right(sweep, tensor, factors, mode)
            factors[mode] = result / result.norm()


def assert_seen(sweep, tensor, factors, write, mode):
    """All partial products are kept, then something is written, then one is asked for."""
    for m in (0, 1, 2, 3, 0):
        assert_right(sweep, tensor, factors, m)
    kept = sum(map(len, sweep._kept.values()))
    with torch.no_grad():
        before = ntensor.mttkrp(tensor, factors, mode)
        write()
        if not torch.equal(before, ntensor.mttkrp(tensor, factors, mode)):
            kept *= -1
    assert_right(sweep, tensor, factors, mode)
    return kept


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", [0, 1, 2, 3])
@pytest.mark.parametrize("place", [0, 2, 3])
def test_a_write_to_a_factor(problem, kind, place, mode, tmp_path):
    sweep, tensor, factors = problem
    factors[place], write = written(kind, factors[place], tmp_path)
    kept = assert_seen(sweep, tensor, factors, write, mode)
    assert kept == (SHARED if mode == place else -SHARED), "kept, and the factor counts"


@pytest.mark.parametrize("kind", VISIBLE)
@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_a_visible_write_to_the_tensor(problem, kind, mode, tmp_path):
    _, tensor, factors = problem
    tensor, write = written(kind, tensor, tmp_path)
    kept = assert_seen(ntensor.MttkrpSweep(tensor), tensor, factors, write, mode)
    assert kept == -SHARED


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_a_tensor_that_torch_cannot_vouch_for(problem, kind, mode, tmp_path):
    _, tensor, factors = problem
    tensor, write = written(kind, tensor, tmp_path)
    kept = assert_seen(ntensor.MttkrpSweep(tensor), tensor, factors, write, mode)
    assert kept == 0


@pytest.mark.parametrize("kind", [*INVISIBLE, *SWAPPED, *NAN])
@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_an_invisible_write_to_a_tensor_of_which_nothing_was_stated(problem, kind, mode, tmp_path):
    _, tensor, factors = problem
    tensor, write = written(kind, tensor.clone(), tmp_path)
    assert_seen(ntensor.MttkrpSweep(), tensor, factors, write, mode)


def test_other_memory_at_the_same_address(problem):
    """As an allocator may give it, once the first has gone; here it is one memory."""
    _, tensor, _ = problem
    before, address = module._state(tensor, None), tensor.data_ptr()
    assert module._state(tensor, None) == before
    other = torch.from_dlpack(tensor)
    tensor.data = other
    assert tensor.data_ptr() == address
    assert module._state(tensor, None) != before


def test_a_stated_tensor_cannot_be_swapped(problem):
    _, tensor, _ = problem
    with pytest.raises(RuntimeError, match="weakref"):
        torch.utils.swap_tensors(tensor, tensor.clone())


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0])
def test_equal_bits_are_equal_values(monkeypatch, problem, value):
    """NaN too: copies of the same factors find what was kept."""
    sweep, tensor, factors = problem
    factors[3][1, 1] = value
    seen = passes(monkeypatch)
    for mode in range(SHARED):
        assert_right(sweep, tensor, [f.clone() for f in factors], mode)
    assert seen.count("_partial") == 1
    factors[3][1, 1] = -value
    assert_right(sweep, tensor, factors, 0)


@pytest.mark.parametrize("rank", [1, 2])
def test_results_are_the_callers_own(rank, generator):
    assert module.shared_modes((3, 4, 40), rank) == 2
    tensor, *factors = make_inputs((3, 4, 40), rank, torch.float64, generator)
    sweep = ntensor.MttkrpSweep(tensor)
    for mode in (0, 1, 0, 1):
        assert_right(sweep, tensor, factors, mode).zero_()


def test_another_rank(problem, generator):
    sweep, tensor, factors = problem
    _, *others = make_inputs(SIZES, 1, torch.float64, generator)
    for mode in (0, 1, 2, 1, 0):
        for each in (factors, others):
            assert_right(sweep, tensor, each, mode)


def test_a_backend_does_not_use_what_another_made(monkeypatch, problem):
    sweep, tensor, factors = problem
    seen = passes(monkeypatch)
    assert_right(sweep, tensor, factors, 0, backend="native")
    assert_right(sweep, tensor, factors, 1, backend="native")
    assert seen == ["_partial"]
    assert_right(sweep, tensor, factors, 1, backend="reference")
    with ntensor.use_backend("native"):
        assert_right(sweep, tensor, factors, 1)
    assert seen.count("_partial") == 3


def test_a_precision_does_not_use_what_another_made(monkeypatch, problem):
    sweep, tensor, factors = problem
    seen = passes(monkeypatch)
    assert_right(sweep, tensor, factors, 0)
    setting = torch.backends.mkldnn.matmul
    before, setting.fp32_precision = setting.fp32_precision, "bf16"
    try:
        assert_right(sweep, tensor, factors, 1)
    finally:
        setting.fp32_precision = before
    assert seen.count("_partial") == 2


def test_two_tensors_in_turn(problem):
    sweep, tensor, factors = problem
    other = tensor.clone().mul_(2)
    for mode in range(4):
        for each in (tensor, other):
            assert_right(sweep, each, factors, mode)


def test_nothing_is_kept_of_a_tensor_that_is_gone(problem):
    _, tensor, factors = problem
    tensor = tensor.clone()
    sweep = ntensor.MttkrpSweep(tensor)
    sweep(tensor, factors, 0)
    assert sweep._kept
    del tensor
    gc.collect()
    assert not sweep._kept


def test_clear(monkeypatch, problem):
    sweep, tensor, factors = problem
    seen = passes(monkeypatch)
    for _ in range(2):
        assert_right(sweep, tensor, factors, 0)
        sweep.clear()
    assert seen.count("_partial") == 2


def test_a_copy_keeps_for_itself(problem):
    sweep, tensor, factors = problem
    assert_right(sweep, tensor, factors, 0)
    other = copy.deepcopy(sweep)
    changed = [2 * f for f in factors]
    for mode in range(4):
        assert_right(other, tensor, changed, mode)
        assert_right(sweep, tensor, factors, mode)


def test_a_call_within_a_call(monkeypatch, problem):
    """As of another thread: it finds nothing, and leaves nothing wrong."""
    sweep, tensor, factors = problem
    others = [f + 1 for f in factors]
    finish, nested = module._finish, []

    def interrupted(*arguments):
        if not nested:
            nested.append(True)
            for mode in range(SHARED):
                assert_right(sweep, tensor, others, mode)
        return finish(*arguments)

    monkeypatch.setattr(module, "_finish", interrupted)
    for mode in (0, 1, 2, 0):
        nested.clear()
        assert_right(sweep, tensor, factors, mode)


def test_threads(problem):
    sweep, tensor, factors = problem
    wrong = []

    def sweeps(scale):
        own = [scale * f for f in factors]
        for _ in range(50):
            for mode in range(4):
                result = sweep(tensor, own, mode)
                if not torch.allclose(result, definitions.mttkrp(tensor, own, mode)):
                    wrong.append((scale, mode))

    threads = [threading.Thread(target=sweeps, args=(scale,)) for scale in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_differentiable(problem, mode):
    """Twice over the same graph's leaves: a product that was kept would have lost its graph."""
    _, tensor, factors = problem
    leaves = [f.requires_grad_() for f in factors]
    wanted = [t for place, t in enumerate(leaves) if place != mode]
    sweep = ntensor.MttkrpSweep(tensor)
    with torch.no_grad():
        sweep(tensor, factors, 0)
    for _ in range(2):
        ours = torch.autograd.grad(sweep(tensor, factors, mode).sin().sum(), wanted)
        expected = definitions.mttkrp(tensor, factors, mode).sin().sum()
        torch.testing.assert_close(ours, torch.autograd.grad(expected, wanted))


def test_forward_mode(problem):
    """A dual factor has the value that was kept; its tangent was not."""
    sweep, tensor, factors = problem
    tangent = torch.ones_like(factors[3])
    for mode in range(SHARED):
        sweep(tensor, factors, 0)
        with forward_ad.dual_level():
            dual = [*factors[:3], forward_ad.make_dual(factors[3], tangent)]
            ours, expected = (
                forward_ad.unpack_dual(f(tensor, dual, mode)) for f in (sweep, definitions.mttkrp)
            )
        torch.testing.assert_close(ours, expected)


def test_transforms(problem):
    sweep, tensor, factors = problem
    sweep(tensor, factors, 0)

    def scaled(function, scale):
        return function(tensor, [*factors[:3], factors[3] * scale], 0)

    scales = torch.tensor([1.0, 2.0], dtype=torch.float64)
    ours, plain = (
        torch.func.vmap(functools.partial(scaled, f))(scales) for f in (sweep, ntensor.mttkrp)
    )
    torch.testing.assert_close(ours, plain)


def test_inference_mode(problem):
    sweep, tensor, factors = problem
    with torch.inference_mode():
        inside = [f.clone() for f in factors]
        assert_right(sweep, tensor, inside, 0)
        inside[3].mul_(2)
        assert_right(sweep, tensor, inside, 1)
        made = tensor.clone()
        stated = ntensor.MttkrpSweep(made)
        for mode in range(4):
            assert_right(stated, made, inside, mode)
            made.mul_(2)
    for mode in range(4):
        result = assert_right(sweep, tensor, inside, mode)
        assert not result.is_inference()


@pytest.mark.parametrize("mode", [2, -3, 0.5])
def test_errors_are_those_of_mttkrp(mode):
    tensor = torch.ones(2, 3)
    factors = [torch.ones(2, 4), torch.ones(3, 4)]
    with pytest.raises((TypeError, ValueError), match="mttkrp: mode must be"):
        ntensor.MttkrpSweep(tensor)(tensor, factors, mode)


def test_states_a_tensor():
    with pytest.raises(TypeError, match=r"MttkrpSweep: tensor must be a torch\.Tensor, got list"):
        ntensor.MttkrpSweep([1.0])
