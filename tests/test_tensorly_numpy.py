"""TensorLy's NumPy backend with `ntensor` registered: results, memory, and what is left to it."""

import contextlib
import csv
import gc
import importlib
import weakref

import numpy as np
import pytest
import tensorly
import torch
from tensorly import tenalg
from tensorly.decomposition import non_negative_parafac_hals, parafac, parafac2

import tensorly_cp
import tensorly_suite
from ntensor.integrations import arrays
from ntensor.integrations import tensorly as integration

SUBSET = (
    "decomposition/tests/test_cp.py::test_parafac_linesearch",
    "decomposition/tests/test_cp.py::test_masked_parafac",
    "decomposition/tests/test_constrained_parafac.py::test_constrained_parafac_normalize",
    "tenalg/tests/test_khatri_rao.py",
    "tenalg/tests/test_unfolding_dot_khatri_rao.py",
    "tests/test_cp_tensor.py",
)


@pytest.fixture(autouse=True)
def numpy_backend():
    with tensorly.backend_context("numpy"):
        yield
    integration.unregister()
    tenalg.set_backend("core")


@pytest.fixture
def however_small(monkeypatch):
    """Everything that can be served is."""
    monkeypatch.setattr(arrays, "FORMED", 0)
    monkeypatch.setattr(arrays, "FORMED_FOR_MTTKRP", 0)


@pytest.fixture
def served(monkeypatch):
    """The tensors that the library was given, by kind."""
    seen = {"mttkrp": [], "synthesis": []}

    def noted(name, function):
        def call(*arguments, **keywords):
            seen[name].append(arguments)
            return function(*arguments, **keywords)

        return call

    for name in seen:
        monkeypatch.setattr(integration, name, noted(name, getattr(integration, name)))
    directly = arrays.directly

    def noted_if_served(*arguments):
        result = directly(*arguments)
        if result is not None:
            seen["mttkrp"].append(arguments)
        return result

    monkeypatch.setattr(arrays, "directly", noted_if_served)
    sweep = integration.MttkrpSweep.__call__
    monkeypatch.setattr(
        integration.MttkrpSweep,
        "__call__",
        lambda self, *given, **options: (
            seen["mttkrp"].append(given) or sweep(self, *given, **options)
        ),
    )
    return seen


def problem(sizes=(4, 5, 6), rank=3, dtype=np.float64, seed=0):
    generator = np.random.default_rng(seed)
    tensor = generator.standard_normal(sizes).astype(dtype)
    return tensor, [generator.standard_normal((k, rank)).astype(dtype) for k in sizes]


def in_float64(tensor, factors, mode, weights=None):
    """The definition, by NumPy's einsum."""
    letters = "abcdef"[: tensor.ndim]
    others = [place for place in range(tensor.ndim) if place != mode]
    terms = ",".join([letters, *(f"{letters[place]}r" for place in others)])
    result = np.einsum(
        f"{terms}->{letters[mode]}r",
        *(array.astype(np.float64) for array in (tensor, *(factors[place] for place in others))),
    )
    return result if weights is None else result * weights


def both(name, *arguments):
    """The result of TensorLy alone and with the library registered; an error as its text."""

    def call():
        try:
            return getattr(tenalg, name)(*arguments)
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    alone = call()
    with integration.register():
        return alone, call()


LAYOUTS = {
    "contiguous": lambda x: x,
    "Fortran": np.asfortranarray,
    "permuted": lambda x: np.ascontiguousarray(x.swapaxes(0, 1)).swapaxes(0, 1),
}
OF_FACTORS = {
    "contiguous": lambda f: f,
    "Fortran": np.asfortranarray,
    "columns of a larger one": lambda f: np.concatenate([f, f], 1)[:, : f.shape[1]],
    "every second row": lambda f: np.repeat(f, 2, 0)[::2],
    "backwards": lambda f: f[::-1].copy()[::-1],
}


@pytest.mark.usefixtures("however_small")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("sizes", [(4, 5, 6), (3, 4, 5, 20)])
def test_mttkrp(served, sizes, layout, dtype, weighted):
    """An array of the dtype that was given, without a copy of the tensor."""
    tensor, factors = problem(sizes, dtype=dtype)
    tensor = LAYOUTS[layout](tensor)
    weights = np.array([0.5, -2, 3], dtype) if weighted else None
    for mode in range(len(sizes)):
        with integration.register():
            found = tenalg.unfolding_dot_khatri_rao(tensor, (weights, factors), mode)
        assert type(found) is np.ndarray
        assert found.dtype == dtype
        assert found.flags.writeable
        rtol = 1e-5 if dtype is np.float32 else 1e-12
        exact = in_float64(tensor, factors, mode, weights)
        np.testing.assert_allclose(found, exact, rtol=rtol, atol=rtol * np.abs(exact).max())
    assert len(served["mttkrp"]) == len(sizes)
    assert all(given[0].data_ptr() == tensor.ctypes.data for given in served["mttkrp"])


@pytest.mark.usefixtures("however_small")
@pytest.mark.parametrize("layout", OF_FACTORS)
def test_layouts_of_factors(served, layout):
    tensor, factors = problem()
    factors = [OF_FACTORS[layout](factor) for factor in factors]
    for mode in range(3):
        alone, ours = both("unfolding_dot_khatri_rao", tensor, (None, factors), mode)
        np.testing.assert_allclose(ours, alone)
    alone, ours = both("khatri_rao", factors)
    np.testing.assert_allclose(ours, alone)
    assert type(ours) is np.ndarray
    assert len(served["mttkrp"]) == 3
    assert len(served["synthesis"]) == 1


@pytest.mark.usefixtures("however_small")
@pytest.mark.parametrize("other", [None, np.ones((7, 2)), "no array", np.ones((4, 3), np.int8)])
def test_the_factor_at_the_mode_is_not_read(served, other):
    tensor, factors = problem()
    exact = in_float64(tensor, factors, 0)
    with integration.register():
        found = tenalg.unfolding_dot_khatri_rao(tensor, (None, [other, *factors[1:]]), 0)
    np.testing.assert_allclose(found, exact)
    assert len(served["mttkrp"]) == 1


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("skip", [None, 0, 2, -1])
def test_khatri_rao(served, skip, weighted):
    _, factors = problem((50, 60, 70))
    weights = np.array([0.5, -2, 3]) if weighted else None
    alone, ours = both("khatri_rao", factors, weights, skip)
    np.testing.assert_allclose(ours, alone)
    assert len(served["synthesis"]) == (skip != 2)  # without the longest it is a small one


def left_to_tensorly():
    """Large enough to be served, but for one thing each."""
    tensor, factors = problem((30, 40, 80), 8)
    locked = tensor.copy()
    locked.flags.writeable = False
    swapped = tensor.astype(tensor.dtype.newbyteorder())
    tensors = [torch.from_numpy(factor) for factor in factors]
    mttkrp, product = "unfolding_dot_khatri_rao", "khatri_rao"
    return {
        "read-only": (mttkrp, (locked, (None, factors), 0)),
        "read-only factor": (
            mttkrp,
            (tensor, (None, [np.broadcast_to(f[:1], f.shape) for f in factors]), 0),
        ),
        "another byte order": (mttkrp, (swapped, (None, factors), 0)),
        "a subclass": (mttkrp, (tensor.view(np.recarray), (None, factors), 0)),
        "gaps": (mttkrp, (np.repeat(tensor, 2, 1)[:, ::2], (None, factors), 1)),
        "backwards": (mttkrp, (tensor[::-1], (None, factors), 1)),
        "integers": (mttkrp, (tensor.astype(int), (None, [f.astype(int) for f in factors]), 0)),
        "half": (mttkrp, (tensor.astype(np.float16), (None, factors), 0)),
        "complex": (mttkrp, (tensor + 1j, (None, [f + 1j for f in factors]), 0)),
        "two dtypes": (mttkrp, (tensor, (None, [f.astype(np.float32) for f in factors]), 0)),
        "factors of torch": (mttkrp, (tensor, (None, tensors), 0)),
        "a number as weights": (mttkrp, (tensor, (2.0, factors), 0)),
        "weights of another rank": (mttkrp, (tensor, (np.ones(3), factors), 0)),
        "a factor too few": (mttkrp, (tensor, (None, factors[:2]), 0)),
        "a missing factor": (mttkrp, (tensor, (None, [*factors[:2], None]), 0)),
        "a wrong extent": (mttkrp, (tensor, (None, factors[::-1]), 0)),
        "a mode too large": (mttkrp, (tensor, (None, factors), 3)),
        "a matrix": (mttkrp, (tensor[0], (None, factors[1:]), 0)),
        "small": (mttkrp, problem_of((10, 10, 10), 2)),
        "few rows formed": (mttkrp, problem_of((30, 3, 4000), 3, mode=2)),
        "no elements": (mttkrp, problem_of((30, 0, 4000), 3)),
        "a mask": (product, (factors, None, None, np.ones((60000, 1)))),
        "a small product": (product, ([f[:3] for f in factors],)),
        "two kinds": (product, ([factors[0], *tensors[1:]],)),
        "another number of columns": (product, ([*factors[:2], factors[2][:, :2]],)),
    }


def problem_of(sizes, rank, mode=0):
    tensor, factors = problem(sizes, rank)
    return tensor, (None, factors), mode


@pytest.mark.parametrize("case", left_to_tensorly())
def test_left_to_tensorly(served, case):
    """The result, or the error, is TensorLy's own; no warning is given."""
    name, arguments = left_to_tensorly()[case]
    alone, ours = both(name, *arguments)
    assert type(ours) is type(alone)
    assert not any(served.values())
    if isinstance(alone, str):
        assert ours == alone
    else:
        assert np.array_equal(ours, alone)


def test_what_is_left_is_served_without_its_one_thing(served):
    tensor, factors = problem((30, 40, 80), 8)
    both("unfolding_dot_khatri_rao", tensor, (None, factors), 0)
    both("khatri_rao", factors)
    assert all(len(calls) == 1 for calls in served.values())


def planted(sizes, rank, dtype=np.float64):
    _, factors = problem(sizes, rank, dtype)
    return tensorly.cp_to_tensor((None, [np.abs(factor) for factor in factors]))


OPTIONS = {"n_iter_max": 6, "init": "random", "random_state": 1, "return_errors": True}


@pytest.fixture
def passes(monkeypatch):
    """How often a partial product was made from a whole tensor."""
    made = []
    mttkrp_all = importlib.import_module("ntensor.ops.mttkrp_all")  # its name is a function's too
    partial = mttkrp_all._partial
    monkeypatch.setattr(
        mttkrp_all, "_partial", lambda *given: made.append(given) or partial(*given)
    )
    return made


@pytest.mark.usefixtures("however_small", "shared_at_any_size")
@pytest.mark.parametrize("sharing", [False, True])
@pytest.mark.parametrize("decompose", [parafac, non_negative_parafac_hals])
def test_decompositions(served, passes, decompose, sharing):
    """The same factors and errors; modes share a product of each sweep, where they may."""
    tensor = planted((3, 4, 5, 60), 2)
    alone = decompose(tensor, 2, tol=1e-12, **OPTIONS)
    with integration.register(share_partials=sharing):
        ours = decompose(tensor, 2, tol=1e-12, **OPTIONS)
    for one, other in zip(ours[0].factors, alone[0].factors, strict=True):
        assert type(one) is np.ndarray
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(ours[1], alone[1], rtol=1e-6, atol=1e-9)
    assert len(served["mttkrp"]) >= 6 * 4
    assert len(passes) == (6 if sharing else 0)


@pytest.mark.usefixtures("however_small")
def test_parafac2(served):
    slices = [problem((k, 20), 1, seed=k)[0] for k in (7, 8, 9)]
    options = {"n_iter_max": 5, "init": "random", "random_state": 1, "normalize_factors": False}
    alone = parafac2(slices, 2, **options)
    with integration.register():
        ours = parafac2(slices, 2, **options)
    for one, other in zip(ours.factors, alone.factors, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-8)
    assert served["mttkrp"]


@pytest.mark.usefixtures("however_small", "shared_at_any_size")
def test_writes_are_seen(passes):
    """Before a decomposition, between two, and in the callback of one: nobody counts them."""
    options = {"n_iter_max": 4, "init": "random", "random_state": 1, "tol": 1e-30}

    def twice(register):
        tensor = planted((3, 4, 5, 60), 2)

        def change(*_):
            tensor[...] *= 1.5
            tensor[0] += 1

        results = []
        with register():
            for _ in range(2):
                found = parafac(tensor, 2, callback=change, **options)
                results.append([factor.copy() for factor in found.factors])
                tensor[...] = tensor[::-1].copy()
        return results

    alone, ours = twice(contextlib.nullcontext), twice(integration.register)
    for one, other in zip(ours, alone, strict=True):
        for mine, theirs in zip(one, other, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-8)
    assert len(passes) == 2 * 4


@pytest.mark.usefixtures("however_small")
def test_the_array_is_not_held():
    """A decomposition over, its array can go, and what was kept of it goes with it."""
    tensor = planted((3, 4, 5, 60), 2)
    gone = weakref.ref(tensor)
    with integration.register():
        parafac(tensor, 2, n_iter_max=2, init="random", random_state=1)
        del tensor
        gc.collect()
        assert gone() is None


SWEEP = """
def sweep(array_of, factors, keep):
    for mode in range(3):
        array = array_of(mode)
        result = unfolding_dot_khatri_rao(array, (None, factors), mode)
        keep(array, result)
"""


@pytest.mark.usefixtures("however_small", "shared_at_any_size")
def test_another_array_at_the_same_address(passes):
    """Within one sweep: nothing of the one before is taken for it."""
    memory = bytearray(3 * 4 * 7 * 40 * 8)
    scope = {"__name__": "tensorly.decomposition.of_a_test"}
    scope["unfolding_dot_khatri_rao"] = tenalg.unfolding_dot_khatri_rao
    exec(SWEEP, scope)
    _, factors = problem((3, 4, 7, 40), 2)
    pairs = []

    def array_of(mode):
        array = np.frombuffer(memory).reshape(3, 4, 7, 40)
        array[...] = problem(array.shape, seed=mode)[0]
        return array

    def keep(array, result):
        pairs.append((result, in_float64(array, factors, len(pairs))))

    with integration.register():
        scope["sweep"](array_of, factors, keep)
    for found, exact in pairs:
        np.testing.assert_allclose(found, exact)
    assert len(passes) == 2  # the last mode shares nothing with a later one


def test_large_enough_to_share_by_itself(served, passes):
    """Without a hint about sizes, as a user calls it."""
    tensor = planted((64, 64, 1024), 10, np.float32)
    with integration.register():
        found = parafac(tensor, 10, n_iter_max=3, init="random", random_state=1)
    assert all(factor.dtype == np.float32 for factor in found.factors)
    assert served["mttkrp"]
    assert len(passes) == 3


@pytest.mark.slow
def test_own_tests_of_tensorly():
    """A part of what `tools/tensorly_suite.py --backend numpy` runs."""
    found = tensorly_suite.run_ways(tensorly_suite.WAYS, list(SUBSET), "numpy")
    assert not tensorly_suite.broken(found), found["ntensor"]["output"][-4000:]
    assert all(found["ntensor"]["served"].values())
    assert len(found["ntensor"]["outcomes"]) >= 12
    assert found["ntensor"]["outcomes"].keys() == found["tensorly"]["outcomes"].keys()


def test_benchmark(tmp_path):
    """Both ways of every small case reach the same fit; the list has twenty shapes."""
    options = ["--quick", "--numpy", "--repeats", "1", "--threads", "1", "--out", str(tmp_path)]
    assert tensorly_cp.main(options) == 0
    rows = list(csv.DictReader((tmp_path / "tensorly_numpy.csv").open()))
    assert [row["kind"] for row in rows] == ["rival", "ours"] * len(tensorly_cp.QUICK)
    assert not any(row["status"] for row in rows)
    assert len(set(tensorly_cp.NUMPY)) == 20
