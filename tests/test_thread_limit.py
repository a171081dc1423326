"""Threads of kernels for CPUs: torch's number, or a limit that holds in one thread for a while."""

import threading

import pytest
import tensorly
import torch
from tensorly import tenalg

from ntensor.backends.native.library import limit_threads, thread_count, threads_for
from ntensor.integrations import arrays
from ntensor.integrations import tensorly as integration


@pytest.fixture(autouse=True)
def two_threads():
    torch.set_num_threads(2)


def counts():
    """That of this thread, and of another."""
    seen = [thread_count()]
    thread = threading.Thread(target=lambda: seen.append(thread_count()))
    thread.start()
    thread.join()
    return seen


def test_a_limit():
    assert counts() == [2, 2]
    with limit_threads(1):
        assert counts() == [1, 2]
        with limit_threads(3):
            assert threads_for(1 << 40, 1) == 3
        assert threads_for(1 << 40, 1) == 1
    with pytest.raises(LookupError), limit_threads(1):
        raise LookupError
    assert counts() == [2, 2]


@pytest.mark.parametrize(
    ("kind", "alone", "expected"),
    [("array", 1 << 26, [1, 2]), ("array", 0, [2, 2]), ("tensor", 1 << 26, [2, 2])],
)
def test_short_calls_for_arrays_take_one_thread(monkeypatch, kind, alone, expected):
    """NumPy's BLAS has threads of its own, which wait in a loop."""
    seen = []

    def counting(*_):
        seen.extend(counts())
        raise LookupError

    for name in ("mttkrp", "mttkrp_directly"):
        monkeypatch.setattr(integration, name, counting)
    monkeypatch.setattr(arrays, "directly", counting)
    monkeypatch.setattr(arrays, "ALONE", alone)
    operands = [torch.ones(30, 40, 50), *(torch.ones(k, 16) for k in (30, 40, 50))]
    if kind == "array":
        operands = [operand.numpy() for operand in operands]
    backend = "numpy" if kind == "array" else "pytorch"
    with (
        tensorly.backend_context(backend),
        integration.register(share_partials=False),
        pytest.raises(LookupError),
    ):
        tenalg.unfolding_dot_khatri_rao(operands[0], (None, operands[1:]), 0)
    assert seen == expected
    assert counts() == [2, 2]
