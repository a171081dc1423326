"""Autocast: the public function casts first, in eager mode and under the compiler."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch.autograd.graph import saved_tensors_hooks

import ntensor
from backends import each_backend
from cases import PUBLIC
from comparison import in_tuple

HALVES = [torch.bfloat16, torch.float16]
each_case = pytest.mark.parametrize("case", PUBLIC, ids=str)
each_half = pytest.mark.parametrize("half", HALVES, ids=str)


def run(function, inputs):
    outputs = in_tuple(function(*inputs))
    return outputs, torch.autograd.grad(sum(o.float().sum() for o in outputs), inputs)


def dtype_of(case, half):
    """Of the outputs for operands of float32: for `bilinear` the widest dtype, as torch has it."""
    return torch.float32 if case.name.startswith("bilinear") else half


def cast_by_hand(case, backend, half):
    dtype = dtype_of(case, half)
    return lambda *t: case.function(*(x.to(dtype) for x in t), backend=backend)


@each_backend
@each_case
@each_half
def test_equals_a_cast_by_hand(case, backend, half):
    """Outputs in the dtype of the operation, gradients in that of the inputs."""
    inputs = case.inputs(torch.float32)
    expected = run(cast_by_hand(case, backend, half), inputs)
    with torch.autocast("cpu", dtype=half):
        outputs, grads = run(functools.partial(case.function, backend=backend), inputs)
    assert all(o.dtype == dtype_of(case, half) for o in outputs)
    assert all(g.dtype == torch.float32 for g in grads)
    torch.testing.assert_close((outputs, grads), expected)


@each_case
def test_mixed_dtypes_only_under_autocast(case):
    inputs = case.inputs(torch.float32, requires_grad=False)
    if len(inputs) == 1:
        return
    mixed = [inputs[0], *(t.bfloat16() for t in inputs[1:])]
    with pytest.raises(TypeError):
        case.function(*mixed)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = in_tuple(case.function(*mixed))
    assert all(o.dtype == dtype_of(case, torch.bfloat16) for o in outputs)


@each_case
@pytest.mark.usefixtures("fresh_compiler")
def test_under_the_compiler(case):
    """Autocast inside and around the compiled function gives what eager mode gives."""
    inputs = case.inputs(torch.float32)

    def inside(*tensors):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return case.function(*tensors)

    expected = run(inside, inputs)
    compiled = torch.compile(inside, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(run(compiled, inputs), expected)
    torch._dynamo.reset()
    compiled = torch.compile(case.function, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = in_tuple(compiled(*inputs))
    grads = torch.autograd.grad(sum(o.float().sum() for o in outputs), inputs)
    torch.testing.assert_close((outputs, grads), expected)


def test_disabled_autocast_changes_nothing():
    for case in PUBLIC:
        inputs = case.inputs(torch.float32)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=False):
            outputs = in_tuple(case.function(*inputs))
        assert all(o.dtype == torch.float32 for o in outputs)


F32, F64, BF16, F16 = torch.float32, torch.float64, torch.bfloat16, torch.float16


@each_half
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("dtype", [F32, F64, BF16, F16], ids=str)
def test_bilinear_has_the_dtype_of_torchs(dtype, half, biased):
    shapes = ((4, 3), (4, 5), (6, 3, 5), (6,))
    inputs = [torch.randn(shape, dtype=dtype) for shape in shapes[: 3 + biased]]
    with torch.autocast("cpu", dtype=half):
        assert ntensor.bilinear(*inputs).dtype == F.bilinear(*inputs).dtype


@pytest.mark.parametrize("wide", range(4))
def test_bilinear_of_mixed_dtypes_has_the_widest(wide):
    """What autocast does with torch's function on a GPU; on a CPU that one raises."""
    shapes = ((4, 3), (4, 5), (6, 3, 5), (6,))
    inputs = [torch.randn(s, dtype=F32 if i == wide else BF16) for i, s in enumerate(shapes)]
    with torch.autocast("cpu", dtype=BF16):
        found = ntensor.bilinear(*inputs)
    assert found.dtype is F32
    exact = F.bilinear(*(t.double() for t in inputs))
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)
    with pytest.raises(TypeError, match="must have the dtype of input1"), torch.autocast("cpu"):
        ntensor.bilinear(inputs[0].double(), *inputs[1:])


@each_half
@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize(
    "equation",
    [
        *("bi,bj,oij->bo", "bi,bj,ijo->bo", "bi,bj,ij->b", "ijk,jr,kr->ir", "ir,jr,kr->ijk"),
        *("bi,bj->bij", "bi,bj,bk->bijk", "bi,bj,b->bij", "ijk,ir,jr,r->kr", "bo,bi,bj->oij"),
    ],
)
def test_einsum_has_the_dtype_of_torchs(equation, dtype, half):
    sizes = dict(zip("bijkor", (4, 3, 5, 6, 2, 7), strict=True))
    terms = equation.partition("->")[0].split(",")
    operands = [torch.randn([sizes[label] for label in term], dtype=dtype) for term in terms]
    with torch.autocast("cpu", dtype=half):
        assert ntensor.einsum_path(equation, *operands).kernel != "torch.einsum"
        wanted = torch.einsum(equation, *operands)
        found = ntensor.einsum(equation, *operands)
    assert found.dtype == wanted.dtype
    torch.testing.assert_close(found, wanted, rtol=5e-2, atol=5e-1)


def kept_beside(inputs, call):
    """Bytes of the tensors that autograd keeps and that lie in no memory of the inputs."""
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor), torch.autocast("cpu", dtype=BF16):
        outputs = in_tuple(call(*inputs))
    for tensor in (*inputs, *outputs):
        kept.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(kept.values()), outputs


WITH_A_CORE = {
    "synthesis_projection": lambda core, a, b: ntensor.synthesis_projection(core, a, b),
    "with_mean": lambda core, a, b: ntensor.synthesis_projection_with_mean(core, a, b),
    "mttkrp": lambda core, a, b: ntensor.mttkrp(core, [None, a.mT, b.mT], 0),
    "bilinear": lambda core, a, b: ntensor.bilinear(a, b, core),
}


@pytest.mark.parametrize("name", WITH_A_CORE)
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_no_second_core_is_kept(name, dtype):
    """The core as it was given, cast again for the gradients, which are those of a core that was
    cast once; beside it the factors, as small as they are."""
    core = torch.randn(70, 8, 9, dtype=dtype, requires_grad=True)
    factors = [torch.randn(5, k, requires_grad=True) for k in (8, 9)]
    inputs = [core, *factors]
    kept, outputs = kept_beside(inputs, WITH_A_CORE[name])
    assert kept <= 4 * sum(factor.numel() for factor in factors) < core.numel()
    found = torch.autograd.grad(sum(o.float().sum() for o in outputs), inputs)
    to = F32 if name == "bilinear" else BF16
    by_hand = in_tuple(WITH_A_CORE[name](*(t.to(to) for t in inputs)))
    wanted = torch.autograd.grad(sum(o.float().sum() for o in by_hand), inputs)
    assert all(map(torch.equal, found, wanted))


def test_second_order_through_the_core_that_was_kept():
    """A gradient of a gradient reaches the core through its second cast."""
    inputs = [torch.randn(s, requires_grad=True) for s in ((70, 8, 9), (5, 8), (5, 9))]

    def second(*cast):
        x = ntensor.synthesis_projection(*cast).float()
        first = torch.autograd.grad(x.square().sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), inputs)

    wanted = second(*(t.bfloat16() for t in inputs))
    with torch.autocast("cpu", dtype=BF16):
        found = second(*inputs)
    torch.testing.assert_close(found, wanted, rtol=2e-2, atol=1e-1)


def test_a_core_written_to_before_backward_is_refused():
    core, z = torch.randn(4, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    with torch.autocast("cpu", dtype=BF16):
        x = ntensor.synthesis_projection(core, z)
    with torch.no_grad():
        core.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        x.sum().backward()
