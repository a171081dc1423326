"""The clocks of the benchmarks, on a device that is imagined."""

import time

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fake_cuda import FakeCuda
from harness.timing import (
    LONGEST_CAPTURED_CALL,
    WARM_UPS,
    DeviceClock,
    HostClock,
    Step,
    Timed,
    rank,
)

CPU = torch.device("cpu")


def logged_step(cuda, seconds=0.0):
    def call(prepared):
        time.sleep(seconds)
        cuda.log.append(f"call {prepared}")

    def prepare():
        cuda.log.append("prepare")
        return 7

    finish = cuda.log.append
    return Step(call, lambda _: {}, prepare=prepare, finish=lambda: finish("finish"))


def test_replays_are_timed():
    cuda = FakeCuda()
    clock, step = DeviceClock(CPU, 64, cuda), logged_step(cuda)
    clock.record(step)
    assert cuda.log == ["prepare", "call 7", "finish"] * WARM_UPS + [
        *("capture", "prepare"),
        *("capture", "call 7"),
    ]
    cuda.log.clear()
    assert clock.sample(Timed(step, 1.0), single=False) == pytest.approx(2e-3)
    assert cuda.log == ["replay", "event", "replay", "event"]


def test_cache_is_flushed_before_the_first_event():
    cuda = FakeCuda()
    clock = DeviceClock(CPU, 64, cuda)

    class Noting(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            cuda.log.append((function.overloadpacket.__name__, arguments[0].nbytes))
            return function(*arguments, **(keywords or {}))

    with Noting():
        clock.events(lambda: cuda.log.append("call"))
    assert cuda.log == [("zero_", 64), ("sum", 64), "event", "call", "event"]


def test_what_cannot_be_captured_is_timed_eagerly():
    cuda = FakeCuda(capturable=False)
    clock, step = DeviceClock(CPU, 64, cuda), logged_step(cuda)
    replay = clock.record(step)
    wanted = "not capturable: RuntimeError: operation not permitted when stream is capturing"
    assert replay.eager_because == wanted
    assert cuda.log[-2:] == ["stream put back", "finish"]
    cuda.log.clear()
    clock.seconds(step)
    assert cuda.log == ["prepare", "event", "call 7", "finish", "event"]


def test_long_calls_are_not_captured():
    cuda = FakeCuda()
    replay = DeviceClock(CPU, 64, cuda).record(logged_step(cuda, 1.1 * LONGEST_CAPTURED_CALL))
    assert "longer than" in replay.eager_because
    assert "capture" not in cuda.log


def test_ranking_keeps_no_graph():
    cuda = FakeCuda()
    steps = {label: logged_step(cuda) for label in ("a", "b")}
    assert sorted(rank(steps, DeviceClock(CPU, 64, cuda))) == ["a", "b"]
    assert all(step.replay is None and step.note == label for label, step in steps.items())


def test_host_sample_is_the_second_of_two_calls():
    calls = []
    step = Step(calls.append, lambda _: {}, prepare=lambda: 1)
    HostClock().sample(Timed(step, 1.0), single=False)
    assert len(calls) == 2
    HostClock().sample(Timed(step, 1.0), single=True)
    assert len(calls) == 3
