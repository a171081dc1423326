"""The support matrix: every operation under every transform of PyTorch."""

import functools

import pytest
import torch
import torch._dynamo.testing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.library import opcheck
from torch.utils.checkpoint import checkpoint

import ntensor
from backends import each_backend_often, each_dtype
from cases import PUBLIC, REGISTERED, Maker
from comparison import in_tuple
from tolerances import DTYPES

each_case = pytest.mark.parametrize("case", PUBLIC, ids=str)
each_registered = pytest.mark.parametrize("registered", REGISTERED, ids=str)
# Of the dtypes: the types of their results are told as those of float64 and bfloat16 are.
SLOW = (torch.float32, torch.float16)


def loss_of(function):
    """A scalar in which every output counts and no derivative is constant."""

    def loss(*tensors):
        return sum((o * (i + 1)).sin().sum() for i, o in enumerate(in_tuple(function(*tensors))))

    return loss


def forced(case, backend):
    return functools.partial(case.function, backend=backend)


def loss_and_grads(function, inputs):
    loss = loss_of(function)(*inputs)
    return loss, torch.autograd.grad(loss, inputs)


def test_every_registered_operation_has_a_row():
    names = {
        name.split("::")[1].split(".")[0]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("ntensor::")
    }
    assert names == {r.name for r in REGISTERED}


@each_registered
@pytest.mark.parametrize(
    ("dtype", "layout", "n"),
    [
        *(
            pytest.param(dtype, "contiguous", 3, marks=[pytest.mark.slow] * (dtype in SLOW))
            for dtype in DTYPES
        ),
        (torch.float64, "contiguous", 0),
        (torch.float64, "transposed", 3),
    ],
    ids=str,
)
def test_opcheck(registered, dtype, layout, n):
    """The compiled core; every sample of contiguous float64, else the last one."""
    is_plain = dtype is torch.float64 and layout == "contiguous"
    samples = registered.samples if is_plain else registered.samples[-1:]
    for sample in samples:
        new = Maker(dtype, layout, requires_grad=not registered.name.endswith("_"))
        opcheck(registered.op, sample(new, n), {"backend": "native"})


@each_registered
def test_opcheck_of_the_reference(registered):
    for sample in registered.samples:
        new = Maker(torch.float32, "expanded_rows", not registered.name.endswith("_"))
        opcheck(registered.op, sample(new, 3), {"backend": "reference"})


@each_case
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.usefixtures("fresh_compiler")
def test_compile_fullgraph(case, dynamic):
    compiled = torch.compile(
        forced(case, None), fullgraph=True, dynamic=dynamic, backend="aot_eager"
    )
    for seed in (0, 1):
        inputs = case.inputs(seed=seed)
        expected = loss_and_grads(forced(case, None), inputs)
        torch.testing.assert_close(loss_and_grads(compiled, inputs), expected)


@pytest.mark.usefixtures("fresh_compiler")
def test_dynamic_batch_is_compiled_once():
    """Other numbers of samples reuse the graph (numbers that no extent equals)."""
    case = next(c for c in PUBLIC if c.name == "projection-3")
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph

    compiled = torch.compile(forced(case, None), fullgraph=True, dynamic=True, backend=count)
    core = case.inputs()[0]
    for n in (5, 7, 11):
        factors = [torch.randn(n, k, dtype=torch.float64) for k in core.shape[1:]]
        torch.testing.assert_close(compiled(core, *factors), case.definition(core, *factors))
    assert len(graphs) == 1


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("layer", ["MultilinearProjection", "Bilinear"])
def test_sizes_of_batches_in_training_recompile_once(layer):
    """By torch.compile's default: the first other number of samples makes it dynamic for all."""
    build = {
        "MultilinearProjection": lambda: ntensor.nn.MultilinearProjection((3, 4), 6),
        "Bilinear": lambda: ntensor.nn.Bilinear(3, 4, 6),
    }[layer]
    module = build()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(module, fullgraph=True, backend=counter)
    for n in (5, 7, 11, 64, 129):
        inputs = [torch.randn(n, k, requires_grad=True) for k in (3, 4)]
        wanted = [*inputs, *module.parameters()]
        found = torch.autograd.grad(compiled(*inputs).sin().sum(), wanted)
        expected = torch.autograd.grad(module(*inputs).sin().sum(), wanted)
        torch.testing.assert_close(found, expected)
    assert counter.frame_count == 2


@pytest.mark.usefixtures("fresh_compiler")
def test_inductor():
    """One case with two outputs, forward and backward, through the default compiler."""
    case = next(c for c in PUBLIC if c.name == "with_mean-3")
    inputs = case.inputs(torch.float32)
    compiled = torch.compile(forced(case, None), fullgraph=True)
    expected = loss_and_grads(case.definition, inputs)
    torch.testing.assert_close(loss_and_grads(compiled, inputs), expected)


@each_backend_often
@each_case
def test_func_grad(case, backend):
    inputs = case.inputs(requires_grad=False)
    places = tuple(range(len(inputs)))
    ours = torch.func.grad(loss_of(forced(case, backend)), places)(*inputs)
    torch.testing.assert_close(ours, torch.func.grad(loss_of(case.definition), places)(*inputs))


@each_case
def test_func_jacobians(case):
    """Reverse, forward, and vector-Jacobian products, against those of the definition."""
    inputs = case.inputs(requires_grad=False)
    places = tuple(range(len(inputs)))
    ours, plain = forced(case, None), case.definition
    expected = torch.func.jacrev(plain, places)(*inputs)
    torch.testing.assert_close(torch.func.jacrev(ours, places)(*inputs), expected)
    torch.testing.assert_close(torch.func.jacfwd(ours, places)(*inputs), expected)


@each_case
def test_func_hessian(case):
    inputs = case.inputs(requires_grad=False)
    places = tuple(range(len(inputs)))
    expected = torch.func.hessian(loss_of(case.definition), places)(*inputs)
    ours = torch.func.hessian(loss_of(forced(case, None)), places)(*inputs)
    torch.testing.assert_close(ours, expected)


@each_backend_often
@each_case
def test_func_jvp(case, backend):
    """All tangents at once, then one alone: a tangent that is dropped shows."""
    inputs = case.inputs(requires_grad=False)
    tangents = case.inputs(requires_grad=False, seed=1)
    ours, plain = forced(case, backend), case.definition
    for alone in (None, *range(len(inputs))):
        used = [t if alone in (None, i) else torch.zeros_like(t) for i, t in enumerate(tangents)]
        torch.testing.assert_close(
            torch.func.jvp(ours, tuple(inputs), tuple(used)),
            torch.func.jvp(plain, tuple(inputs), tuple(used)),
        )


@each_case
def test_forward_mode_level(case):
    """`torch.autograd.forward_ad` with one dual input beside plain ones."""
    inputs, tangents = case.inputs(requires_grad=False), case.inputs(requires_grad=False, seed=1)
    for place in range(len(inputs)):
        with torch.autograd.forward_ad.dual_level():
            dual = list(inputs)
            dual[place] = torch.autograd.forward_ad.make_dual(inputs[place], tangents[place])
            for ours, plain in zip(
                in_tuple(case.function(*dual)),
                in_tuple(case.definition(*dual)),
                strict=True,
            ):
                tangent = torch.autograd.forward_ad.unpack_dual(ours).tangent
                expected = torch.autograd.forward_ad.unpack_dual(plain).tangent
                zero = torch.zeros_like(ours.detach())
                torch.testing.assert_close(
                    zero if tangent is None else tangent, zero if expected is None else expected
                )


@each_case
def test_per_sample_gradients(case):
    """`vmap` of `grad` over the batch, the core shared."""
    inputs = case.inputs(requires_grad=False)
    places = tuple(range(len(inputs)))
    dims = tuple(None if i in case.cores else 0 for i in places)
    if None not in dims or set(dims) == {None}:
        dims = tuple(0 if i == len(places) - 1 else d for i, d in enumerate(dims))
    stacked = [
        t if d is None else torch.stack([t, t + 1, t * 2])
        for t, d in zip(inputs, dims, strict=True)
    ]

    def per_sample(function):
        grad = torch.func.grad(loss_of(function), places)
        return torch.func.vmap(grad, dims)(*stacked)

    torch.testing.assert_close(per_sample(forced(case, None)), per_sample(case.definition))


@each_backend_often
@each_case
def test_vmap(case, backend):
    """Every input batched, each alone, and all but each; the batch dimension first and last (first
    for a core, which must be contiguous sample by sample)."""
    inputs = case.inputs(requires_grad=False)
    count = len(inputs)
    choices = {tuple([True] * count)}
    choices |= {tuple(i == j for i in range(count)) for j in range(count)}
    choices |= {tuple(i != j for i in range(count)) for j in range(count)}
    for batched in sorted(c for c in choices if any(c)):
        for place in (0, -1):
            dims = tuple(
                (0 if i in case.cores else place) if b else None for i, b in enumerate(batched)
            )
            stacked = [
                t if dim is None else torch.stack([t, t + 1, t * 2], dim=dim)
                for t, dim in zip(inputs, dims, strict=True)
            ]
            ours = torch.func.vmap(forced(case, backend), dims)(*stacked)
            plain = torch.func.vmap(case.definition, dims)(*stacked)
            torch.testing.assert_close(ours, plain)


@each_case
def test_nested_vmap(case):
    inputs = [torch.stack([t, t + 1]) for t in case.inputs(requires_grad=False)]
    inputs = [torch.stack([t, t * 2, t * 3]) for t in inputs]

    def twice(function):
        return torch.func.vmap(torch.func.vmap(function))(*inputs)

    torch.testing.assert_close(twice(forced(case, None)), twice(case.definition))


@each_case
def test_checkpoint(case):
    inputs = case.inputs()

    def again(*tensors):
        return checkpoint(forced(case, None), *tensors, use_reentrant=False)

    torch.testing.assert_close(
        loss_and_grads(again, inputs), loss_and_grads(case.definition, inputs)
    )


@each_backend_often
@each_case
def test_inference_mode_and_no_grad(case, backend):
    inputs = case.inputs()
    expected = tuple(o.detach() for o in in_tuple(case.definition(*inputs)))
    for mode in (torch.inference_mode, torch.no_grad):
        with mode():
            outputs = in_tuple(case.function(*inputs, backend=backend))
            assert not any(o.requires_grad for o in outputs)
            torch.testing.assert_close(outputs, expected)


@each_case
@each_dtype
def test_meta_and_fake_tensors(case, dtype):
    """Shapes, dtypes and strides of the fake kernels equal the real ones."""
    real = in_tuple(case.function(*case.inputs(dtype, requires_grad=False)))
    meta = in_tuple(case.function(*(t.to("meta") for t in case.inputs(dtype, requires_grad=False))))
    with FakeTensorMode() as mode:
        inputs = [mode.from_tensor(t) for t in case.inputs(dtype)]
        outputs = in_tuple(case.function(*inputs))
        grads = torch.autograd.grad(sum(o.sum() for o in outputs), inputs)
    assert [g.shape for g in grads] == [t.shape for t in inputs]
    for expected, *others in zip(real, meta, outputs, strict=True):
        for other in others:
            assert other.shape == expected.shape
            assert other.dtype == expected.dtype
            assert other.stride() == expected.stride()
    assert all(m.device.type == "meta" for m in meta)


class Holder(torch.nn.Module):
    """A case as a module, for export."""

    def __init__(self, case):
        super().__init__()
        self.case = case

    def forward(self, *tensors):
        return self.case.function(*tensors)


@each_case
@pytest.mark.parametrize("strict", [False, True], ids=["non-strict", "strict"])
@pytest.mark.usefixtures("fresh_compiler")
def test_export(case, strict):
    """The exported graph holds the registered operation and takes any number of samples."""
    inputs = tuple(case.inputs(requires_grad=False))
    batch = torch.export.Dim("batch", min=2, max=64)
    shapes = tuple(None if i in case.cores else {0: batch} for i in range(len(inputs)))
    dynamic = any(s is not None for s in shapes)
    program = torch.export.export(
        Holder(case),
        inputs,
        dynamic_shapes={"tensors": shapes} if dynamic else None,
        strict=strict,
    )
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert any(target.startswith("ntensor.") for target in called)
    other = tuple(
        t if i in case.cores else torch.cat([t, t + 1, t * 2]) for i, t in enumerate(inputs)
    )
    torch.testing.assert_close(program.module()(*other), case.definition(*other))
