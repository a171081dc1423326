"""The rules of a citizen of a GPU: streams, graphs, threads, devices, memory."""

import functools
import math
import threading

import pytest
import torch

import ntensor
from cases import PUBLIC, REGISTERED, Maker
from comparison import assert_values, in_tuple
from gpu_tools import (
    each_backend,
    each_dtype,
    each_operation,
    forward_and_backward,
    moved,
    on_a_gpu,
    pair_of,
    projection_inputs,
    require,
)

pytestmark = on_a_gpu


@each_backend
@each_dtype
@pytest.mark.parametrize(("n", "k_x"), [(16, 12288), (300, 500)])
def test_bitwise_the_same_from_run_to_run(backend, dtype, n, k_x, device):
    require(backend, device, dtype)
    inputs, grads = projection_inputs(n, k_x, (9, 15, 80), dtype, device)
    function = functools.partial(ntensor.synthesis_projection_with_mean, backend=backend)
    first = forward_and_backward(function, inputs, grads)
    for _ in range(10):
        for a, b in zip(first, forward_and_backward(function, inputs, grads), strict=True):
            assert torch.equal(a, b)


@each_backend
def test_current_stream(backend, device):
    """Inputs that are still being written in a side stream are read after they are written."""
    require(backend, device)
    inputs, grads = projection_inputs(64, 512, (9, 15, 80), torch.float32, device)
    function = functools.partial(ntensor.synthesis_projection, backend=backend)
    expected = forward_and_backward(function, inputs, grads)
    torch.cuda.synchronize(device)
    stream = torch.cuda.Stream(device)
    with torch.cuda.stream(stream):
        late = [torch.zeros_like(t) for t in inputs]
        torch.cuda._sleep(200_000_000)
        for to, source in zip(late, inputs, strict=True):
            to.copy_(source)
        results = forward_and_backward(function, late, grads)
    torch.cuda.synchronize(device)
    for a, b in zip(results, expected, strict=True):
        assert torch.equal(a, b)


@each_backend
@each_dtype
def test_no_synchronisation(backend, dtype, device):
    require(backend, device, dtype)
    inputs, grads = projection_inputs(16, 512, (9, 15, 80), dtype, device)
    function = functools.partial(ntensor.synthesis_projection_with_mean, backend=backend)
    forward_and_backward(function, inputs, grads)
    torch.cuda.set_sync_debug_mode("error")
    try:
        forward_and_backward(function, inputs, grads)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@each_backend
@each_dtype
@pytest.mark.parametrize("case", PUBLIC, ids=str)
def test_graph_capture_and_replay(case, backend, dtype, device):
    """A captured forward and backward gives, on new inputs, what a fresh call gives."""
    require(backend, device, dtype)
    function = functools.partial(case.function, backend=backend)
    held = [moved(t, device) for t in case.inputs(dtype, requires_grad=False)]
    outputs = function(*held)
    shapes = in_tuple(outputs)
    grads = [torch.ones_like(output) for output in shapes]
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(3):
            forward_and_backward(function, held, grads)
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = forward_and_backward(function, held, grads)
    for seed in (1, 2):
        fresh = [moved(t, device) for t in case.inputs(dtype, requires_grad=False, seed=seed)]
        for to, source in zip(held, fresh, strict=True):
            to.copy_(source)
        graph.replay()
        expected = forward_and_backward(function, fresh, grads)
        torch.cuda.synchronize(device)
        for a, b in zip(captured, expected, strict=True):
            assert torch.equal(a, b)


@each_backend
def test_two_threads(backend, device):
    """Each thread in its own stream, with its own inputs."""
    require(backend, device)
    function = functools.partial(ntensor.synthesis_projection_with_mean, backend=backend)
    problems = [
        projection_inputs(n, 300, (9, 15, 80), torch.float32, device, seed=n) for n in (16, 64)
    ]
    expected = [forward_and_backward(function, *problem) for problem in problems]
    torch.cuda.synchronize(device)
    found, errors = [None, None], []

    def work(place):
        try:
            stream = torch.cuda.Stream(device)
            with torch.cuda.stream(stream):
                for _ in range(20):
                    found[place] = forward_and_backward(function, *problems[place])
            stream.synchronize()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    for results, wanted in zip(found, expected, strict=True):
        for a, b in zip(results, wanted, strict=True):
            assert torch.equal(a, b)


@each_backend
def test_mixed_devices(backend, device):
    require(backend, device)
    core, z = torch.zeros(4, 2, 3, device=device), [torch.zeros(5, k) for k in (2, 3)]
    with pytest.raises(ValueError, match=r"factors\[0\] must be on the device of core, cuda"):
        ntensor.synthesis_projection(core, *z, backend=backend)
    with pytest.raises((ValueError, RuntimeError)):
        torch.ops.ntensor.synthesis_projection(core, [z[0].to(device), z[1]], backend)


@each_backend
def test_device_of_the_inputs(backend, device):
    """The current device is that of the inputs during the call, and the former one after it."""
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    require(backend, device)
    second = torch.device("cuda", 1)
    inputs, grads = projection_inputs(16, 100, (9, 15, 80), torch.float32, second)
    function = functools.partial(ntensor.synthesis_projection, backend=backend)
    with torch.cuda.device(0):
        results = forward_and_backward(function, inputs, grads)
        assert torch.cuda.current_device() == 0
    assert all(result.device == second for result in results)
    assert_values(*pair_of("synthesis_projection", backend), inputs, grads[:1])


@each_backend
@pytest.mark.parametrize("registered", REGISTERED, ids=str)
def test_registration(registered, backend, device):
    """The real kernel gives the shapes, strides and gradients that the fake one promises."""
    require(backend, device)

    class OnDevice(Maker):
        def __call__(self, *shape, layout=None):
            tensor = super().__call__(*shape, layout=layout)
            return moved(tensor, device).requires_grad_(tensor.requires_grad)

    for sample in registered.samples:
        arguments = sample(OnDevice(torch.float32, "contiguous", True), 2)
        torch.library.opcheck(registered.op, (*arguments, backend))


@each_backend
def test_compiled(backend, device, fresh_compiler):
    require(backend, device)
    inputs, grads = projection_inputs(16, 100, (9, 15, 80), torch.float32, device)
    function = functools.partial(ntensor.synthesis_projection_with_mean, backend=backend)
    compiled = torch.compile(function, fullgraph=True)
    for a, b in zip(
        forward_and_backward(compiled, inputs, grads),
        forward_and_backward(function, inputs, grads),
        strict=True,
    ):
        assert torch.equal(a, b)


@each_backend
def test_accumulated_core_gradient(backend, device):
    require(backend, device)
    (core, *z), (grad, _) = projection_inputs(64, 500, (9, 15, 80), torch.float32, device)
    core.requires_grad_()
    core.grad = torch.ones_like(core)
    x = ntensor.synthesis_projection(core, *z, accumulate_core_grad=True, backend=backend)
    x.backward(grad)
    expected = 1 + torch.einsum("nx,nl,ne,ni->xlei", *(t.double() for t in (grad, *z)))
    torch.testing.assert_close(core.grad.double(), expected, rtol=1e-5, atol=1e-4)


@each_backend
@each_operation
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_no_array_of_n_K_elements(operation, backend, dtype, device):
    """The peak over inputs, outputs and gradients stays below the Khatri-Rao product."""
    require(backend, device, dtype)
    n, k_x, sizes = 4096, 64, (9, 15, 80)
    inputs, grads = projection_inputs(n, k_x, sizes, dtype, device)
    function = functools.partial(getattr(ntensor, operation), backend=backend)
    forward_and_backward(function, inputs, grads)
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    forward_and_backward(function, inputs, grads)
    peak = torch.cuda.max_memory_allocated(device) - before
    assert peak < n * math.prod(sizes) * dtype.itemsize
