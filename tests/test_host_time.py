"""What a call on a GPU does on the host, counted: calls of the compiled core, launches, tensors."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import cuda_shim
import host_time
import ntensor
from cuda_shim import native_on_the_shim
from ntensor import backends
from ntensor.backends import devices
from ntensor.backends.native import call, gpu
from ntensor.ops import direct

TOOL = Path(__file__).resolve().parents[1] / "tools" / "host_time.py"


def operands(n=16, k_x=64, sizes=(9, 15, 80)):
    generator = torch.Generator().manual_seed(0)
    core = torch.randn(k_x, *sizes, generator=generator)
    return [core, *(torch.randn(n, k, generator=generator) for k in sizes)]


@pytest.fixture
def counted(monkeypatch):
    """The calls of the compiled core's projection, while the kernels run on the shim."""
    made, found = cuda_shim.module(), []

    class Module:
        def __getattr__(self, name):
            return getattr(made, name)

        def projection(self, *job):
            lacking = made.projection(*job)
            found.append(lacking)
            return lacking

    call._scratch_bytes.clear()
    with native_on_the_shim():
        monkeypatch.setattr(gpu, "cuda_module", Module)
        yield found


def test_scratch_memory_is_asked_for_once(counted):
    """For each size; what is remembered may be too little and the result is right."""
    given = operands()
    first = ntensor.synthesis_projection(*given, backend="native")
    assert len(counted) == 2 and counted[0] > 0 and counted[1] is None
    again = ntensor.synthesis_projection(*given, backend="native")
    assert counted[2:] == [None] and torch.equal(first, again)
    ntensor.synthesis_projection_with_mean(*given, backend="native")
    ntensor.synthesis_projection(*operands(n=17), backend="native")
    ntensor.synthesis_projection(*(each.bfloat16() for each in given), backend="native")
    assert [lacking is None for lacking in counted[3:]] == [False, True] * 3
    counted.clear()
    for key in call._scratch_bytes:
        call._scratch_bytes[key] = 1
    again = ntensor.synthesis_projection(*given, backend="native")
    assert [lacking is None for lacking in counted] == [False, True] and torch.equal(first, again)


def test_what_is_remembered_is_bounded(counted, monkeypatch):
    monkeypatch.setattr(call, "MOST_KEPT_SIZES", 2)
    for n in range(15, 21):
        ntensor.synthesis_projection(*operands(n=n), backend="native")
        assert 0 < len(call._scratch_bytes) <= 2


def test_a_forward_by_triton(monkeypatch):
    """Two launches and the sum of the parts; no tensor beside the inner product and the parts."""
    from ntensor.backends.triton import projection, synthesis

    launched, allocated, empty = [], [], torch.empty
    for module in (projection, synthesis):
        monkeypatch.setattr(module, "launch", lambda made, *_: launched.append(made))
    monkeypatch.setattr(torch, "empty", lambda *s, **o: allocated.append(s) or empty(*s, **o))
    core, *z = operands()
    projection.synthesis_projection(core, z)
    assert len(launched) == 2 and len(allocated) == 2


def steps(call):
    """The functions, of Python and of C, that a call calls."""
    found = []
    for _ in range(2):  # the second time is as any later one
        found.clear()
        sys.setprofile(lambda _, event, __: found.append(event))
        try:
            call()
        finally:
            sys.setprofile(None)
    return sum(event in ("call", "c_call") for event in found)


def test_what_a_call_asks_is_asked_once():
    """The checks of a plain call on a GPU: what they take does not depend on the clock."""
    given = operands()
    with host_time.fake_native() as fake, fake.silent():
        checks = steps(lambda: ntensor.synthesis_projection(*given))
        core, *z = given
        serve = backends.implementation(
            "projection", "synthesis_projection", core.device, core.dtype, None
        )
        assert checks - steps(lambda: serve(core, z)) <= 35


def test_a_recorded_call_asks_no_more_than_that():
    given = operands()
    for each in given:
        each.requires_grad_()
    with host_time.fake_native() as fake, fake.silent():
        with torch.no_grad():
            alone = steps(lambda: ntensor.synthesis_projection(*given))
        assert steps(lambda: ntensor.synthesis_projection(*given)) - alone <= 12


def test_a_launch_is_prepared_once(monkeypatch):
    """For each size, dtype and answer of the switch of TF32; a call of it is short."""
    from ntensor.backends.triton import launch, projection, synthesis

    made, run = [], launch.prepared
    for module in (projection, synthesis):
        monkeypatch.setattr(module, "launch", lambda *_: None)
        monkeypatch.setattr(
            module, "prepared", lambda *a, **c: made.append(c) or run(*a, **c), raising=False
        )
    core, *z = operands(n=14)
    assert steps(lambda: projection.synthesis_projection(core, z)) <= 29
    assert len(made) == 2
    projection.synthesis_projection(core, operands(n=13)[1:])
    assert len(made) == 4
    monkeypatch.setattr(projection, "precision", lambda dtype, device: "tf32x3")
    projection.synthesis_projection(core, z)
    assert [constants.get("PRECISION") for constants in made[4:]] == ["tf32x3"]


def test_the_switch_of_tf32():
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        for given in ("tf32", "ieee"):
            matmul.fp32_precision = given
            assert gpu.allows_tf32() == (given == "tf32")
    finally:
        matmul.fp32_precision = before


def test_the_guard_of_the_device(monkeypatch):
    tensor = torch.empty(1)
    monkeypatch.setattr(devices, "_has_several", lambda: False)
    assert not isinstance(devices.on_device_of(tensor), torch.cuda.device_of)
    monkeypatch.setattr(devices, "_has_several", lambda: True)
    assert isinstance(devices.on_device_of(tensor), torch.cuda.device_of)


def test_the_command_makes_the_automatic_choice():
    """CPU tensors go the way of a GPU's: past the direct calls of the CPU's kernels."""
    given = operands()
    with host_time.fake_native() as fake:
        assert direct.project(given, False) is None
        assert ntensor.synthesis_projection(*given).shape == (16, 64)
        with fake.silent():
            assert ntensor.synthesis_projection(*given).shape == (16, 64)
    assert direct.project(given, False) is not None


@pytest.mark.parametrize("backend", ["triton", "native"])
def test_the_command(backend):
    words = [sys.executable, str(TOOL), "--backend", backend, "--rounds", "3"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    rows = [line for line in done.stdout.splitlines() if line.startswith(f"{backend}: ")]
    assert len(rows) == 4
    assert all(len([*map(float, row[67:].split())]) == 4 for row in rows)
