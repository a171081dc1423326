"""`accumulate_core_grad` where several threads run backward on one core: no update is lost."""

import os
import threading

import pytest
import torch

import ntensor
from backends import each_backend
from ntensor.ops import accumulate

THREADS, STEPS = 4, 10


def in_threads(work):
    errors = []

    def guarded():
        try:
            work()
        except Exception as error:  # handed to the thread of the test
            errors.append(error)

    threads = [threading.Thread(target=guarded) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not errors
    assert not any(thread.is_alive() for thread in threads)


def whole_numbers(*shape):
    """Sums of them are exact in any order."""
    return torch.randint(-2, 3, shape).float()


@pytest.mark.parametrize("with_mean", [False, True])
@pytest.mark.parametrize(
    ("backend", "sizes", "k_x"),
    [("native", (8, 8, 16), 4000), ("native", (512,), 4000), ("reference", (4, 8, 16), 500)],
)
def test_every_update_arrives(backend, sizes, k_x, with_mean):
    project = ntensor.synthesis_projection_with_mean if with_mean else ntensor.synthesis_projection
    core = whole_numbers(k_x, *sizes).requires_grad_()
    core.grad = torch.zeros_like(core)
    z = [whole_numbers(3, k) for k in sizes]

    def backward(core, accumulate):
        x = project(core, *z, accumulate_core_grad=accumulate, backend=backend)
        x = x[0] if with_mean else x
        x.backward(torch.ones_like(x))

    once = core.detach().clone().requires_grad_()
    backward(once, False)
    in_threads(lambda: [backward(core, True) for _ in range(STEPS)])
    assert torch.equal(core.grad, THREADS * STEPS * once.grad)


def test_module_creates_one_gradient():
    """Two threads that find none do not replace each other's."""
    z = [whole_numbers(3, k) for k in (4, 8)]
    for _ in range(20):
        layer = ntensor.nn.MultilinearProjection((4, 8), 500, accumulate_core_grad=True)
        barrier = threading.Barrier(THREADS)

        def step(layer=layer, barrier=barrier):
            barrier.wait(30)
            layer(*z).sum().backward()

        in_threads(step)
        wide = torch.einsum("si,sj->ij", *(each.double() for each in z))
        assert torch.equal(layer.core.grad, (THREADS * wide).float().expand(500, 4, 8))


@each_backend
def test_backward_inside_of_backward(backend):
    """A hook of one backward runs another on the same core."""
    core = whole_numbers(5, 2, 3).requires_grad_()
    core.grad = torch.zeros_like(core)
    z = [torch.ones(4, k, requires_grad=True) for k in (2, 3)]

    def project():
        return ntensor.synthesis_projection(
            core, *z, accumulate_core_grad=True, backend=backend
        ).sum()

    once = [project]

    @z[0].register_hook
    def again(grad):
        with torch.enable_grad():
            if once:
                once.pop()().backward()

    project().backward()
    assert torch.equal(core.grad, torch.full_like(core, 8))


def test_backward_inside_of_the_addition():
    """As a finaliser may run it in the thread that holds the lock."""
    core = whole_numbers(5, 2, 3).requires_grad_()
    core.grad = torch.zeros_like(core)
    z = [torch.ones(4, k) for k in (2, 3)]
    x = ntensor.synthesis_projection(core, *z, accumulate_core_grad=True).sum()

    def backward():
        with accumulate._adding:
            x.backward()

    thread = threading.Thread(target=backward, daemon=True)
    thread.start()
    thread.join(30)
    assert torch.equal(core.grad, torch.full_like(core, 4))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_fork_while_another_thread_adds():
    """The child has no thread that would let go of the lock."""
    core = whole_numbers(5, 2, 3).requires_grad_()
    core.grad = torch.zeros_like(core)
    z = [torch.ones(4, k) for k in (2, 3)]
    held, done = threading.Event(), threading.Event()

    def hold():
        with accumulate._adding:
            held.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    child = os.fork()
    if child == 0:
        threading.Timer(20, lambda: os._exit(3)).start()
        torch.set_num_threads(1)
        ntensor.synthesis_projection(core, *z, accumulate_core_grad=True).sum().backward()
        os._exit(0 if torch.equal(core.grad, torch.full_like(core, 4)) else 2)
    _, status = os.waitpid(child, 0)
    done.set()
    thread.join(60)
    assert os.waitstatus_to_exitcode(status) == 0
