"""TensorLy with `ntensor` registered: its own tests, its results, and what is left to it."""

import csv
import threading

import numpy as np
import pytest
import tensorly
import torch
from tensorly import tenalg
from tensorly.decomposition import non_negative_parafac_hals, parafac, randomised_parafac

import tensorly_cp
import tensorly_suite
from layouts import make
from ntensor.integrations import tensorly as integration

NAMES = ("unfolding_dot_khatri_rao", "khatri_rao")
SUBSET = (
    "decomposition/tests/test_cp.py::test_parafac_linesearch",
    "decomposition/tests/test_cp.py::test_masked_parafac",
    "decomposition/tests/test_cp.py::test_fixed_modes_not_rescaled_by_init_weights",
    "decomposition/tests/test_constrained_parafac.py::test_constrained_parafac_normalize",
    "tenalg/tests/test_khatri_rao.py",
    "tenalg/tests/test_unfolding_dot_khatri_rao.py",
    "tests/test_cp_tensor.py",
)


@pytest.fixture(autouse=True)
def torch_backend():
    with tensorly.backend_context("pytorch"):
        yield
    integration.unregister()
    tenalg.set_backend("core")


@pytest.fixture
def served(monkeypatch):
    """How often the library served, by kind."""
    counts = {"mttkrp": 0, "sweep": 0, "synthesis": 0}

    def counted(name, function):
        def call(*arguments, **keywords):
            result = function(*arguments, **keywords)
            counts[name] += result is not None
            return result

        return call

    for name in ("mttkrp", "synthesis"):
        monkeypatch.setattr(integration, name, counted(name, getattr(integration, name)))
    directly = integration.mttkrp_directly
    monkeypatch.setattr(integration, "mttkrp_directly", counted("mttkrp", directly))
    sweep = integration.MttkrpSweep.__call__
    monkeypatch.setattr(integration.MttkrpSweep, "__call__", counted("sweep", sweep))
    return counts


def methods():
    """Every function that TensorLy dispatches to, of each of its tenalg backends."""
    return {
        (backend, name): getattr(type(tenalg.load_backend(backend)), name)
        for backend in tenalg.available_backend_names
        for name in NAMES
    }


def problem(sizes=(4, 5, 6), rank=3, dtype=torch.float64, layout="contiguous", seed=0):
    generator = torch.Generator().manual_seed(seed)
    tensor = make(layout, sizes, dtype, generator)
    return tensor, [torch.randn(k, rank, dtype=dtype, generator=generator) for k in sizes]


def both(name, *arguments, **keywords):
    """The result of TensorLy alone and with the library registered; an error as its text."""

    def call():
        try:
            return getattr(tenalg, name)(*arguments, **keywords)
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    alone = call()
    with integration.register():
        return alone, call()


def test_register_and_unregister():
    before = methods()
    integration.register()
    during = methods()
    assert all(during[key] is not before[key] for key in before)
    assert {f.__name__ for f in during.values()} == set(NAMES)
    integration.register()
    assert methods() == during, "registered once"
    integration.unregister()
    assert methods() == before
    integration.unregister()
    assert methods() == before


def test_as_a_context_manager():
    before = methods()
    with pytest.raises(ZeroDivisionError), integration.register():
        assert methods() != before
        with integration.register():
            pass
        assert methods() != before, "the outer block holds on"
        raise ZeroDivisionError
    assert methods() == before


def test_a_later_registration_of_another_is_left():
    backend = type(tenalg.current_backend())
    before = backend.khatri_rao
    integration.register()
    try:
        backend.register_method("khatri_rao", len)
        integration.unregister()
        assert backend.khatri_rao is len
    finally:
        backend.register_method("khatri_rao", before)


@pytest.mark.parametrize("sharing", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("tenalg_backend", ["core", "einsum"])
@pytest.mark.parametrize("sizes", [(4, 5), (4, 5, 6), (3, 4, 5, 60)])
def test_mttkrp(served, sizes, tenalg_backend, weighted, sharing):
    tensor, factors = problem(sizes)
    weights = torch.rand(3, dtype=torch.float64) if weighted else None
    tenalg.set_backend(tenalg_backend)
    for mode in range(len(sizes)):
        arguments = tensor, (weights, factors), mode
        alone = tenalg.unfolding_dot_khatri_rao(*arguments)
        with integration.register(share_partials=sharing):
            ours = tenalg.unfolding_dot_khatri_rao(*arguments)
        torch.testing.assert_close(ours, alone)
    expected = 0 if weighted and len(sizes) == 2 else len(sizes)
    # Nothing is shared at these sizes, whether it may be or not.
    assert served["mttkrp"] == expected and not served["sweep"]


@pytest.mark.parametrize("permutation", [(2, 1, 0), (1, 0, 2), (0, 2, 1), (2, 0, 1)])
def test_permuted_tensor_without_a_copy(served, permutation):
    tensor, factors = problem()
    tensor, factors = tensor.permute(permutation), [factors[place] for place in permutation]
    for mode in range(3):
        alone, ours = both("unfolding_dot_khatri_rao", tensor, (None, factors), mode)
        torch.testing.assert_close(ours, alone)
    assert served["mttkrp"] == 3


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("skip", [None, 0, 2, -1, 7])
def test_khatri_rao(served, skip, weighted):
    _, factors = problem()
    weights = torch.rand(3, dtype=torch.float64) if weighted else None
    alone, ours = both("khatri_rao", factors, weights=weights, skip_matrix=skip)
    torch.testing.assert_close(ours, alone)
    assert served["synthesis"] == 1


def left_to_tensorly():
    tensor, factors = problem()
    single = [f.float() for f in factors]
    weights = torch.ones(3, dtype=torch.float64)
    arrays = [f.numpy() for f in factors]
    mttkrp, product = NAMES
    return {
        "numpy tensor": (mttkrp, (tensor.numpy(), (None, arrays), 0)),
        "mixed dtypes": (mttkrp, (tensor, (None, single), 0)),
        "integers": (mttkrp, (tensor.long(), (None, [f.long() for f in factors]), 0)),
        "complex": (mttkrp, (tensor + 1j, (None, [f + 1j for f in factors]), 1)),
        "a tensor with gaps": (mttkrp, (tensor[:, ::2], (None, [f[: len(f)] for f in factors]), 1)),
        "overlapping": (mttkrp, (tensor[:1].expand(4, 5, 6), (None, factors), 1)),
        "a negative mode": (mttkrp, (tensor, (None, factors), -1)),
        "a mode too large": (mttkrp, (tensor, (None, factors), 3)),
        "no mode": (mttkrp, (tensor, (None, factors), None)),
        "a factor too few": (mttkrp, (tensor, (None, factors[:2]), 0)),
        "a wrong extent": (mttkrp, (tensor, (None, factors[::-1]), 0)),
        "a wrong rank": (mttkrp, (tensor, (None, [*factors[:2], factors[2][:, :2]]), 0)),
        "a vector": (mttkrp, (tensor, (None, [*factors[:2], factors[2][:, 0]]), 0)),
        "two modes, weights": (mttkrp, (tensor[0], (2 * weights, factors[1:]), 0)),
        "weights of another rank": (mttkrp, (tensor, (weights[:2], factors), 0)),
        "a number as weights": (mttkrp, (tensor, (2.0, factors), 0)),
        "no pair": (mttkrp, (tensor, factors, 0)),
        "a mask": (product, (factors, None, None, torch.ones(120))),
        "one matrix": (product, (factors[:1],)),
        "one matrix left": (product, (factors[:2], None, 1)),
        "no matrix": (product, ([],)),
        "numpy matrices": (product, (arrays,)),
        "vectors": (product, ([f[:, 0] for f in factors],)),
        "three dimensions": (product, ([*factors[:2], tensor],)),
        "another number of columns": (product, ([*factors[:2], factors[2][:, :2]],)),
        "an iterator": (product, (iter(factors),)),
    }


@pytest.mark.filterwarnings("ignore:Khatri-rao of a series of vectors")
@pytest.mark.parametrize("case", left_to_tensorly())
def test_left_to_tensorly(served, case):
    """The result, or the error, is TensorLy's own."""
    name, arguments = left_to_tensorly()[case]
    if "numpy" in case:
        tensorly.set_backend("numpy")
    alone, ours = both(name, *arguments)
    assert type(ours) is type(alone)
    if isinstance(alone, str):
        assert ours == alone
    else:
        torch.testing.assert_close(torch.as_tensor(ours), torch.as_tensor(alone))
    assert not any(served.values())


@pytest.mark.parametrize("other", [None, torch.ones(7, 2), "no tensor"])
def test_the_factor_at_the_mode_is_not_read(served, other):
    tensor, factors = problem((3, 4, 5, 60))
    expected = tenalg.unfolding_dot_khatri_rao(tensor, (None, factors), 1)
    factors[1] = other
    with integration.register():
        ours = tenalg.unfolding_dot_khatri_rao(tensor, (None, factors), 1)
    torch.testing.assert_close(ours, expected)
    assert served["mttkrp"] == 1


def test_gradients_flow():
    tensor, factors = problem((3, 4, 5, 60))
    leaves = [t.requires_grad_() for t in (tensor, *factors[1:])]

    def grads():
        result = tenalg.unfolding_dot_khatri_rao(tensor, (None, factors), 0)
        product = tenalg.khatri_rao(factors, skip_matrix=0)
        return torch.autograd.grad(result.sin().sum() + product.sin().sum(), leaves)

    alone = grads()
    with integration.register():
        for _ in range(2):
            torch.testing.assert_close(grads(), alone)


def planted(sizes, rank):
    _, factors = problem(sizes, rank)
    return tensorly.cp_to_tensor((None, [f.abs() for f in factors]))


@pytest.mark.parametrize("sharing", [False, True])
@pytest.mark.parametrize("sizes", [(6, 7, 30), (3, 4, 5, 60)])
@pytest.mark.parametrize("decompose", [parafac, non_negative_parafac_hals])
def test_decompositions(served, decompose, sizes, sharing):
    """The same factors and the same errors in every iteration."""
    tensor = planted(sizes, 3)
    options = {"n_iter_max": 12, "init": "random", "random_state": 1, "return_errors": True}
    alone = decompose(tensor, 3, tol=1e-12, **options)
    with integration.register(share_partials=sharing):
        ours = decompose(tensor, 3, tol=1e-12, **options)
    torch.testing.assert_close(ours[0].factors, alone[0].factors, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(torch.stack(ours[1]), torch.stack(alone[1]), rtol=1e-6, atol=1e-9)
    assert served["mttkrp"] >= 12 * len(sizes) and not served["sweep"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_equal_fit(dtype):
    tensor = planted((8, 9, 60), 2).to(dtype)

    def error():
        found = parafac(tensor, 2, n_iter_max=60, init="random", random_state=0, tol=0)
        return tensorly.norm(tensor - found.to_tensor()) / tensorly.norm(tensor)

    alone = error()
    with integration.register():
        ours = error()
    assert abs(ours - alone) < 1e-3


def test_numpy_and_masks_go_through():
    tensor = planted((4, 5, 6), 2)
    mask = (torch.rand(4, 5, 6) > 0.1).double()
    options = {"n_iter_max": 5, "init": "random", "random_state": 0}
    for decompose, keywords in ((parafac, {"mask": mask}), (randomised_parafac, {"n_samples": 50})):
        alone = decompose(tensor, 2, **options, **keywords)
        with integration.register():
            ours = decompose(tensor, 2, **options, **keywords)
        torch.testing.assert_close(ours.factors, alone.factors)
    tensorly.set_backend("numpy")
    with integration.register():
        found = parafac(tensor.numpy(), 2, **options)
    assert all(isinstance(f, np.ndarray) for f in found.factors)


def test_each_thread_has_its_own_sweep():
    """Two decompositions at once, of one tensor with different factors."""
    tensor = planted((3, 4, 5, 60), 2)
    options = {"n_iter_max": 10, "init": "random", "tol": 0}
    alone = [parafac(tensor, 2, random_state=seed, **options).factors for seed in (0, 1)]
    found = [None, None]

    def decompose(seed):
        found[seed] = parafac(tensor, 2, random_state=seed, **options).factors

    with integration.register():
        threads = [threading.Thread(target=decompose, args=(seed,)) for seed in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    torch.testing.assert_close(found, alone, rtol=1e-6, atol=1e-9)


@pytest.mark.skipif(  # Python 3.10 gets no later one
    tensorly.__version__.startswith("0.9."), reason="TensorLy 0.9 lacks one of the tests"
)
def test_own_tests_of_tensorly():
    """A part of what `tools/tensorly_suite.py` runs; what is green alone is green with us."""
    found = tensorly_suite.run_ways(tensorly_suite.WAYS, list(SUBSET))
    assert not tensorly_suite.broken(found), found["ntensor"]["output"][-4000:]
    assert all(found["ntensor"]["served"].values())
    assert not any(found["tensorly"]["served"].values())
    outcomes = found["ntensor"]["outcomes"]
    assert len(outcomes) >= 16
    assert outcomes.keys() == found["tensorly"]["outcomes"].keys()


def test_benchmark(tmp_path, capsys):
    """Every way of every small case reaches the same fit, and the files are written."""
    assert (
        tensorly_cp.main(["--quick", "--repeats", "1", "--threads", "1", "--out", str(tmp_path)])
        == 0
    )
    rows = list(csv.DictReader((tmp_path / "tensorly_cp.csv").open()))
    assert len(rows) == 5 * len(tensorly_cp.QUICK)
    assert not any(row["status"] for row in rows)
    assert (tmp_path / "tensorly_cp.png").stat().st_size > 0


def test_weights_of_a_single_matrix_are_left_out(served):
    """As by TensorLy's own function, whether or not the shortest way is open."""
    matrix, factors = torch.rand(3, 4), [torch.rand(3, 2), torch.rand(4, 2)]
    with integration.register():
        found = tenalg.unfolding_dot_khatri_rao(matrix, (torch.full((2,), 3.0), factors), 0)
    torch.testing.assert_close(found, matrix @ factors[1])
    assert not any(served.values())


@pytest.mark.parametrize("mode", [-1, 3, True, 1.0])
def test_modes_of_another_kind_are_left_to_tensorly(served, mode):
    tensor, factors = torch.rand(3, 4, 5), [torch.rand(k, 2) for k in (3, 4, 5)]

    def outcome():
        try:
            return tenalg.unfolding_dot_khatri_rao(tensor, (None, factors), mode)
        except Exception as error:
            return repr(error)

    alone = outcome()
    with integration.register():
        found = outcome()
    assert torch.equal(found, alone) if isinstance(alone, torch.Tensor) else found == alone
    assert served["mttkrp"] == 0
