"""Memory of large results: handed out again when nothing refers to it, and only then."""

import copy
import gc
import io
import threading

import pytest
import torch
from torch import multiprocessing

import ntensor
from ntensor.backends.native import memory

SHAPE = (3, 5, 7)
BYTES = 4 * 3 * 5 * 7
LIKE = torch.empty(0)


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    """Small results count as large; what other tests left is given back."""
    fills = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    monkeypatch.setattr(memory, "LARGE_BYTES", 64)
    monkeypatch.setattr(memory, "SPARE_BYTES", 0)
    monkeypatch.delenv("NTENSOR_KEPT_MEMORY", raising=False)
    gc.collect()
    ntensor.release_memory()
    assert ntensor.kept_memory() == (0, 0, None)
    yield
    gc.collect()
    ntensor.release_memory()
    torch.use_deterministic_algorithms(fills)


def empty(shape=SHAPE, like=LIKE):
    return memory.new_result(shape, like)


def test_what_is_released_is_handed_out_again():
    one = empty()
    assert one.shape == SHAPE and one.is_contiguous() and one.dtype is torch.float32
    place = one.data_ptr()
    assert ntensor.kept_memory() == (BYTES, 0, None)
    del one
    assert ntensor.kept_memory() == (0, BYTES, None)
    other = empty((35, 3))
    assert other.data_ptr() == place
    assert ntensor.kept_memory() == (BYTES, 0, None)
    half = empty((2 * 105,), torch.empty(0, dtype=torch.bfloat16))
    assert half.data_ptr() != place


KEEPERS = {
    "a view": lambda t: t[1],
    "a detached tensor": lambda t: t.detach(),
    "an array": lambda t: t.numpy(),
    "the storage": lambda t: t.untyped_storage(),
    "a typed storage": lambda t: t.storage(),
    "a saved tensor": lambda t: (torch.ones(SHAPE, requires_grad=True) * t).grad_fn,
    "a closure": lambda t: lambda: t,
    "a capsule": lambda t: torch.utils.dlpack.to_dlpack(t),
    "a parameter": lambda t: torch.nn.Parameter(t),
}


@pytest.mark.parametrize("name", KEEPERS)
@pytest.mark.filterwarnings("ignore:TypedStorage")
def test_what_is_referred_to_stays(name):
    one = empty().fill_(1)
    place, keeper = one.data_ptr(), KEEPERS[name](one)
    del one
    gc.collect()
    assert ntensor.kept_memory().used == BYTES
    other = empty().fill_(2)
    assert other.data_ptr() != place
    del keeper
    gc.collect()
    assert ntensor.kept_memory() == (BYTES, BYTES, None)
    assert empty().data_ptr() == place


def test_what_is_another_size_or_shared_is_not_handed_out():
    one = empty()
    one.untyped_storage().resize_(0)
    del one
    two = empty()
    assert two.numel() == 105 and two.untyped_storage().nbytes() == BYTES
    two.share_memory_()
    place = two.data_ptr()
    del two
    assert empty().data_ptr() != place


def test_a_block_holds_nothing_beside_its_result():
    one = empty((1000,))
    del one
    small = empty((999,))
    assert small.untyped_storage().nbytes() == 3996


def test_the_last_one_is_handed_out_first():
    """It may still be in a cache."""
    one, two = empty(), empty()
    last = two.data_ptr()
    del one, two
    assert empty().data_ptr() == last


def test_no_more_is_held_than_was_in_use():
    for size in (1000, 2000, 3000, 4000, 900, 5000, 300):
        one = empty((size,))
        used, free, _ = ntensor.kept_memory()
        assert used >= 4 * size
        assert used + free <= 4 * 5000
        del one
    many = [empty((1000,)) for _ in range(5)]
    del many
    assert ntensor.kept_memory().free <= 4 * 5 * 1000 + 4 * 5000
    assert ntensor.release_memory() > 0
    assert ntensor.kept_memory() == (0, 0, None)


def test_results_that_are_not_alive_at_the_same_time(monkeypatch):
    """With room to spare none pushes out another one."""
    sizes = (1000, 1500, 900, 1200)

    def places():
        return [empty((size,)).data_ptr() for size in sizes]

    monkeypatch.setattr(memory, "SPARE_BYTES", 4 * 3600)
    assert places() == places() == places()
    assert ntensor.kept_memory() == (0, 4 * sum(sizes), None)
    monkeypatch.setattr(memory, "SPARE_BYTES", 0)
    empty((1600,))
    assert ntensor.kept_memory() == (0, 4 * 1600, None)


@pytest.mark.parametrize(("most", "kept"), [("0", 0), (str(BYTES - 1), 0), (str(BYTES), BYTES)])
def test_the_bound(most, kept, monkeypatch):
    monkeypatch.setenv("NTENSOR_KEPT_MEMORY", most)
    pair = empty(), empty()
    assert pair[0].data_ptr() != pair[1].data_ptr()
    del pair
    assert ntensor.kept_memory() == (0, kept, int(most))


@pytest.mark.parametrize("text", ["-1", "1e9", "2 GB", "none", "१"])
def test_a_bound_that_is_none(text, monkeypatch):
    monkeypatch.setenv("NTENSOR_KEPT_MEMORY", text)
    with pytest.raises(RuntimeError, match=r"NTENSOR_KEPT_MEMORY: wanted a number of bytes.*got"):
        empty()


def test_deterministic_algorithms_fill_their_own_memory():
    torch.use_deterministic_algorithms(True)
    assert empty().isnan().all()
    assert ntensor.kept_memory() == (0, 0, None)


def test_where_there_is_no_more_memory(monkeypatch):
    """What is free is given back, and the call succeeds."""
    one = empty()
    del one
    make, refusals = torch.empty, [RuntimeError("not enough memory: you tried to allocate")]

    def refuse(*shape, **options):
        if options.get("dtype") is torch.uint8 and refusals:
            raise refusals.pop()
        return make(*shape, **options)

    monkeypatch.setattr(torch, "empty", refuse)
    other = empty((1000,))
    assert other.numel() == 1000 and not refusals
    assert ntensor.kept_memory() == (4000, 0, None)


def step(core, z, seed):
    generator = torch.Generator().manual_seed(seed)
    grad = torch.randn(z[0].shape[0], core.shape[0], generator=generator)
    ntensor.synthesis_projection(core, *z, backend="native").backward(grad)
    return grad


def test_gradients_of_every_step():
    """Old content never shows, whoever holds old gradients."""
    core = torch.randn(40, 6, 50, requires_grad=True)
    z = [torch.randn(9, k) for k in (6, 50)]
    held = []
    for seed in range(6):
        core.grad = None
        grad = step(core, z, seed)
        wanted = torch.einsum("nx,na,nb->xab", *(each.double() for each in (grad, *z)))
        torch.testing.assert_close(core.grad.double(), wanted, rtol=1e-4, atol=1e-4)
        if seed % 2:
            held.append((core.grad, wanted))
    for found, wanted in held:
        torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4)
    assert ntensor.kept_memory().used == 3 * core.nbytes


LARGE = {  # a result has 1 MiB or more, that of a synthesis 32
    "synthesis": ("na,nb->nab", (18000, 16), (18000, 30)),
    "synthesis_projection": ("xab,na,nb->nx", (300, 3, 4), (1000, 3), (1000, 4)),
    "core": ("xab,na,nb->nx", (100, 30, 100), (5, 30), (5, 100)),
    "factor": ("xab,na,nb->nx", (2, 70, 3), (4000, 70), (4000, 3)),
    "mttkrp": ("abc,ax,cx->bx", (30, 700, 40), (30, 400), (40, 400)),
    "einsum": ("gxab,gna,gnb->gnx", (3, 300, 3, 4), (3, 400, 3), (3, 400, 4)),
}


def large_call(name, operands, backend):
    options = {} if backend is None else {"backend": backend}
    if name == "synthesis":
        return ntensor.synthesis(*operands, **options).unflatten(1, (16, 30))
    if name == "mttkrp":
        return ntensor.mttkrp(operands[0], [operands[1], None, operands[2]], 1, **options)
    if name == "einsum":
        return ntensor.einsum(LARGE[name][0], *operands)
    return ntensor.synthesis_projection(*operands, **options)


@pytest.mark.parametrize("backend", [None, "native"])
@pytest.mark.parametrize("name", LARGE)
def test_large_results_of_every_operation(name, backend, monkeypatch):
    """By direct calls and the ordinary way: in the memory of the last ones, all of it written."""
    monkeypatch.setattr(memory, "LARGE_BYTES", 1 << 20)
    monkeypatch.setattr(memory, "SPARE_BYTES", 64 << 20)
    equation, *shapes = LARGE[name]
    operands = [torch.rand(shape, requires_grad=True) for shape in shapes]
    exact = [operand.detach().double().requires_grad_() for operand in operands]
    wanted = torch.einsum(equation, *exact)
    cotangent = torch.rand(wanted.shape)
    wanted = [wanted, *torch.autograd.grad(wanted, exact, cotangent.double())]
    places = []
    for _ in range(3):
        found = large_call(name, operands, backend)
        found = [found, *torch.autograd.grad(found, operands, cotangent)]
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)
        with torch.no_grad():
            for one in found:
                one.fill_(torch.nan)
        del found, one
        places.append({block.storage.data_ptr() for block in memory._blocks})
    assert places[0] and places[1] == places[0] == places[2]
    assert ntensor.kept_memory().used == 0


def test_saved_and_copied():
    one = empty().fill_(3)
    file = io.BytesIO()
    torch.save(one, file)
    file.seek(0)
    for other in (torch.load(file), copy.deepcopy(one), one.clone()):
        assert torch.equal(other, one) and other.data_ptr() != one.data_ptr()


def test_threads_get_memory_of_their_own():
    wrong = []

    def work(number):
        for _ in range(300):
            one = empty().fill_(number)
            two = empty().fill_(-number)
            if not (bool((one == number).all()) and bool((two == -number).all())):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(1 + number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert ntensor.kept_memory().used == 0


def _in_a_child(pipe):
    other = empty().fill_(5)
    pipe.send((bool((other == 5).all()), ntensor.kept_memory().used))


def test_a_forked_process_has_its_own():
    one = empty().fill_(1)
    del one
    here, there = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_in_a_child, args=(there,))
    child.start()
    assert here.recv() == (True, BYTES)
    child.join()
    assert child.exitcode == 0
    assert ntensor.kept_memory() == (0, BYTES, None)
