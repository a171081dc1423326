"""Every error of the public functions by its message: operation, argument, wanted, got."""

import pytest

import ntensor
from ntensor import backends
from wrong_calls import WRONG, t


def of(operation):
    return getattr(ntensor, operation)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda w: f"{w.operation}: {w.name}")
def test_message(wrong):
    with pytest.raises(wrong.error) as raised:
        wrong.call(of(wrong.operation))
    message = str(raised.value)
    for word in (wrong.operation, *wrong.words):
        assert word in message, f"{word!r} is missing in {message!r}"


@pytest.mark.parametrize("wrong", WRONG, ids=lambda w: f"{w.operation}: {w.name}")
def test_no_backend_sees_a_wrong_argument(wrong, monkeypatch):
    """The public function raises before any kernel is chosen."""

    def unexpected(*_):
        raise AssertionError("a backend was asked")

    monkeypatch.setattr(ntensor.backends, "implementation", unexpected)
    with pytest.raises(wrong.error):
        wrong.call(of(wrong.operation))


CALLS = {
    "synthesis": lambda **k: ntensor.synthesis(t(2, 3), **k),
    "synthesis_projection": lambda **k: ntensor.synthesis_projection(t(4, 3), t(2, 3), **k),
    "synthesis_projection_with_mean": lambda **k: ntensor.synthesis_projection_with_mean(
        t(4, 3), t(2, 3), **k
    ),
    "rotation": lambda **k: ntensor.rotation(t(2, 6), t(2, 3, 3), **k),
    "rotated_synthesis": lambda **k: ntensor.rotated_synthesis(t(2, 2), t(2, 3), t(2, 3, 3), **k),
    "mttkrp": lambda **k: ntensor.mttkrp(t(2, 3), [None, t(3, 4)], 0, **k),
    "mttkrp_all": lambda **k: ntensor.mttkrp_all(t(2, 3), [t(2, 4), t(3, 4)], **k),
    "bilinear": lambda **k: ntensor.bilinear(t(2, 3), t(2, 4), t(5, 3, 4), **k),
}


@pytest.mark.parametrize("operation", CALLS)
def test_unknown_backend(operation):
    with pytest.raises(ValueError, match=r"backend.*native.*reference.*'cuda'"):
        CALLS[operation](backend="cuda")
    with pytest.raises(ValueError, match=r"backend.*native.*reference.*'cuda'"):
        ntensor.use_backend("cuda")


@pytest.mark.parametrize("operation", CALLS)
def test_backend_that_cannot_serve(operation, monkeypatch):
    """A forced backend raises with its reason and never hands over to another."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    backends.implementation.cache_clear()
    with pytest.raises(RuntimeError, match=r"cannot serve.*triton: .*CUDA"):
        CALLS[operation](backend="triton")
    with ntensor.use_backend("triton"), pytest.raises(RuntimeError, match=r"triton: .*CUDA"):
        CALLS[operation]()


def test_every_operation_has_its_calls():
    others = {"use_backend", "scratch_bytes", "kept_memory", "release_memory", "einsum_path"}
    # A contraction is torch's own product; a sweep is a class, and its calls are mttkrp's; an
    # einsum's errors are torch's (test_einsum.py).
    others |= {"contract", "MttkrpSweep", "einsum", "EinsumPath"}
    public = {name for name in ntensor.__all__ if callable(of(name))}
    assert others < public
    assert public - others == set(CALLS)
