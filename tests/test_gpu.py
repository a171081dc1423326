"""Every operation on a GPU: values against float64, and the rules of a citizen of the device."""

import functools
import math
import threading

import pytest
import torch

import definitions
import ntensor
from cases import PUBLIC, REGISTERED, Maker
from comparison import assert_values
from gpu_tools import (
    each_backend,
    each_dtype,
    forward_and_backward,
    made,
    moved,
    projection_inputs,
    require,
)
from layouts import LAYOUTS
from shapes import MTTKRP, PROJECTION, ROTATION, SYNTHESIS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="needs a CUDA device, and torch finds none"
    ),
]

OPERATIONS = ("synthesis_projection", "synthesis_projection_with_mean")
each_operation = pytest.mark.parametrize("operation", OPERATIONS)
PAPER = (12288, (9, 15, 80))


def pair_of(operation, backend):
    """The operation and its definition."""
    ours = functools.partial(getattr(ntensor, operation), backend=backend)
    return ours, getattr(definitions, operation)


@pytest.fixture
def device():
    return torch.device("cuda", 0)


@each_backend
@each_dtype
@pytest.mark.parametrize("case", PUBLIC, ids=str)
def test_every_operation(case, backend, dtype, device):
    require(backend, device, dtype)
    inputs = [moved(t, device) for t in case.inputs(dtype, requires_grad=False)]
    outputs = case.function(*inputs, backend="reference")
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    cotangents = [torch.randn_like(output) for output in outputs]
    ours = functools.partial(case.function, backend=backend)
    assert_values(ours, case.definition, inputs, cotangents)


@each_backend
@each_dtype
@each_operation
@pytest.mark.parametrize("shape", PROJECTION, ids=str)
def test_projection_shapes(operation, backend, dtype, shape, device):
    require(backend, device, dtype)
    inputs, grads = projection_inputs(shape.n, shape.k_x, shape.sizes, dtype, device)
    outputs = 1 + operation.endswith("mean")
    assert_values(*pair_of(operation, backend), inputs, grads[:outputs])


@each_backend
@each_dtype
@pytest.mark.parametrize("shape", SYNTHESIS, ids=str)
def test_synthesis_shapes(backend, dtype, shape, device, generator):
    require(backend, device, dtype)
    factors = [made("contiguous", (shape.n, k), dtype, generator, device) for k in shape.sizes]
    K = math.prod(shape.sizes)
    grads = [made("contiguous", (shape.n, K), dtype, generator, device)]
    assert_values(*pair_of("synthesis", backend), factors, grads)


@each_backend
@each_dtype
@pytest.mark.parametrize("layout", ["column", "row"])
@pytest.mark.parametrize("shape", ROTATION, ids=str)
def test_rotation_shapes(backend, dtype, layout, shape, device, generator):
    require(backend, device, dtype)
    n, k_exp, k_id, _ = shape
    make = functools.partial(made, "contiguous", dtype=dtype, generator=generator, device=device)
    R, grad = make((n, 3, 3)), make((n, k_exp * k_id))
    for operation, inputs in (
        ("rotation", [make((n, k_exp * k_id)), R]),
        ("rotated_synthesis", [make((n, k_exp)), make((n, k_id)), R]),
    ):
        ours, definition = pair_of(operation, backend)
        assert_values(
            functools.partial(ours, layout=layout),
            functools.partial(definition, layout=layout),
            inputs,
            [grad],
        )


@each_backend
@each_dtype
@pytest.mark.parametrize(("sizes", "rank"), [case[:2] for case in MTTKRP], ids=str)
def test_mttkrp(backend, dtype, sizes, rank, device, generator):
    require(backend, device, dtype)
    tensor = made("contiguous", sizes, dtype, generator, device)
    factors = [made("contiguous", (k, rank), dtype, generator, device) for k in sizes]
    for mode in range(len(sizes)):
        others = [factor for place, factor in enumerate(factors) if place != mode]

        def arranged(function, tensor, *others, mode=mode, **options):
            return function(tensor, [*others[:mode], None, *others[mode:]], mode, **options)

        assert_values(
            functools.partial(arranged, ntensor.mttkrp, backend=backend),
            functools.partial(arranged, definitions.mttkrp),
            [tensor, *others],
            [made("contiguous", (sizes[mode], rank), dtype, generator, device)],
        )


@each_backend
@each_dtype
@each_operation
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(operation, backend, dtype, layout, device):
    """Factors and incoming gradients of any strides."""
    require(backend, device, dtype)
    for sizes in ((3, 17, 5), (2, 33, 32)):
        inputs, grads = projection_inputs(9, 6, sizes, dtype, device, layout=layout)
        outputs = 1 + operation.endswith("mean")
        assert_values(*pair_of(operation, backend), inputs, grads[:outputs])


@each_backend
@each_operation
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("n", [1, 16, 64, 256, 1024])
@pytest.mark.parametrize(("k_x", "sizes"), [PAPER, (28125, (15, 80)), (64, (9, 15, 80))], ids=str)
def test_sizes_of_the_paper(operation, backend, n, k_x, sizes, dtype, device):
    require(backend, device, dtype)
    inputs, grads = projection_inputs(n, k_x, sizes, dtype, device)
    outputs = 1 + operation.endswith("mean")
    assert_values(*pair_of(operation, backend), inputs, grads[:outputs])


@each_backend
def test_tf32_only_where_allowed(backend, device):
    """float32 is as accurate as torch's; with PyTorch's switch on it may be less."""
    require(backend, device)
    (core, *z), _ = projection_inputs(64, 256, (9, 15, 80), torch.float32, device)
    exact = definitions.synthesis_projection(core.double(), *(f.double() for f in z))

    def error():
        x = ntensor.synthesis_projection(core, *z, backend=backend)
        return ((x.double() - exact).norm() / exact.norm()).item()

    assert error() < 1e-6
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = "tf32"
        assert error() < 1e-2
    finally:
        matmul.fp32_precision = before
    assert error() < 1e-6


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
    shapes = outputs if isinstance(outputs, tuple) else (outputs,)
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


def test_device_of_the_inputs(device):
    """The current device is that of the inputs during the call, and the former one after it."""
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    require("triton", device)
    second = torch.device("cuda", 1)
    inputs, grads = projection_inputs(16, 100, (9, 15, 80), torch.float32, second)
    function = functools.partial(ntensor.synthesis_projection, backend="triton")
    with torch.cuda.device(0):
        results = forward_and_backward(function, inputs, grads)
        assert torch.cuda.current_device() == 0
    assert all(result.device == second for result in results)
    assert_values(*pair_of("synthesis_projection", "triton"), inputs, grads[:1])


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


ROWS = (0, 1, 2**19, 2**20 - 1)  # of the core of the tests below; the last begins beyond 2^31
FAR = (2**20, (3, 700))


def require_memory(device, count):
    free = torch.cuda.mem_get_info(device)[0]
    if free < count:
        pytest.skip(f"needs {count / 1e9:.0f} GB of free memory on the GPU, {free / 1e9:.0f} are")


@each_backend
@pytest.mark.parametrize("n", [3, 65])
def test_core_beyond_two_to_the_31(backend, n, device):
    require(backend, device, torch.bfloat16)
    require_memory(device, 16e9)
    k_x, sizes = FAR
    core = torch.randn(k_x, *sizes, dtype=torch.bfloat16, device=device)
    assert core.numel() > 2**31
    z = [torch.randn(n, k, dtype=torch.bfloat16, device=device) for k in sizes]
    y = definitions.synthesis(*(f.double() for f in z))
    x, x_mean = ntensor.synthesis_projection_with_mean(core, *z, backend=backend)
    mean = definitions.synthesis(torch.full_like(z[0], 1, dtype=torch.float64) / 3, z[1].double())
    for row in ROWS:
        flat = core[row].flatten().double()
        torch.testing.assert_close(x[:, row].double(), y @ flat, rtol=2**-6, atol=0.5)
        torch.testing.assert_close(x_mean[:, row].double(), mean @ flat, rtol=2**-6, atol=0.5)
    grad = torch.zeros(n, k_x, dtype=torch.bfloat16, device=device)
    grad[:, list(ROWS)] = 1
    d_core = torch.ops.ntensor.projection_core_grad(grad, None, z, backend)
    for row in ROWS:
        expected = y.sum(0).view(sizes)
        torch.testing.assert_close(d_core[row].double(), expected, rtol=2**-6, atol=0.1)
    assert torch.count_nonzero(d_core[2]) == 0
    needs = [True, True]
    joined = torch.ops.ntensor.projection_factor_grads(core, grad, None, z, needs, backend)
    total = core[list(ROWS)].double().sum(0)
    expected = torch.cat([z[1].double() @ total.T, z[0].double() @ total], 1)
    torch.testing.assert_close(joined.double(), expected, rtol=2**-6, atol=1.0)


@each_backend
def test_features_beyond_two_to_the_31(backend, device):
    require(backend, device, torch.bfloat16)
    require_memory(device, 24e9)
    n = 2**31 // 1200 + 5
    z = [torch.randn(n, k, dtype=torch.bfloat16, device=device) for k in (15, 80)]
    R = torch.randn(n, 3, 3, dtype=torch.bfloat16, device=device)
    rows = [0, n // 2, n - 1]
    few = [f[rows].double() for f in (*z, R)]
    y = ntensor.synthesis(*z, backend=backend)
    expected = definitions.synthesis(*few[:2])
    torch.testing.assert_close(y[rows].double(), expected, rtol=2**-7, atol=0)
    del y
    x = ntensor.rotated_synthesis(*z, R, backend=backend)
    expected = definitions.rotated_synthesis(*few)
    torch.testing.assert_close(x[rows].double(), expected, rtol=2**-6, atol=2**-5)
    needs = [True] * 3
    joined = torch.ops.ntensor.rotated_synthesis_grads(x, *z, R, "column", needs, backend)
    wanted = torch.ops.ntensor.rotated_synthesis_grads(
        x[rows], *(f[rows] for f in (*z, R)), "column", needs, "reference"
    )
    torch.testing.assert_close(joined[rows].double(), wanted.double(), rtol=2**-6, atol=2.0)
    turned = ntensor.rotation(x, R, backend=backend)
    wanted = ntensor.rotation(x[rows], R[rows], backend="reference")
    torch.testing.assert_close(turned[rows].double(), wanted.double(), rtol=2**-6, atol=2**-4)
