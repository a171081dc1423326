"""`scratch_bytes` of the backends for GPUs is what their calls allocate, byte for byte."""

import importlib
import itertools
import math

import pytest
import torch

import cuda_shim
import ntensor
from comparison import in_tuple
from side_by_side import allocations

OPS = torch.ops.ntensor
CPU = torch.device("cpu")
CASES = [
    ("synthesis", 7, (4, 5, 6), 1),
    ("synthesis", 3, (5,), 1),
    ("synthesis_projection", 5, (9, 15, 80), 24),
    ("synthesis_projection", 64, (15, 80), 40),
    ("synthesis_projection", 5, (7,), 3),
    ("synthesis_projection", 5, (2, 3, 7, 11, 13), 4),
    ("synthesis_projection_with_mean", 5, (3, 4, 100), 24),
    ("synthesis_projection_with_mean", 5, (1, 6, 5), 24),
    ("synthesis_projection_with_mean", 5, (2, 3, 7, 11, 13), 4),
    ("rotation", 5, (12,), 1),
    ("rotated_synthesis", 5, (4, 15), 1),
]
each_case = pytest.mark.parametrize(("operation", "n", "sizes", "k_x"), CASES, ids=str)
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def calls(operation, n, sizes, k_x, dtype, backend):
    """The forward pass and the parts of the backward pass."""

    def new(*shape):
        return torch.ones(shape, dtype=dtype)

    z, needs = [new(n, k) for k in sizes], [True] * len(sizes)
    y, R = new(n, math.prod(sizes)), new(n, 3, 3)
    if operation == "synthesis":
        yield lambda: OPS.synthesis(z, backend)
        yield lambda: OPS.synthesis_grads(y, z, needs, backend)
    elif operation == "rotation":
        yield lambda: OPS.rotation(y, R, "column", backend)
        yield lambda: OPS.rotation_matrix_grad(y, y, "column", backend)
    elif operation == "rotated_synthesis":
        yield lambda: OPS.rotated_synthesis(*z, R, "column", backend)
        yield lambda: OPS.rotated_synthesis_grads(y, *z, R, "column", [True] * 3, backend)
    else:
        core, x = new(k_x, *sizes), new(n, k_x)
        x_mean = new(n, k_x) if operation.endswith("mean") else None
        yield lambda: getattr(OPS, operation)(core, z, backend)
        yield lambda: OPS.projection_factor_grads(core, x, x_mean, z, needs, backend)
        yield lambda: OPS.projection_core_grad(x, x_mean, z, backend)


def beside_results(call):
    """The peak of what a call allocates, over the bytes that it returns."""
    results = call()
    results = in_tuple(results)
    return allocations(call).peak - sum(result.nbytes for result in results)


def said_by(package, *case):
    return importlib.import_module(f"ntensor.backends.{package}.scratch").scratch_bytes(*case, CPU)


@each_case
@each_dtype
def test_triton(operation, n, sizes, k_x, dtype, monkeypatch):
    for stem in ("projection", "rotation", "synthesis"):
        module = importlib.import_module(f"ntensor.backends.triton.{stem}")
        monkeypatch.setattr(module, "launch", lambda *_: None)
    case = (operation, n, sizes, k_x, dtype)
    taken = max(map(beside_results, calls(*case, "triton")))
    assert said_by("triton", *case) == taken


@each_case
@each_dtype
def test_cuda(operation, n, sizes, k_x, dtype):
    """A single factor is the business of torch's own matrix product. Nothing that a kernel writes
    is read, so none is run."""
    case = (operation, n, sizes, k_x, dtype)
    with cuda_shim.native_on_the_shim() as device, cuda_shim.recording() as launches:
        for device.multiprocessors in (1, 132):
            taken = max(map(beside_results, calls(*case, "native")))
            said = said_by("native", *case)
            assert said == taken or (len(sizes) == 1 and operation.startswith("synthesis_"))
    assert launches or len(sizes) == 1


def test_no_fill_without_the_mean():
    """The constant of the mean output is made only where a gradient of that output is given."""
    pytest.importorskip("triton")
    from torch.utils._python_dispatch import TorchDispatchMode

    from ntensor.backends.triton import projection

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names.append(func.name())
            return func(*args, **(kwargs or {}))

    core, G, z = (torch.empty(s, device="meta") for s in ((6, 3, 4, 5), (2, 6), (2, 12)))
    z = z.split([3, 4, 5], 1)
    for mean, wanted in ((None, False), (G, True)):
        names = []
        with Names():
            projection.projection_factor_grads(core, G, mean, list(z), [True] * 3)
            projection.projection_core_grad(G, mean, list(z))
        assert any("full" in name or "fill" in name for name in names) == wanted


def test_more_splits_take_more():
    """The rehearsal is that of the device: few samples are split between its multiprocessors."""
    from ntensor.backends.triton import launch

    taken = []
    for capability in ((8, 6), (9, 0)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(launch, "capability", lambda _, c=capability: c)
            case = ("synthesis_projection", 4, (9, 15, 80), 1024, torch.float32)
            taken.append(said_by("triton", *case))
    assert taken[0] < taken[1]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("synthesis", 4, (2, 3), None, torch.int8), TypeError, "dtype.*float32.*int8"),
        (("bilinear", 4, (2, 3)), ValueError, "operation.*rotated_synthesis.*'bilinear'"),
        (("synthesis_projection", 4, (2, 3)), ValueError, "out_features.*k_x.*None"),
        (("synthesis_projection", 5, (-3, 4), 7), ValueError, r"factor_sizes\[0\].*negative.*-3"),
        (("synthesis_projection", -5, (3, 4), 7), ValueError, "n must not be negative.*-5"),
        (("synthesis_projection", 5, (3, 4), -7), ValueError, "out_features.*negative.*-7"),
        (("synthesis_projection", 5, (3, 4.0), 7), TypeError, r"factor_sizes\[1\].*int.*float"),
        (("synthesis_projection", 5, 12, 7), TypeError, "factor_sizes.*sequence.*int"),
        (("synthesis_projection", "5", (3, 4), 7), TypeError, "n must be an int, got str"),
        (("synthesis_projection", 5, (3, 4), 7.5), TypeError, "out_features.*int.*float"),
        (("synthesis_projection", 5, (1,) * 70, 7), ValueError, "at most 63 factors.*70"),
        (("synthesis", 5, ()), ValueError, "at least one factor"),
        (("synthesis", 5, (2**40, 2**40)), ValueError, r"2\^48.*K = "),
        (("synthesis", 2**70, (2, 3)), ValueError, r"2\^48.*n = "),
        (("rotation", 5, (7,)), ValueError, "K must be divisible by 3, got K = 7"),
        (("rotation", 5, (3, 4)), ValueError, "factor_sizes must have 1 entries"),
        (("rotated_synthesis", 5, (6,)), ValueError, "factor_sizes must have 2 entries"),
    ],
)
def test_wrong_arguments(arguments, error, words):
    with pytest.raises(error, match=words):
        ntensor.scratch_bytes(*arguments)


def test_a_backend_that_cannot_serve(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(RuntimeError, match=r"no backend serves .* on cpu \(triton: .*CUDA"):
        ntensor.scratch_bytes("synthesis", 4, (2, 3), backend="triton")
    with pytest.raises(ValueError, match="native or triton, got 'reference'"):
        ntensor.scratch_bytes("synthesis", 4, (2, 3), backend="reference")


def test_nothing_is_nothing():
    for n, k_x, k in itertools.product((0, 3), (0, 3), (0, 3)):
        if 0 in (n, k_x, k):
            assert ntensor.scratch_bytes("synthesis_projection", n, (2, k), k_x) == 0
