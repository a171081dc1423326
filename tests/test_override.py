"""Blocks that force a choice for the process, ended in any order: `use_backend`, SIMD level."""

import asyncio
import sys
import threading

import pytest
import torch

import ntensor
from ntensor import backends
from ntensor.backends.native import force_simd_level, simd_level
from ntensor.backends.native.library import cpu_module

LEVELS = cpu_module().simd_levels()


def backend_in_force():
    return backends.requested(None)


FORCED = {
    "use_backend": (ntensor.use_backend, backend_in_force, ("reference", "native")),
    "force_simd_level": (force_simd_level, simd_level, (LEVELS[-1], LEVELS[0])),
}


@pytest.fixture(params=FORCED)
def forced(request):
    force, in_force, values = FORCED[request.param]
    before = in_force()
    yield force, in_force, values
    assert in_force() == before


def test_blocks_that_overlap(forced):
    """The first leaves before the second; nothing stays in force."""
    force, in_force, (first, second) = forced
    before = in_force()
    a, b = force(first), force(second)
    a.__enter__()
    b.__enter__()
    assert in_force() == second
    a.__exit__(None, None, None)
    assert in_force() == second
    b.__exit__(None, None, None)
    assert in_force() == before


def test_the_outer_block_holds_where_the_inner_one_leaves(forced):
    force, in_force, (first, second) = forced
    with force(first):
        with pytest.raises(ZeroDivisionError), force(second):
            raise ZeroDivisionError
        assert in_force() == first


def test_threads_in_turn(forced):
    """A enters, B enters, A leaves, B leaves, each in its own thread."""
    force, in_force, (first, second) = forced
    before, seen = in_force(), []
    entered, left = threading.Event(), threading.Event()

    def a():
        with force(first):
            entered.set()
            left.wait(10)
        left.clear()

    def b():
        entered.wait(10)
        with force(second):
            left.set()
            thread.join(10)
            seen.append(in_force())
        seen.append(in_force())

    thread = threading.Thread(target=a)
    other = threading.Thread(target=b)
    thread.start()
    other.start()
    other.join(20)
    assert seen == [second, before]


def test_generators(forced):
    """A generator leaves its block when it is closed, which may be late."""
    force, in_force, (first, second) = forced

    def block(value):
        with force(value):
            yield

    early, late = block(first), block(second)
    next(early)
    next(late)
    early.close()
    assert in_force() == second
    late.close()


def test_tasks(forced):
    force, _, (first, second) = forced

    async def block(value, wait):
        with force(value):
            await asyncio.sleep(wait)

    async def both():
        await asyncio.gather(block(first, 0.01), block(second, 0.03))

    asyncio.run(both())


def test_many_threads(forced):
    force, _, values = forced
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def enter_and_leave(value):
        for _ in range(300):
            with force(value):
                pass

    threads = [threading.Thread(target=enter_and_leave, args=(values[i % 2],)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(interval)


def test_one_object_entered_twice():
    block = ntensor.use_backend("reference")
    with block, ntensor.use_backend("native"), block:
        assert backend_in_force() == "reference"
    with block:
        with ntensor.use_backend("native"):
            with block:
                pass
            assert backend_in_force() == "native"
        assert backend_in_force() == "reference"
    assert backend_in_force() is None


def test_compiled_code(fresh_compiler):
    """It sees the choice inside and outside of its region, and is compiled once a choice."""
    z = [torch.ones(2, 3), torch.ones(2, 4)]
    graphs = []

    def keep(module, _):
        calls = [n for n in module.graph.nodes if n.target is torch.ops.ntensor.synthesis.default]
        graphs.append([node.args[1] for node in calls])
        return module

    def outside(a, b):
        return ntensor.synthesis(a, b)

    compiled = torch.compile(outside, backend=keep, fullgraph=True)
    for name in (None, "reference", "native", None, "reference"):
        with ntensor.use_backend(name):
            compiled(*z)
    compiled(*z)
    assert graphs == [[None], ["reference"], ["native"]]

    def inside(a, b):
        with ntensor.use_backend("reference"):
            y = ntensor.synthesis(a, b)
        return y + ntensor.synthesis(a, b)

    graphs.clear()
    torch.compile(inside, backend=keep, fullgraph=True)(*z)
    assert graphs == [["reference", None]]
    assert backend_in_force() is None
